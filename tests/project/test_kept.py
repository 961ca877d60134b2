"""Kept encoders: small, whole, with a card; they have the figures of the card, and vote as their run did."""
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from core_checks import tiny, tiny_data

import semppl_mini as s
from semppl_mini.readout import inspect
from semppl_mini.readout.evaluation import share_right

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "notebooks"))
keep = importlib.import_module("keep")

FOLDERS = sorted(path for path in keep.ENCODERS.iterdir() if path.is_dir())
RESULTS = {"semppl-500-seed0": ROOT / "notebooks" / "results" / "semppl-500-seed0.json"}


def stated(folder):
    """The figures of a card, by name."""
    (row,) = re.findall(r"^\| figures \| (.*) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    return {name: float(x) for name, x in re.findall(r"(\w+) ([\d.e-]+)", row)}


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request):
    return request.param


def test_some_are_kept_and_not_too_many():
    assert {"semppl-digits-seed0", "semppl-500-seed0"} <= {path.name for path in FOLDERS}
    assert len(FOLDERS) <= 4


def test_files_are_small_and_whole(folder):
    assert {"README.md", "run.json", "encoder.safetensors", "method.safetensors"} == {p.name for p in folder.iterdir()}
    assert all(path.stat().st_size <= 4_500_000 for path in folder.iterdir())


def test_a_card_says_where_it_is_from(folder):
    card = (folder / "README.md").read_text()
    for row in ("data", "command", "seed", "epochs", "figures", "rounded", "made with", "licence"):
        assert re.search(rf"^\| {row} \| \S.* \|$", card, re.MULTILINE), row


def test_it_loads_as_the_finished_run_of_its_card(folder):
    run = keep.load(folder.name)
    told, card = json.loads((folder / "run.json").read_text()), stated(folder)
    assert run.finished and run.data == told["provenance"] and run.method.num_classes == len(told["classes"])
    if "pseudo_label_accuracy" in card:
        assert run.history[-1]["pseudo_label_accuracy"] == pytest.approx(card["pseudo_label_accuracy"], rel=1e-3)
    with torch.no_grad():
        features = run.method.encode(torch.zeros(2, 3, *told["size"]))
    assert features.shape == (2, run.method.encoder.dim) and features.isfinite().all()


@pytest.mark.parametrize("name", [path.name for path in FOLDERS if path.name.startswith("semppl")])
def test_its_queues_are_full_of_labelled_embeddings(name):
    run = keep.load(name)
    queue, classes = run.method.queue, run.method.num_classes
    assert queue.labels.min() == 0 and queue.labels.max() == classes - 1 and int(queue.filled) == run.config.queue
    assert len(queue.ids.unique()) == run.config.labels  # every labelled image is in it
    assert (queue.keys.norm(dim=-1) - 1).abs().max() < 2e-3  # 16 bits


@pytest.mark.parametrize("name, file", RESULTS.items())
def test_a_card_has_the_figures_of_the_results(name, file):
    results, card = json.loads(file.read_text()), stated(keep.ENCODERS / name)
    for measure in ("knn20", "linear"):
        assert card[measure] == pytest.approx(results["results"][measure], abs=5e-5)
    assert keep.load(name).config == s.Config.from_dict(results["config"])


@pytest.fixture(scope="module")
def digits():
    run = keep.load("semppl-digits-seed0")
    return run, s.data_for(run.config)


def test_digits_have_the_figures_of_the_card(digits):
    run, data = digits
    found, card = s.evaluate(run.method.encoder, run.config, data), stated(run.folder)
    for measure in ("knn20", "linear"):  # of 1,000 images three may turn by rounding, on other processors too
        assert found[measure] == pytest.approx(card[measure], abs=0.003)


def test_digits_vote_as_well_as_the_run_did(digits):
    run, data = digits
    report = inspect(run.method, data.test)
    assert share_right(report["y_bar"], data.test.truth) == pytest.approx(0.922, abs=0.005)  # of the run in 32 bits


def test_a_kept_run_is_found_by_its_settings_and_images(folder, monkeypatch):
    run = keep.load(folder.name)
    monkeypatch.setattr(keep, "check_labels", lambda config, data: None)
    data = SimpleNamespace(provenance=run.data)
    assert keep.find(run.config, data).folder == folder
    assert keep.find(run.config.replace(epochs=1), data) is None
    assert keep.find(run.config, SimpleNamespace(provenance="CIFAR-10 (of other images)")) is None


def test_of_other_labels_no_run_is_looked_for():
    config = keep.load("semppl-digits-seed0").config
    assert keep.find(config, s.data_for(config)).folder.name == "semppl-digits-seed0"
    with pytest.raises(ValueError, match="labels were drawn by 7"):
        keep.find(config, s.load_data("digits", 100, 7))


# ---- keeping one

METHODS = {
    "semppl": {},
    "ifnd": dict(method="ifnd", labelled_share=None, clusters=(4, 8), recluster=1),
    "carp": dict(method="carp", labelled_share=None, prototypes=32, block=4),
}


@pytest.fixture(scope="module", params=METHODS)
def one(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / request.param
    return s.fit(tiny(epochs=2, **METHODS[request.param]), tiny_data(), folder, progress=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return s.fit(tiny(epochs=1), tiny_data(), tmp_path_factory.mktemp("runs") / "small", progress=False)


def test_a_kept_run_is_the_run_to_the_rounding(one, tmp_path):
    keep.keep(s.load_run(one.folder), tmp_path / "out")
    small, kept = one, keep.load(keep.keep(s.load_run(one.folder), tmp_path / "out"))  # a second time
    assert kept.config == small.config and kept.history == small.history
    other = "online." if small.config.method == "carp" else "target."  # CARP is read out from its teacher
    for name, x in small.method.state_dict().items():
        if not name.startswith(other):
            assert torch.allclose(kept.method.state_dict()[name].to(x), x, rtol=1e-3, atol=1e-6), name
    asked = tiny_data().test
    gap = (kept.method.encode(asked.images) - small.method.encode(asked.images)).abs().max()
    assert gap < 5e-3 * small.method.encode(asked.images).abs().max()
    assert not torch.equal(kept.method.encoder.stem[0].weight, small.method.encoder.stem[0].weight)  # it was rounded


def test_an_unfinished_or_large_run_is_refused_and_nothing_written(small, tmp_path, monkeypatch):
    run = s.load_run(small.folder)
    monkeypatch.setattr(keep, "MOST", 1000)
    with pytest.raises(ValueError, match="MB, more than 0.001 MB; keep a smaller network"):
        keep.keep(run, tmp_path / "out")
    run.history.pop()
    with pytest.raises(ValueError, match="has 0 of 1 epochs; finish it first"):
        keep.keep(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_not_kept_is_refused():
    with pytest.raises(ValueError, match="no kept run 'mine'; choose one of .*semppl-digits-seed0"):
        keep.load("mine")
