"""The board of claims: what interventions promise, the rule, and that verdicts and figures are those of the files."""

import dataclasses
import functools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare
from core_checks import array, differing, hidden_permuted, step_inputs, tiny, tiny_data, units, weights
from scipy import stats

import semppl_mini as s
from semppl_mini.files import write_pack
from semppl_mini.keeping import class_of
from semppl_mini.keeping.command import command
from semppl_mini.readout import untrained_encoder
from semppl_mini.relatives import CARP

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))
import arms  # noqa: E402
import board  # noqa: E402
import claims  # noqa: E402
import interventions as change  # noqa: E402

KINDS = {arm.kind for arm in arms.ARMS.values() if arm.kind}
ON_DIGITS = [name for name in arms.ARMS if any(name in c.arms and "digits" in c.on for c in claims.CLAIMS)]

# ---- interventions: what is asked, and nothing else


def steps(kind, count=8, **changes):
    """A tiny SemPPL of this class, and what each of its first steps saw, with the step's batch."""
    config = tiny(labelled_share=0.25, **changes)
    trainer, seen = Bare(config, tiny_data().train, kind=kind), []
    forward = trainer.method.forward

    def spy(views, batch, draws):
        loss, saw = forward(views, batch, draws)
        seen.append((batch, saw))
        return loss, saw

    trainer.method.forward = spy
    for step in range(count):
        trainer.step(step)
    return trainer.method, seen


def test_flips_are_drawn_by_the_seed():
    kind = change.with_(change.Flipped, share=0.5)
    assert not torch.equal(*(kind(tiny(seed=seed), 10, 64).shift for seed in (0, 1)))


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_flips_change_the_share_that_is_asked_of_unlabelled_votes_alone(share):
    method, seen = steps(change.with_(change.Flipped, share=share))
    hit = method.shift > 0
    assert int(hit.sum()) == round(share * len(hit)) and 0 <= int(method.shift.min()) <= int(method.shift.max()) < 10
    for batch, saw in seen:
        unlabelled, voted = batch.labels < 0, saw["voted"] >= 0
        assert torch.equal(saw["y_bar"][~unlabelled], batch.labels[~unlabelled])
        assert torch.equal((saw["y_bar"] != saw["voted"])[unlabelled & voted], hit[batch.ids][unlabelled & voted])
        assert (saw["y_bar"][unlabelled & ~voted] == -1).all() and int(saw["y_bar"].max()) < 10


def test_flips_are_spread_over_all_other_classes():
    config = tiny()
    shift = change.with_(change.Flipped, share=0.9)(config, 10, 5000).shift
    count = shift.bincount(minlength=10)
    assert count[0] == 500 and stats.chisquare(count[1:].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("kind", [change.Relabelled, change.with_(change.Flipped, share=0.0),
                                  change.with_(change.Frozen, part=1)])  # fmt: skip
def test_an_intervention_that_asks_for_nothing_is_semppl_to_the_bit(kind):
    config = tiny(labelled_share=0.25)
    one, other = (s.fit(config, tiny_data(), progress=False, method=method) for method in (None, kind))
    own = {name: value for name, value in weights(other).items() if name not in ("shift", "kept")}
    assert not differing(weights(one), own)
    assert [r["pseudo_label_accuracy"] for r in one.history] == [r["pseudo_label_accuracy"] for r in other.history]


def test_flips_leave_the_other_terms_of_a_step_alone():
    config = tiny(labelled_share=0.25)
    plain, flipped = s.SemPPL(config, 10), change.with_(change.Flipped, share=0.5)(config, 10, 64)
    for step in range(2):  # in the first the queue fills
        x, batch, draws = step_inputs(config, 10, step, torch.device("cpu"))
        batch = batch._replace(ids=batch.ids % 64)
        (_, one), (_, other) = plain(x, batch, draws), flipped(x, batch, draws)
    for term in ("L_augm", "I_augm"):
        assert torch.equal(one["terms"][term], other["terms"][term])
    assert torch.equal(one["voted"], other["voted"]) and torch.equal(one["votes"], other["votes"])
    assert not torch.equal(one["y_bar"], other["y_bar"])


def test_frozen_labels_are_the_latest_of_the_live_epochs_and_stay():
    each = len(tiny_data().train) // 16
    method, seen = steps(change.with_(change.Frozen, part=0.5), 4 * each, epochs=4)  # two epochs live, two frozen
    latest, kept_votes = {}, 0
    for step, (batch, saw) in enumerate(seen):
        for i in (batch.labels < 0).nonzero()[:, 0].tolist():
            id_, used, voted = int(batch.ids[i]), int(saw["y_bar"][i]), int(saw["voted"][i])
            frozen = step >= 2 * each and latest.get(id_, -1) >= 0
            assert used == (latest[id_] if frozen else voted)
            kept_votes += frozen and used != voted
            latest[id_] = used
    assert kept_votes  # the votes went on, and would have said something else


def test_one_view_has_the_votes_of_the_first_view():
    config, o = tiny(large_views=4), units(4, 5, 8)
    methods = [kind(config, 10) for kind in (s.SemPPL, change.OneView)]
    for method in methods:
        method.queue.enqueue(units(4, 12, 8, seed=1), torch.arange(12) % 10, torch.arange(12))
    all_votes, one = (method.vote(o)[1] for method in methods)
    assert all_votes.shape == (5, 16) and torch.equal(one, all_votes[:, :4])


def byol_loop(o, z, t, own, tau):
    return 2 - 2 * (o * z).sum()


def simclr_loop(o, z, t, own, tau):
    negatives = [np.exp(o @ t[n] / tau) for n in range(len(t)) if not own[n]]
    positive = np.exp(o @ z / tau)
    return -np.log(positive / (positive + sum(negatives)))


@pytest.mark.parametrize("kind, loop", [(change.BYOLLike, byol_loop), (change.SimCLRLike, simclr_loop)])
def test_other_losses_are_those_of_loops(kind, loop):
    L, B, R, D = 2, 5, 3, 8
    o, t, z = units(L, B, D), units(L, B, D, seed=1), units(L, B, R, D, seed=2)
    ids = torch.tensor([0, 1, 2, 1, 4])
    own = ids[:, None] == ids
    found, tau = kind(tiny(), 10).compare(o, z, t, own), 0.2
    for i, j, m, r in np.ndindex(L, L, B, R):
        wanted = loop(*map(array, (o[i, m], z[j, m, r], t[j], own[m])), tau)
        assert float(found[i, j, m, r]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", [change.BYOLLike, change.SimCLRLike])
def test_other_losses_add_semantic_positives_by_alpha_and_leave_same_views_out(kind):
    config = tiny(small_views=0, labelled_share=0.25, c=1.0, alpha=0.5)
    method = kind(config, 10)
    for step in range(3):
        x, batch, draws = step_inputs(config, 10, step, torch.device("cpu"))
        before = step == 2 and [p.clone() for p in method.target.parameters()]
        loss, saw = method(x, batch, draws)
    terms = saw["terms"]
    assert float(loss.detach()) == pytest.approx(float((terms["L_augm"] + 0.5 * terms["L_sempos"]).detach()), rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, method.target.parameters(), strict=True))
    o, t = torch.stack([method.predict(v) for v in x]), torch.stack([method.project(v) for v in x])
    pairs = method.compare(o, t[:, :, None], t, batch.ids[:, None] == batch.ids).detach()
    assert float(terms["L_augm"].detach()) == pytest.approx(float((pairs[0, 1] + pairs[1, 0]).mean()) / 2, rel=1e-3)
    assert torch.equal(saw["z_labels"][saw["valid"]], saw["y_bar"][saw["valid"]][:, None].expand(-1, 3))


def test_fixed_partitions_are_those_of_step_0():
    config = tiny(method="carp", prototypes=12, block=4)
    first = CARP.draw(config, 0).blocks
    assert all(torch.equal(change.FixedPartitions.draw(config, step).blocks, first) for step in (0, 1, 7))
    assert not torch.equal(CARP.draw(config, 1).blocks, first)
    assert not torch.equal(change.FixedPartitions.draw(config.replace(seed=1), 0).blocks, first)


def test_textures_change_backgrounds_alone_and_tell_the_class_in_training_only():
    data = tiny_data()
    given = change.textured(data)
    assert given.test is data.test
    for one, other in ((data.train, given.train), (data.val, given.val)):
        ground = (one.masks == 0).expand(-1, 3, -1, -1)
        assert torch.equal(one.images[~ground], other.images[~ground])
        assert (one.images[ground] != other.images[ground]).float().mean() > 0.8
        for name in ("labels", "ids", "truth", "masks"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        shift = (other.images.float() - one.images).mean(1)  # (n, 32, 32), about the pattern, where nothing is cut off
        patterns = change.stripes(10, 32)[:, 0]
        match = torch.einsum("nhw,chw->nc", shift * ground[:, 0], patterns).argmax(1)
        told = (match == one.truth).float().mean()
        assert told == 1 if one is data.train else told < 0.4


@pytest.mark.parametrize("images, classes", [(change.five_classes, 5), (change.two_classes, 2)])
def test_merged_classes_hold_equally_many_digits(images, classes):
    data = images(s.load_data("digits", 100, val=1000))
    assert len(data.classes) == classes and int((data.train.labels >= 0).sum()) == 100
    labels = data.train.labels[data.train.labels >= 0]
    assert labels.bincount().tolist() == [100 // classes] * classes


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_no_class_sees_hidden_labels(kind):
    carp = {"method": "carp", "prototypes": 12, "block": 4}
    config = tiny(labelled_share=0.25, small_views=0, epochs=3, **(carp if issubclass(kind, CARP) else {}))
    runs = [s.fit(config, data, progress=False, method=kind) for data in (tiny_data(), hidden_permuted(tiny_data()))]
    assert not differing(*map(weights, runs))


def test_arms_that_train_with_true_labels_say_oracle():
    for name, arm in arms.ARMS.items():
        assert arms.config_of(arm, "digits", 0).oracle == ("oracle" in name), name


# ---- arms and claims


@pytest.mark.parametrize("on", list(arms.SETTINGS))
def test_every_arm_is_of_a_claim_and_its_config_is_valid(on):
    assert {arm for claim in claims.CLAIMS for arm in claim.arms} == set(arms.ARMS)
    for claim in claims.CLAIMS:
        for name in claim.arms if on in claim.on else ():
            config = arms.config_of(arms.ARMS[name], on, 3)
            class_of(config, arms.ARMS[name].kind).check(config)
            assert (config.seed, config.label_seed) == (3, 3)
            shares = {arm: 0.5 for arm in claim.arms}
            assert np.isfinite(claim.effect(shares)) and claim.least > 0 and claim.reason


def test_rows_have_one_number_each_and_the_first_are_declared():
    numbers = [claim.number for claim in claims.CLAIMS]
    assert len(set(numbers)) == len(numbers)
    assert {number.rstrip("abc") for number in numbers} == {str(n) for n in range(1, 22)}
    assert set(claims.FIRST) <= {number.rstrip("abc") for number in numbers}


# ---- the rule


@pytest.mark.parametrize("low, high, harmless, word", [
    (0.01, 0.05, False, "seen"), (0.001, 0.02, False, "seen"), (0.03, 0.04, False, "seen"),
    (0.001, 0.019, False, "not seen here"), (-0.01, 0.01, False, "not seen here"),
    (-0.3, 0.019, False, "not seen here"), (-0.019, -0.001, False, "not seen here"),
    (-0.05, -0.01, False, "opposite here"),
    (-0.01, 0.03, False, "undecided"), (-0.3, 0.3, False, "undecided"), (0.0, 0.02, False, "undecided"),
    (-0.019, 0.3, True, "seen"), (0.1, 0.3, True, "seen"), (-0.02, 0.1, True, "undecided"),
    (-0.3, -0.01, True, "undecided"), (-0.3, -0.021, True, "opposite here"),
])  # fmt: skip
def test_the_rule(low, high, harmless, word):
    assert claims.verdict(low, high, 0.02, harmless)[0] == word


def test_the_interval_is_students():
    effects = [0.03, 0.01, 0.06, -0.01, 0.02]
    wanted = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    assert claims.interval(effects) == pytest.approx((np.mean(effects), wanted.low, wanted.high))
    assert claims.interval([0.1]) == (0.1, -np.inf, np.inf)


# ---- what is run: real tiny runs


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    data, n = s.load_data("digits"), slice(0, 320)
    splits = {"train": (data.train.images[n], data.train.truth[n], data.train.masks[n]),
              "test": (data.test.images[:30], data.test.truth[:30])}  # fmt: skip
    return write_pack(tmp_path_factory.mktemp("pack") / "digits32.npz", splits, data.classes, "a slice of the digits")


@pytest.fixture
def quick(pack, monkeypatch):
    """The claims on 320 digits, with networks of milliseconds; configs that `fit` is called with."""
    base = tiny(small_views=0, batch_size=32, negatives=8, labelled_share=0.5, lr=0.02, optimizer="adamw")
    relatives = {"ifnd": base.replace(method="ifnd", labelled_share=None, keys="online", clusters=(4,)),
                 "carp": base.replace(method="carp", labelled_share=None, prototypes=64, block=8)}  # fmt: skip
    setting = arms.Setting({"semppl": base} | relatives, epochs=2, seeds=2, val=80, steps=10)
    monkeypatch.setenv("SEMPPL_DATA", str(pack.parent))
    monkeypatch.setitem(arms.SETTINGS, "digits32", setting)
    moved = [dataclasses.replace(claim, on=("digits32",)) for claim in claims.CLAIMS]
    monkeypatch.setattr(claims, "CLAIMS", tuple(moved))
    trained, fit = [], s.fit

    def spy(config, *args, **more):
        trained.append(config)
        return fit(config, *args, **more)

    monkeypatch.setattr(s, "fit", spy)
    return trained


def run(only, seeds, folder):
    claims.run_missing(claims.asked_for(only, ["digits32"], seeds, claims.CLAIMS), folder)
    return {row["claim"].number: row for row in claims.board(folder, claims.CLAIMS)}


def test_a_claim_from_end_to_end(quick, tmp_path):
    rows = run(["1"], 1, tmp_path)
    assert rows["1"]["verdict"] == "open" and rows["1"]["why"] == "1 of 2 seeds have run." and len(quick) == 2
    rows = run(["1", "2"], 2, tmp_path)
    assert [(c.semantic_positives, c.seed, c.label_seed) for c in quick] == [
        (0, 0, 0), (3, 0, 0), (0, 1, 1), (3, 1, 1), (3, 0, 0), (3, 1, 1)]  # the last two: of claim 2 the frozen arm
    names = {f"digits32-{arm}-seed={seed}.json" for arm in ("semppl", "augmentation-only", "frozen") for seed in (0, 1)}
    assert {path.name for path in tmp_path.iterdir()} == names
    kept = {path.stem.split("-", 1)[1]: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    differences = [kept[f"semppl-seed={i}"]["read"]["linear"] - kept[f"augmentation-only-seed={i}"]["read"]["linear"]
                   for i in (0, 1)]  # fmt: skip
    assert rows["1"]["effects"] == differences and rows["1"]["verdict"] != "open" and rows["3a"]["verdict"] == "open"
    run(["1", "2"], 2, tmp_path)
    assert len(quick) == 6  # nothing twice
    assert kept["frozen-seed=0"]["class"] == "Frozen" and len(kept["semppl-seed=0"]["knn20_by_epoch"]) == 3


def test_what_is_read_out_is_of_validation_images_and_repeats(quick, tmp_path):
    claims.run_missing([("carp", "digits32", 0), ("supervised", "digits32", 0)], tmp_path)
    kept = json.loads((tmp_path / "digits32-carp-seed=0.json").read_text())
    config, data = arms.prepared(arms.ARMS["carp"], "digits32", 0)
    fitted = s.fit(config, data, progress=False)
    for part, encoder in (("read", fitted.method.encoder), ("student", fitted.method.online["encoder"])):
        read = s.evaluate(encoder, config, data, "val")
        found = kept["read"] if part == "read" else kept["read"]["student"]
        assert {name: found[name] for name in read} == read
    assert 0 <= kept["read"]["clusters"]["nmi"] <= 1 and len(data.val) == 80
    supervised = json.loads((tmp_path / "digits32-supervised-seed=0.json").read_text())
    assert supervised["class"] == "FineTuning" and claims.linear(supervised) == supervised["read"]["classifier"]


def test_a_file_of_another_arm_is_made_again(quick, tmp_path, capsys):
    run_it = functools.partial(claims.run_missing, [("augmentation-only", "digits32", 0)], tmp_path)
    run_it()
    (path,) = tmp_path.iterdir()
    text, asked = path.read_text(), (path, "augmentation-only", "digits32", 0)
    assert arms.is_kept(*asked)
    for damaged in (text[:100], "[]", text.replace('"SemPPL"', '"Frozen"'), text.replace('"tau": 0.2', '"tau": 0.3'),
                    re.sub('"images": "...', '"images": "000', text)):  # fmt: skip
        path.write_text(damaged)
        assert not arms.is_kept(*asked)
        assert capsys.readouterr().out.endswith("seed=0.json is of another arm, or damaged: this run is done again.\n")
    run_it()
    one, other = json.loads(text), json.loads(path.read_text())
    assert len(quick) == 2 and one["read"] == other["read"] and one["config"] == other["config"]


def test_runs_come_claim_by_claim_and_once():
    of_claim_3 = [(arm, "digits", seed) for seed in (0, 1)
                  for arm in ("4-views-one-vote", "4-views", "4-views-one-asks")]  # fmt: skip
    more = [("semppl", "digits", 0), ("semppl", "digits", 1)]
    assert claims.asked_for(["3", "10"], ["digits"], 2) == of_claim_3 + more
    every = claims.asked_for([], ["digits", "cifar10"])
    assert len(set(every)) == len(every) and {arm for arm, on, _ in every if on == "digits"} == set(ON_DIGITS)
    assert {seed for _, on, seed in every if on == "cifar10"} == {0, 1, 2}


@pytest.mark.parametrize("words, said", [
    (["--only", "22"], "There is no claim '22'; choose among 1, 2, 3"), (["--part", "3", "2"], "--part 3 2 is no part"),
    (["--data", "mnist"], "There are no claims on 'mnist'; choose among digits, cifar10."),
    (["--seeds", "0"], "--seeds 0 is too small"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["claims.py", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        command(claims.main, "notebooks/claims.py")
    assert said in f"{end.value.code}{capsys.readouterr().err}" and not (tmp_path / "out").exists()


# ---- what is kept and shown

COMPARED = {  # claim: (one arm, other arm, place of the number), read here anew
    "1": ("semppl", "augmentation-only", "linear"), "2b": ("semppl", "frozen", "linear"),
    "3a": ("4-views", "4-views-one-vote", "votes"), "3b": ("4-views", "4-views-one-asks", "votes"),
    "4a": ("semppl", "k=5", "linear"), "5a": ("flips=0.2", "semppl", "linear"), "5b": ("semppl", "oracle", "linear"),
    "7a": ("labels-x5", "semppl", "linear"), "7b": ("semppl", "supervised", "linear"),
    "8": ("textures-mask=0.5", "textures-mask=0", "linear"), "12a": ("ifnd", "ifnd-attract", "linear"),
    "12b": ("oracle-attract", "oracle-eliminate", "linear"), "16": ("carp", "carp-one-block", "linear"),
    "18": ("carp", "carp-fixed", "linear"),
}  # fmt: skip


def number(arm, on, seed, place):
    run = json.loads((arms.RESULTS / f"{on}-{arm}-seed={seed}.json").read_text())
    if place == "votes":
        return run["pseudo_label_accuracy"][-1]
    return run["read"]["classifier" if "supervised" in arm else "linear"]


def by_hand(claim, on):
    """Mean and interval in points of the seeds that all arms have, from the files; None if there are none."""
    one, other, place = COMPARED[claim.number]
    seeds = [seed for seed in range(100)
             if all((arms.RESULTS / f"{on}-{arm}-seed={seed}.json").exists() for arm in claim.arms)]  # fmt: skip
    pairs = [[100 * number(arm, on, seed, place) for seed in seeds] for arm in (one, other)]
    if len(seeds) < 2:
        return seeds, [a - b for a, b in zip(*pairs, strict=True)], None
    ends = stats.ttest_rel(*pairs).confidence_interval(0.95)
    return seeds, [np.mean(pairs[0]) - np.mean(pairs[1])], (ends.low, ends.high)


@pytest.mark.parametrize("claim", [c for c in claims.CLAIMS if c.number in COMPARED], ids=lambda claim: claim.number)
def test_the_page_says_what_the_files_say(claim):
    page = (ROOT / "docs" / "claims.md").read_text().partition("<!-- table: claims_before -->")[0]
    for on in claim.on:
        called = re.escape(board.name({"claim": claim, "on": on}))
        (line,) = re.findall(rf"^\| {called} \| .*$", page, re.MULTILINE)
        seeds, mean, ends = by_hand(claim, on)
        assert f"| {len(seeds)} |" in line
        assert "**open.**" in line if len(seeds) < arms.SETTINGS[on].seeds else "**open.**" not in line
        if ends:
            assert f"| {mean[0]:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}] |" in line
        elif seeds:
            assert f"| {mean[0]:+.1f} |" in line


def test_every_kept_run_is_of_an_arm_as_it_is_now():
    for path in sorted(arms.RESULTS.glob("*.json")):
        on, name, seed = re.fullmatch(r"(\w+?)-(.+)-seed=(\d+)", path.stem).groups()
        assert json.loads(path.read_text())["arm"] == name and name in arms.ARMS
        if on == "digits":
            assert arms.is_kept(path, name, on, int(seed)), path.name


def test_pictures_and_the_line_show_the_files(quick, tmp_path):
    rows = run(["1"], 2, tmp_path)
    row, words = rows["1"], [of["verdict"] for of in rows.values()]
    said = board.line(rows.values()).partition(".")[0].removeprefix(f"{len(rows)} rows: ").split(", ")
    assert sorted(said) == sorted(f"{words.count(word)} {word}" for word in set(words)) and "open" not in words[:2]
    fig = board.picture([row, rows["8"]])  # one that has run, one that is open
    arms_ax, effect_ax = fig.axes[1], fig.axes[2]
    drawn = np.array([line.get_xdata() for line in arms_ax.lines])
    assert drawn == pytest.approx(100 * np.array([[of[a] for a in row["claim"].arms] for of in row["values"].values()]))
    lines = {tuple(np.round(line.get_xdata(), 6)) for line in effect_ax.lines}
    for wanted in (row["effects"], (row["low"], row["high"]), (row["mean"],)):
        assert tuple(np.round(100 * np.array(wanted), 6)) in lines
    text = " ".join(t.get_text() for t in fig.axes[0].texts)
    assert row["verdict"] in text and board.points(row) in text
    assert [t.get_text() for t in fig.axes[3].texts] == ["open, no seed has run: 8"] and len(fig.axes) == 6


def test_the_forest_shows_the_files_in_units_of_the_minimum(quick, tmp_path):
    rows = run(["1", "4"], 2, tmp_path)
    some = [rows["1"], rows["4a"], rows["8"]]  # two that have run, one that is open
    (ax,) = board.forest(some).axes
    lines = [(tuple(np.round(line.get_xdata(), 6)), line.get_ydata()[0]) for line in ax.lines]
    for y, row in enumerate(some[:2]):
        for wanted in (row["effects"], (row["low"], row["high"]), (row["mean"],)):
            assert (tuple(np.round(np.array(wanted) / row["claim"].least, 6)), y) in lines
        assert ax.texts[y].get_text() == f"{row['verdict']}  {board.points(row)}"
        assert ax.patches[y].get_x() == (-1 if row["claim"].harmless else 1)
    assert "open, no seed has run: 8" in ax.get_xlabel() and len(ax.texts) == 2
    assert all(ax.get_xlim()[0] < min(x) and max(x) < ax.get_xlim()[1] for x, _ in lines)


def test_clusters_are_of_the_teacher_and_before_training(quick, tmp_path):
    claims.run_missing([("carp", "digits32", 0)], tmp_path)
    kept = json.loads((tmp_path / "digits32-carp-seed=0.json").read_text())
    config, data = arms.prepared(arms.ARMS["carp"], "digits32", 0)
    fitted = s.fit(config, data, progress=False)
    before = untrained_encoder(config, data)
    for name, encoder in (("clusters", fitted.method.encoder), ("clusters, untrained", before)):
        assert kept["read"][name] == arms.clustering(s.method.encode(encoder, data.val, config), data.val.truth, 10)


def test_measures_by_hand():
    run = {"pseudo_label_accuracy": [None, 0.1, 0.3, 0.3, 0.7], "knn20_by_epoch": [0.1, 0.1, 0.2, 0.4, 0.4]}
    assert claims.lead(run) == pytest.approx(np.corrcoef([0.1, 0.2, 0.0], [0.1, 0.2, 0.0])[0, 1])
    assert claims.removed({"last": {"false_negatives": 0.02, "false_negatives_before": 0.1}}) == pytest.approx(0.8)
    assert claims.teacher_ahead({"read": {"linear": 0.7, "student": {"linear": 0.6}}}) == pytest.approx(0.1)
    assert claims.fewer_errors({"infonce": 0.6, "oracle-eliminate": 0.7}) == pytest.approx(0.25)
