"""notebooks/sweep.py: real tiny runs; nothing is trained twice, and what is kept is what a run gives."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from core_checks import tiny
from scipy.stats import t as student

import semppl_mini as s
from semppl_mini.data import pick
from semppl_mini.files import write_pack
from semppl_mini.keeping.command import command

SCRIPT = Path(__file__).resolve().parents[2] / "notebooks" / "sweep.py"
spec = importlib.util.spec_from_file_location("sweep", SCRIPT)
sweep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sweep)

PRESET = tiny(labels=20)
QUESTIONS = {"k": (1, 3), "semantic_positives": (0, 3)}  # 1 and 3 are the preset's own
RUNS = {f"epochs=1{change}-seed={seed}.json"
        for change in ("", "-k=3", "-semantic_positives=0") for seed in (0, 1)}  # fmt: skip


def rows_of(pack, folder, questions=QUESTIONS, seeds=2, preset=PRESET):
    return sweep.sweep(preset, questions, seeds, 1, pack, folder)


def make_pack(folder, test=None, train=slice(None)):
    """200 colour digits as a pack, with 30 images to test on, or other ones."""
    data = s.load_data("digits")
    chosen, train = train, data.train.take(pick(data.train.truth, 200, 10, seed=1))
    test = data.test.images[:30] if test is None else test
    splits = {"train": (train.images[chosen], train.truth[chosen]), "test": (test, data.test.truth[: len(test)])}
    return write_pack(folder / "tiny.npz", splits, data.classes, "a slice of the digits")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def kept(pack, tmp_path_factory):
    """(folder, rows) of a finished sweep, which no test changes."""
    folder = tmp_path_factory.mktemp("kept") / "sweep"
    return folder, rows_of(pack, folder)


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of its results folder."""
    return Path(shutil.copytree(kept[0], tmp_path / "sweep"))


@pytest.fixture
def trained(monkeypatch):
    """The configs that `fit` is called with during the test."""
    configs, fit = [], s.fit

    def spy(config, *args, **kwargs):
        configs.append(config)
        return fit(config, *args, **kwargs)

    monkeypatch.setattr(s, "fit", spy)
    return configs


def test_the_shared_default_runs_once(kept, pack):
    folder, rows = kept
    name = f"tiny-{sweep.images_of(s.load_data(pack))[:8]}"  # two packs may be called tiny
    assert {path.name for path in folder.iterdir()} == {f"{name}-{run}" for run in RUNS}  # and no half-written file
    assert [(row["question"], row["value"], row["own"], row["seed"]) for row in rows] == [
        (question, value, own, seed)
        for seed in (0, 1)
        for question, value, own in [
            ("k", 1, True), ("k", 3, False), ("semantic_positives", 0, False), ("semantic_positives", 3, True)]
    ]  # fmt: skip
    for seed in (0, 1):
        first, second = ([row[name] for name in (*sweep.MEASURES, "seconds")] for row in rows
                         if row["own"] and row["seed"] == seed)  # fmt: skip
        assert first == second


def test_a_row_is_what_fit_and_evaluate_give_on_the_validation_images(kept, pack):
    config = PRESET.replace(k=3, seed=1, epochs=1)
    data = s.load_data(pack, 20)
    run = s.fit(config, data, progress=False)
    accuracy = s.evaluate(run.method.encoder, config, data, split="val")
    (row,) = [row for row in kept[1] if (row["value"], row["seed"], row["question"]) == (3, 1, "k")]
    assert row["pseudo_label_accuracy"] == run.history[-1]["pseudo_label_accuracy"]
    assert (row["knn20"], row["linear"]) == (accuracy["knn20"], accuracy["linear"])


def test_the_test_images_are_not_read(kept, tmp_path):
    other = make_pack(tmp_path, test=torch.zeros(3, 3, 32, 32, dtype=torch.uint8))
    rows = rows_of(other, tmp_path / "sweep", {"k": (1,)}, seeds=1)
    assert [rows[0][name] for name in sweep.MEASURES] == [kept[1][0][name] for name in sweep.MEASURES]


def test_labels_of_a_cell_are_those_that_are_visible(pack, tmp_path, monkeypatch):
    counts, fit = [], s.fit

    def spy(config, data, *args, **kwargs):
        counts.append(int((data.train.labels >= 0).sum()))
        return fit(config, data, *args, **kwargs)

    monkeypatch.setattr(s, "fit", spy)
    rows = rows_of(pack, tmp_path, {"labels": (10, 40)}, seeds=1)
    assert counts == [10, 20, 40] and [row["value"] for row in rows] == counts
    assert rows[0]["knn20"] is None and rows[1]["knn20"] is not None  # 10 labels are no bank for 20 neighbours
    assert sweep.table(rows).splitlines()[1].split()[3] == "-"


def test_a_run_of_a_relative_is_kept_with_its_history_and_trained_once(pack, tmp_path, trained):
    config, data = PRESET.replace(method="carp", prototypes=12, block=4, epochs=1), s.load_data(pack, 20)
    row = sweep.kept_run("carp", config, data, tmp_path)
    assert len(row["history"]) == 2 and "L_c" in row["history"][-1] and row["pseudo_label_accuracy"] is None
    assert sweep.kept_run("carp", config, data, tmp_path) == row and len(trained) == 1


def test_merged_classes_keep_images_and_hidden_labels_apart(pack):
    data = s.load_data(pack, 20)
    group = tuple(c % 2 for c in range(len(data.classes)))
    coarse = sweep.merged(data, group, ["even", "odd"])
    for one, other in ((data.train, coarse.train), (data.val, coarse.val), (data.test, coarse.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.truth % 2, other.truth)
        assert torch.equal(torch.where(one.labels < 0, -1, one.labels % 2), other.labels)
    assert coarse.classes == ["even", "odd"] and int((coarse.train.labels >= 0).sum()) == 20


def test_files_are_small_and_hold_no_steps(kept):
    for path in kept[0].iterdir():
        result = json.loads(path.read_text())
        assert set(result) == {"data", "images", "config", "seconds", "last", *sweep.MEASURES}
        assert len(result["pseudo_label_accuracy"]) == 2 and result["last"]["epoch"] == 1
        assert path.stat().st_size < 5000


# ---- nothing is trained twice


def test_a_second_call_trains_nothing(kept, pack, trained, capsys):
    assert rows_of(pack, kept[0]) == kept[1]
    assert not trained and "6 runs, 0 of them still to do" in capsys.readouterr().out


def test_a_finished_sweep_of_a_named_pack_needs_no_data(pack, tmp_path, monkeypatch, trained):
    monkeypatch.setenv("SEMPPL_DATA", str(pack.parent))
    rows = rows_of("tiny", tmp_path, {"k": (1,)}, seeds=1)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-epochs=1-seed=0.json"]
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path / "nowhere"))
    assert rows_of("tiny", tmp_path, {"k": (1,)}, seeds=1) == rows and len(trained) == 1
    with pytest.raises(ValueError, match="There is no data pack nowhere/tiny.npz"):
        rows_of("nowhere/tiny.npz", tmp_path, {"k": (1,)}, seeds=1)


def test_packs_of_one_name_share_no_runs(kept, pack, tmp_path, monkeypatch, trained, capsys):
    """By path both are kept side by side; by name, in another SEMPPL_DATA, the runs of the one are made again."""
    other = make_pack(tmp_path, train=slice(20, None))
    (row,) = rows_of(other, kept[0], {"k": (1,)}, seeds=1)
    assert len(trained) == 1 and row["knn20"] != kept[1][0]["knn20"]
    assert rows_of(pack, kept[0])[0] == kept[1][0] and len(trained) == 1
    (kept[0] / f"{sweep.named(other)[0]}-epochs=1-seed=0.json").unlink()  # others count its files
    for count, folder in ((2, pack.parent), (3, other.parent)):
        monkeypatch.setenv("SEMPPL_DATA", str(folder))
        rows_of("tiny", tmp_path / "by-name", {"k": (1,)}, seeds=1)
        assert len(trained) == count
    assert "tiny-epochs=1-seed=0.json is of other images: this run is done again." in capsys.readouterr().out


def test_labels_that_no_seed_draws_are_part_of_what_is_kept(pack, tmp_path, trained):
    """Two choices of as many labels share no run; and labels of another seed than the config's are refused."""
    config, drawn = PRESET.replace(epochs=1), [s.load_data(pack, 20, seed) for seed in (0, 1)]
    chosen = [dataclasses.replace(data, label_seed=None) for data in drawn]
    for count, data in ((1, chosen[0]), (1, chosen[0]), (2, chosen[1])):
        sweep.kept_run("run", config, data, tmp_path)
        assert len(trained) == count
    with pytest.raises(ValueError, match="label_seed = 0, but the data's labels were drawn by 1"):
        sweep.kept_run("run", config, drawn[1], tmp_path)
    assert sweep.merged(drawn[1], tuple(c % 2 for c in range(10)), ["a", "b"]).label_seed == 1


def test_names_of_packs_that_begin_alike_are_apart(pack, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path / "nowhere"))
    assert len({sweep.named(name)[0] for name in ("my", "my.set", "my.set2", "sub/my", "digits")}) == 5


def test_images_of_a_run_are_those_of_any_labels(pack):
    few, all_ = s.load_data(pack, 20), s.load_data(pack)
    assert sweep.images_of(few) == sweep.images_of(all_)
    assert sweep.images_of(few) != sweep.images_of(sweep.merged(few, tuple(c % 2 for c in range(10)), ["a", "b"]))


def test_ctrl_c_says_what_a_command_can_do(pack, tmp_path, monkeypatch, capsys):
    """Not fit(..., resume=run), which nobody has on a command line. What ran goes to --out."""
    right, argv = s.fit, ["sweep.py", "--questions", "k", "--seeds", "1", "--epochs", "1", "--data", str(pack)]
    monkeypatch.setattr(s.presets, "named", lambda name: PRESET)
    monkeypatch.setattr("sys.argv", [*argv, "--out", str(tmp_path / "out")])

    def stop(config, data, callbacks=(), **more):
        ask = [lambda *_: os.kill(os.getpid(), signal.SIGINT)] if config.k == 5 else []
        return right(config, data, callbacks=[*callbacks, *ask], **more)

    monkeypatch.setattr(s, "fit", stop)
    with pytest.raises(SystemExit) as end:
        command(sweep.main, "notebooks/sweep.py")
    assert end.value.code == 130
    words = "of 11: the runs that had ended are kept, and the same command begins this one again.\n"
    assert capsys.readouterr().err.endswith(words)
    assert [path.name.partition("-epochs")[2] for path in (tmp_path / "out").iterdir()] == ["=1-seed=0.json"]


def test_a_further_seed_or_value_runs_alone(folder, pack, trained):
    rows_of(pack, folder, {"k": (1, 2, 3)}, seeds=3)
    assert [(config.k, config.seed) for config in trained] == [(2, 0), (2, 1), (1, 2), (2, 2), (3, 2)]


def test_a_stopped_sweep_keeps_what_had_ended(pack, tmp_path, monkeypatch, trained):
    spy = s.fit

    def stop(config, *args, **kwargs):
        if trained:
            raise KeyboardInterrupt
        return spy(config, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(s, "fit", stop)
        rows_of(pack, tmp_path, {"k": (3,)}, seeds=1)
    assert [path.name.partition("-epochs")[2] for path in tmp_path.iterdir()] == ["=1-seed=0.json"]
    rows_of(pack, tmp_path, {"k": (3,)}, seeds=1)
    assert [config.k for config in trained] == [1, 3]


def test_a_file_appears_whole_or_not_at_all(pack, tmp_path, monkeypatch):
    def power_cut(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        rows_of(pack, tmp_path, {"k": (1,)}, seeds=1)
    assert not list(tmp_path.glob("*.json"))


def other_settings(text):
    result = json.loads(text)
    return json.dumps(result | {"config": result["config"] | {"tau": 0.5, "alpha": 0.7}})


@pytest.mark.parametrize("damage, reason", [
    (lambda text: text[: len(text) // 2], "is damaged or half written"),
    (lambda text: "", "is damaged or half written"),
    (lambda text: "[1, 2]", "is damaged or half written"),
    (lambda text: json.dumps({**json.loads(text), "pseudo_label_accuracy": []}), "is damaged or half written"),
    (lambda text: json.dumps({"config": json.loads(text)["config"]}), "is damaged or half written"),
    (other_settings, "is of a run with another tau, alpha"),
])  # fmt: skip
def test_a_file_of_no_use_is_made_again(folder, kept, pack, trained, capsys, damage, reason):
    (path,) = folder.glob("*-epochs=1-k=3-seed=1.json")
    path.write_text(damage(path.read_text()))
    rows = rows_of(pack, folder)
    assert f"{path.name} {reason}: this run is done again." in capsys.readouterr().out
    assert [(config.k, config.seed) for config in trained] == [(3, 1)]
    without = [{name: row[name] for name in row if name != "seconds"} for row in rows + kept[1]]
    assert without[: len(rows)] == without[len(rows) :]
    assert rows_of(pack, folder) == rows and len(trained) == 1  # it is whole again


def test_a_field_that_came_later_does_not_void_what_is_kept(folder, kept, pack, trained):
    """Files of an older version lack the fields added since: these count as their defaults."""
    for path in folder.iterdir():
        result = json.loads(path.read_text())
        del result["config"]["knn_chunk_mb"], result["images"]
        path.write_text(json.dumps(result))
    assert rows_of(pack, folder) == kept[1] and not trained


# ---- what is asked


@pytest.mark.parametrize("questions", [["k", "alfa"], {"k": (1, 2), "alfa": (0, 1)}])
def test_an_unknown_question_is_one_sentence(questions, tmp_path):
    with pytest.raises(ValueError, match=r"^There is no question 'alfa'; choose among k, .*, labels\.$"):
        rows_of("nowhere.npz", tmp_path / "sweep", questions)
    assert not (tmp_path / "sweep").exists()


def test_a_name_without_values_is_no_question():
    with pytest.raises(ValueError, match="There is no question 'tau'; choose among"):
        sweep.grid(PRESET, ["tau"], 1, 1)
    assert [cell[1] for cell in sweep.grid(PRESET, {"tau": [0.5]}, 1, 1)] == [0.2, 0.5]


def test_no_seed_is_one_sentence():
    with pytest.raises(ValueError, match=r"^seeds = 0 leaves nothing to run; give 1 or more\.$"):
        sweep.grid(PRESET, ["k"], 0, 1)


@pytest.mark.parametrize("preset", ["digits", "cifar10_cpu"])
def test_the_grid_changes_one_field_at_a_time(preset):
    preset = getattr(s.presets, preset)()
    cells = sweep.grid(preset, tuple(sweep.QUESTIONS), 1, 8)
    base = preset.replace(epochs=8, voting_views=preset.large_views)
    for name, value, own, config in cells:
        assert config == base.replace(**{name: value}) and own == (config == base)
    others = sum(len({*values} - {getattr(base, name)}) for name, values in sweep.QUESTIONS.items())
    assert len({cell[3] for cell in cells}) == 1 + others
    values = [value for name, value, _, _ in cells if name == "labelled_share"]
    assert values[0] is None and values[1:] == sorted(values[1:])


# ---- what is shown


def test_table_has_means_deviations_and_a_star(kept):
    lines = sweep.table(kept[1]).splitlines()
    assert lines[0].split() == [*sweep.MEASURES, "seconds", "a", "run"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["k", "1"], ["k", "3"], ["semantic_positives", "0"], ["semantic_positives", "3"]]  # fmt: skip
    assert ["*" in line for line in lines[1:]] == [True, False, False, True]
    for measure, at in zip(sweep.MEASURES, (2, 5, 8), strict=True):  # "k 3 mean ± deviation ..."
        shares = [row[measure] for row in kept[1] if (row["question"], row["value"]) == ("k", 3)]
        expected = f"{100 * np.mean(shares):.1f}%", "±", f"{100 * np.std(shares, ddof=1):.1f}%"
        assert tuple(lines[2].split()[at : at + 3]) == expected


def test_rows_suit_the_figure(kept):
    axes = sweep.sweep_panels(kept[1], list(QUESTIONS)).axes
    assert [[text.get_text() for text in ax.get_xticklabels()] for ax in axes] == [["1", "3"], ["0", "3"]]
    shares = [row["pseudo_label_accuracy"] for row in kept[1] if row["question"] == "k" and row["value"] == 3]
    assert axes[0].lines[0].get_ydata()[1] == pytest.approx(np.mean(shares))


# ---- what notebook 03 says of the kept runs

SAID = [  # (one, other, measure): the difference and its interval stand in the notebook's text
    ("k=5", "", "pseudo_label_accuracy"), ("k=20", "", "pseudo_label_accuracy"),
    ("", "voting_views=1", "pseudo_label_accuracy"), ("", "voting_views=1", "knn20"), ("", "voting_views=1", "linear"),
    ("alpha=0.0", "semantic_positives=0", "pseudo_label_accuracy"),
    ("alpha=0.3", "alpha=0.0", "pseudo_label_accuracy"), ("", "alpha=0.3", "pseudo_label_accuracy"),
    ("semantic_positives=1", "semantic_positives=0", "pseudo_label_accuracy"),
    ("", "semantic_positives=1", "pseudo_label_accuracy"), ("semantic_positives=10", "", "pseudo_label_accuracy"),
    ("semantic_positives=0", "", "knn20"),
    ("queue=128", "", "pseudo_label_accuracy"), ("queue=5120", "", "pseudo_label_accuracy"),
    ("", "labelled_share=0.25", "pseudo_label_accuracy"), ("labelled_share=0.75", "", "pseudo_label_accuracy"),
    ("", "labels=20", "pseudo_label_accuracy"), ("labels=500", "", "pseudo_label_accuracy"),
    ("labels=500", "", "linear"),
]  # fmt: skip


@pytest.mark.parametrize("one, other, measure", SAID)
def test_notebook_03_says_the_paired_differences_of_the_kept_runs(one, other, measure):
    def percent(change, seed):
        name = f"digits-epochs=6-{change}{'-' * bool(change)}seed={seed}.json"
        value = json.loads((SCRIPT.parent / "results" / "sweep" / name).read_text())[measure]
        return 100 * (value[-1] if isinstance(value, list) else value)

    difference = [percent(one, seed) - percent(other, seed) for seed in range(3)]
    mean, half = np.mean(difference), student.ppf(0.975, 2) * np.std(difference, ddof=1) / 3**0.5
    notebook = json.loads((SCRIPT.parent / "03_ablations.ipynb").read_text())
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]" in text
