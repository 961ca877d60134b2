"""The notebooks' exercises: open while untouched, right answers accepted, wrong ones helped on and never told.

Right numbers are counted here by brute force or by the module, and right functions are the folded solutions.
"""
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

import semppl_mini as s
from semppl_mini import batches
from semppl_mini.queue import LabelledQueue
from semppl_mini.relatives import carp, ifnd

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
sys.path.insert(0, str(FOLDER))

import checks  # noqa: E402
import claims  # noqa: E402

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("[0-9]*.ipynb"))}
EXERCISES = [(name, cell) for name, nb in NOTEBOOKS.items() for cell in nb.cells
             if cell.cell_type == "code" and "checks.check(" in cell.source]  # fmt: skip
CODE = ("my_vote", "my_positives", "my_nce", "my_lars", "nearest_positives", "expected", "mean_std")
ODD = (True, "0.1", [1], {2}, int, object(), math.nan, math.inf, -1e9, torch.ones(3), np.ones(2), lambda: 0, 3 + 4j)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a cell's source as its notebook does: what it prints."""
    monkeypatch.setitem(sys.modules, "checks", checks)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def of(source):
        exec(source, {"s": s, "sys": sys, "Path": Path, "torch": torch, "checks": checks})
        return capsys.readouterr().out

    return of


def solution(name):
    """The source of a function, out of the folded solutions."""
    text = "\n".join(cell.source for nb in NOTEBOOKS.values() for cell in nb.cells if "<summary>" in cell.source)
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"def {name}(" in block]
    return source


def function(source):
    names = {"torch": torch}
    exec(compile(source, "<cell>", "exec"), names)
    return next(value for name, value in names.items() if name in CODE)


# ---- the cells

@pytest.mark.parametrize("cell", [cell for _, cell in EXERCISES], ids=lambda cell: cell.source[-40:])
def test_untouched_it_is_open(run, cell):
    printed = run(cell.source)
    assert printed and all(line.endswith(": open") for line in printed.splitlines())
    assert [output.text for output in cell.outputs] == [printed]


def test_every_notebook_asks_and_every_exercise_is_asked():
    assert {name for name, _ in EXERCISES} == set(NOTEBOOKS)
    asked = [x for _, cell in EXERCISES for x in re.findall(r"(\w+)=\1\b", cell.source)]
    assert sorted(asked) == sorted(checks.EXERCISES)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_exercises_come_last_and_are_tagged(name):
    """So that whatever a reader writes there spoils nothing, and `make demo` can leave them out."""
    cells = [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]
    tagged = ["exercise" in cell.metadata.get("tags", []) for cell in cells]
    assert tagged == sorted(tagged)
    assert all(tag for tag, cell in zip(tagged, cells, strict=True) if "checks" in cell.source)


def test_the_demo_leaves_the_exercises_out(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import demo

    nb = NOTEBOOKS["00_start_here"].copy()
    spoilt = [{**cell, "source": "1 / 0"} if "exercise" in cell.metadata.get("tags", []) else cell for cell in nb.cells]
    path = tmp_path / "spoilt.ipynb"
    nbformat.write(nbformat.from_dict({**nb, "cells": spoilt}), path)
    sources = [cell.source for cell in demo.lesson(path).cells]
    assert "1 / 0" not in sources and any("summary.json" in source for source in sources)
    titles = [source for source in sources if source.startswith("print('") and source.endswith("', flush=True)")]
    assert len(sources) == len(nb.cells) - 2 + len(titles)
    assert "print('What the semantic positives add', flush=True)" in titles, "its training says nothing else for long"
    assert not any("Exercises" in title for title in titles)


# ---- numbers

def life():
    """Steps until the first entry of a queue of 20 batches is overwritten: of 100 images a batch, one is labelled."""
    queue, step = LabelledQueue(1, 20 * 100, 1), 0
    y = torch.full((100,), -1).index_fill(0, torch.tensor([7]), 0)
    while queue.ids[0] in (-1, 0):
        queue.enqueue(torch.zeros(1, 100, 1), y, torch.full((100,), step))
        step += 1
    return step - 1


def recall():
    """Of 3,600 images in 30 clusters, three a class, every other one accepted."""
    n = 3600
    y = torch.arange(n) % 10
    cluster = torch.arange(n) % 30
    accepted = torch.arange(n) // 30 % 2 == 0
    labels = torch.where(accepted, cluster, -1)[None]
    found = ifnd.false_negatives(labels, labels, torch.eye(n, dtype=torch.bool))[0]
    same = (y[:, None] == y) & ~torch.eye(n, dtype=torch.bool)
    assert not (found & ~same).any()
    return float(found.sum() / same.sum())


def runs_needed():
    sys.path.insert(0, str(FOLDER))
    try:
        import sweep
    finally:
        sys.path.pop(0)
    values = {"k": (1, 2, 3, 4), "alpha": (0, 0.2, 1, 3), "tau": (0.1, 0.2, 0.4, 1)}
    return len({cell[3] for cell in sweep.grid(s.Config(k=1, alpha=0.2, tau=0.2), values, 5, 1)})


def overlap():
    rng = torch.Generator().manual_seed(0)
    draws = [torch.randperm(45000, generator=rng)[:500] for _ in range(2 * 2000)]
    shared = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    return sum(shared) / len(shared)


def often():
    config = s.Config(method="carp", prototypes=64, block=8)
    together = [(carp.draw_step(config, step).blocks[:, :, None] == torch.tensor([3, 5])).any(1).all(1).any()
                for step in range(2000)]  # fmt: skip
    mine = float(torch.stack(together).float().mean())
    assert abs(mine - 7 / 63) < 0.02  # the same rule in small
    return 511 / 65535


def variance():
    parts = [m + torch.tensor([-1.0, 1.0]).double() * 2**0.5 for m in (0, 4, 8, 12)]
    return float(torch.cat(parts).var(correction=0))


def lines(folder):
    """Step lines of a run that was stopped and went on."""
    config = s.presets.digits().replace(width=8, large_size=16, epochs=1, negatives=4, queue=128, device="cpu")
    data = s.load_data("digits", config.labels)
    s.fit(config, data, folder, progress=False, steps=20)
    s.fit(config, data, folder, progress=False)
    return sum("step" in json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())


def gigabytes():
    recipe = s.presets.imagenet_1pct()
    queue = LabelledQueue(1, 10, recipe.embedding_dim)
    a_slot = queue.all_keys[0, 0].numel() * queue.all_keys.element_size()
    return recipe.large_views * 20 * 65536 * a_slot / 1e9


def least(true):
    return next(n for n in range(10_000) if true(n))


SHUFFLED, SMALL = s.Config(batch_size=128), s.Config(batch_size=32)
p, q = torch.tensor([0.25, 0.75]).double(), torch.tensor([0.75, 0.25]).double()
ANSWERS = {  # name: (a right answer, in another form)
    "chance": lambda: (0.1, torch.tensor(0.1)),
    "votes_of_four": lambda: (16, 16.0),
    "kl": lambda: (float((p * (p / q).log()).sum()), 0.55),
    "steps": lambda: (least(lambda n: 0.996**n < 0.01), 1149.0),
    "life": lambda: (life(), 2e3),
    "own_class": lambda: (sum(0.1 for _ in range(10)), 1),
    "tie_loss": lambda: (float(s.losses.nce(torch.tensor([0.5, 0.5, 0.3]) / 1e-3)), 0.693),
    "agreeing": lambda: (sum(len(set(f"{n:04}")) == 1 for n in range(10_000)) / 10_000, 1e-3),
    "overlap": lambda: (5.56, 500**2 / 45000),
    "runs_needed": lambda: (runs_needed(), 50),
    "slots": lambda: (640, torch.tensor(640)),
    "weight": lambda: (float(torch.tensor([9.0, 5.0]).softmax(0)[0] / torch.tensor([9.0, 5.0]).softmax(0)[1]), 54.6),
    "one_cluster": lambda: (float(ifnd.eliminate(torch.tensor([[1.8, 1.6, 0.6]]), torch.ones(1, 2).bool())), 0),
    "precision": lambda: (0.1, 1 / 10),
    "recall": lambda: (1 / 12, 0.0833),
    "n_p": lambda: (len(carp.draw_step(s.Config(method="carp", prototypes=65536, block=512), 0).blocks), 128),
    "often": lambda: (often(), 0.0078),
    "worst": lambda: (float(carp.entropy_gap(torch.eye(512)[:1])), 6.24),
    "variance": lambda: (variance(), 22),
    "lines": lambda: (28, 28.0),
    "gigabytes": lambda: (gigabytes(), 5.4),
    "left_over": lambda: (1000 - batches.epoch_order(SHUFFLED, torch.zeros(1000), 0).numel(), 104.0),
    "epochs_needed": lambda: (least(lambda n: n * len(batches.epoch_order(SMALL, torch.zeros(162), 0)) >= 400), 80.0),
    "low": lambda: (round(claims.interval([1, 2, 3, 4, 5])[1], 1), 1),
    "lucky": lambda: (30 * 0.05 / 2, 0.75),
    "votes": lambda: (s.votes.vote(torch.ones(1, 1, 2), torch.ones(4, 1, 2), torch.zeros(1), 1, 2)[1].numel(), 4.0),
}


def test_every_exercise_is_tested():
    assert {*ANSWERS, *CODE, "gap"} == set(checks.EXERCISES)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_number_is_right(name):
    assert [checks.verdict(name, answer) for answer in ANSWERS[name]()] == [f"{name}: right"] * 2


def test_numbers_that_were_worked_out_are_those_that_are_counted(tmp_path):
    assert checks.verdict("lines", lines(tmp_path)) == "lines: right"
    assert abs(overlap() - 5.56) < 0.2 and abs(recall() - 1 / 12) < 0.002


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_number_gets_a_hint_without_the_answer(name):
    right = float(ANSWERS[name]()[1])
    slips = [-right - 1, 2 * right + 3, 1.05 * right + 0.5, 4, 20, 0.25, 1 / 3, 0.9, *ODD]
    for wrong in slips:
        said = checks.verdict(name, wrong)
        if said == f"{name}: right":
            assert wrong in (4, 20, 0.25) and math.isclose(wrong, right, rel_tol=0.01)
            continue
        head, hint = said.split("not yet. ")
        assert head == f"{name}: " and len(hint) > 20 and hint[-1] in ".?" and "\n" not in hint
        for number in map(float, re.findall(r"\d+(?:\.\d+)?", hint)):
            for form in (number, number / 100):
                assert not checks.verdict(name, form).endswith("right"), said


def test_the_gap_is_that_of_the_kept_runs():
    gaps = {}
    for labels, pair in checks.kept_pairs().items():
        ends = {name: history[-1]["pseudo_label_accuracy"] for name, history in pair.items()}
        assert all(len(history) == 25 for history in pair.values())
        gaps[labels] = ends["SemPPL"] - ends["augmentation-only"]
    assert gaps[30] > gaps[100] + 0.03
    assert checks.verdict("gap", "wider") == "gap: right"
    for wrong in ("narrower", "the same", "twice", 3, *ODD):
        said = checks.verdict("gap", wrong)
        assert said.startswith("gap: not yet. ") and "wider" not in said


def test_notebook_00_draws_the_kept_runs_until_a_number_of_labels_is_given():
    (cell,) = [cell for cell in NOTEBOOKS["00_start_here"].cells if "def trained(labels)" in cell.source]
    config = s.presets.digits().replace(width=8, large_size=16, epochs=1, negatives=4, queue=128, device="cpu")
    own = dict.fromkeys(("SemPPL", "augmentation-only"), [{"epoch": 0, "pseudo_label_accuracy": 0.1}])
    given = dict(s=s, checks=checks, config=config, dataset="digits", histories=own)
    for labels, names in (("None", ("100", "30")), ("40", ("100", "40"))):
        lines = []
        given["plots"] = SimpleNamespace(pseudo_label_curves=lines.append)
        exec(cell.source.replace("labels = None", f"labels = {labels}"), dict(given))
        assert list(lines[0]) == [f"{method}, {n} labels" for n in names for method in own]
    assert [len(history) for history in lines[0].values()] == [1, 1, 2, 2]
    assert lines[0]["SemPPL, 40 labels"] != lines[0]["augmentation-only, 40 labels"]


# ---- code

WRONG = {  # a function: changes to its solution, and what the hint must name
    "my_vote": [
        ("max(((y == c).sum(), x[y == c].sum(), -c)", "max(((y == c).sum(), -c, -c)", "larger sum"),
        ("((y == c).sum(), x[y == c].sum(), -c)", "(x[y == c].sum(), 0, -c)", "fewer votes, but nearer"),
        (".masked_fill(labels < 0, -torch.inf)", "", "empty slots"),
        (".max(-1)", ".min(-1)", "one view"),
        ("-c) for c in y.unique())\n    return torch.stack([-", "c) for c in y.unique())\n    return torch.stack([",
         "smaller label"),
        ('"lbd,aqd->blaq", o, keys)', '"lbd,aqd->blaq", o[:1], keys)', "three views"),
        ('"lbd,aqd->blaq", o, keys)', '"lbd,aqd->blaq", o, keys[:len(o)])', "more queues than views"),
        ("return torch", "return torch.zeros(5) if 1 else torch", "shape"),
    ],
    "my_positives": [
        ("& (ids != image[m])", "", "itself"),
        ("& (labels >= 0)", "", "-1 is no label"),
        ("(u[m] * len(mine))", "(u[m] * 0 * len(mine))", "not uniform"),
        ("(u[m] * len(mine))", "(u[m] ** 2 * len(mine))", "not uniform"),
        ("len(mine) > 0", "len(mine) > 1", "valid"),
        ("slots[m] = mine[(u[m] * len(mine)).long()]", "slots[m] = (u[m] * len(labels)).long()", "another label"),
        ("return slots, valid", "return slots", "in this order"),
        ("slots[m] = mine[", "slots[m] = 99 + mine[", "a place in the queue"),
    ],
    "my_nce": [
        ("a.logsumexp(1)", "a[:, 1:].logsumexp(1)", "1 + N"),
        (".mean()", ".sum()", "mean over the images"),
        ("(a.logsumexp(1) - a[:, 0])", "(a[:, 0] - a.logsumexp(1))", "negative"),
        (" / tau", "", "temperature"),
        ("a.logsumexp(1)", "a.exp().sum(1).log()", "infinite"),
        ("return (a", "a = a.detach()\n    return (a", "no gradient"),
        ("a.logsumexp(1)", "a.logsumexp(1).detach()", "gradient"),
        (".mean()", ".mean().item()", "must be a tensor"),
        ("t[candidates]", "o[candidates]", "goes wrong"),
    ],
    "my_lars": [
        ("w.norm() > 0 and u.norm() > 0", "True", "two norms"),
        ("w.norm() > 0 and u.norm() > 0", "u.norm() > 0", "all zero"),
        ("w.norm() > 0 and u.norm() > 0", "w.norm() > 0", "gradient is zero"),
        ("u = g if w.dim() <= 1 else g + wd * w", "u = g + wd * w", "bias"),
        ("else g + wd * w", "else g", "weight decay"),
        ("v = mu * v + u", "v = u", "velocity"),
        ("w.norm() / u.norm()", "w.norm(dim=1).max() / u.norm(dim=1).max()", "goes wrong"),
        ("return w - lr * v, v", "return v, w - lr * v", "goes wrong"),
        ("return w - lr * v, v", "return w - lr * v, lr * v", "v is not"),
    ],
    "nearest_positives": [
        ("cosine.topk(R", "(-cosine).topk(R", "largest cosines"),
        ("& (labels >= 0)", "", "-1 is no label"),
        ("mine.sum(1) >= R", "mine.sum(1) > 0", "valid"),
        (".masked_fill(~mine, -torch.inf)", "", "row's label"),
        (".indices", ".indices.flip(1)", "nearest first"),
    ],
    "expected": [
        ("s + (1 - s) * a", "a", "half is labelled"),
        ("s + (1 - s) * a", "s + a", "half is labelled"),
        ("s + (1 - s) * a", "(s + a) / 2 + 0.25", "goes wrong"),
        ("s + (1 - s) * a", "max(s, a) + 0.25", "goes wrong"),
        ("s + (1 - s) * a", "'s'", "A number is asked for"),
    ],
    "mean_std": [
        (" / 255", "", "look at the scale"),
        ("x.mean((0, 2, 3)), x.std((0, 2, 3))", "x.mean((0, 2)), x.std((0, 2))", "shape"),
        ("x.mean((0, 2, 3)), x.std((0, 2, 3))", "x.mean().expand(3), x.std().expand(3)", "colour"),
        ("x.std((0, 2, 3))", "x.std((2, 3)).mean(0)", "differ from each other"),
        ("x.mean((0, 2, 3))", "x.mean((0, 2, 3)) ** 2", "the mean is not"),
        ("return x.mean((0, 2, 3)), x.std((0, 2, 3))", "return x.mean((0, 2, 3))", "in this order"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_the_folded_solution_is_right(name):
    assert checks.verdict(name, function(solution(name))) == f"{name}: right"


@pytest.mark.parametrize("name, old, new, words", [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_wrong_code_gets_a_hint_that_names_what_failed(name, old, new, words):
    source = solution(name)
    assert source.count(old) == 1
    said = checks.verdict(name, function(source.replace(old, new)))
    assert said.startswith(f"{name}: not yet. ") and words in said and len(said.splitlines()) == 1
    assert not [line for line in source.splitlines() if len(line.strip()) > 3 and line.strip() in said]
    assert old not in said


@pytest.mark.parametrize("name", CODE)
def test_code_that_fails_is_told_in_one_line(name):
    head = solution(name).split("\n", 1)[0]
    assert checks.verdict(name, function(f"{head}\n    return None")) == f"{name}: open"
    said = checks.verdict(name, function(f"{head}\n    x = 1\n    return x / 0"))
    assert "ZeroDivisionError" in said and "line 3" in said and len(said.splitlines()) == 1
    assert "TypeError" in checks.verdict(name, function(f"def {name}():\n    return 1"))
    results = ("text", (1, 2), torch.ones(7), np.ones(2), (torch.ones(2, 2), {}), 3 + 4j)
    for odd in (3, "text", torch.ones(2), *(lambda *_, x=x: x for x in results)):
        assert checks.verdict(name, odd).startswith(f"{name}: not yet. ")


def test_none_is_open_and_an_unknown_name_is_refused():
    assert {checks.verdict(name, None) for name in checks.EXERCISES} == {f"{name}: open" for name in checks.EXERCISES}
    with pytest.raises(ValueError, match="no exercise 'chanse'; choose among chance"):
        checks.check(chanse=0.1)
