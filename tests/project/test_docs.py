"""The front door: README.md and docs/ are short, lead somewhere, and say what the JSON files and the code say."""
import dataclasses
import importlib
import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semppl_mini
from semppl_mini.files import write_pack

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def tables():
    """docs/tables.py as a module."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- tables

def stale(tables):
    """The pages that `python docs/tables.py` would change."""
    return [page.name for page in tables.pages() if tables.renewed(page.read_text()) != page.read_text()]


def test_tables_say_what_the_json_files_say(tables):
    assert not stale(tables), "run python docs/tables.py"


def test_every_table_stands_on_a_page_and_every_mark_is_closed(tables):
    text = "".join(page.read_text() for page in tables.pages())
    assert sorted(re.findall(r"<!-- table: (\w+) -->", text)) == sorted(tables.TABLES)
    within = re.findall(r"<!-- (\w+) -->[^\n]*<!-- end -->", text)  # a line
    assert set(within) <= set(tables.TABLES) and text.count("<!-- end -->") == len(tables.TABLES) + len(within)


@pytest.mark.parametrize("file, number, pages", [
    ("notebooks/results/demo.json", "knn20", ["README.md", "results.md"]),
    ("notebooks/results/semppl-500-seed0.json", "linear", ["results.md"]),
    ("notebooks/results/measures/compare-pixels.json", "knn20", ["results.md"]),
    ("benchmarks/results.json", "ratio", ["speed.md"]),
    ("notebooks/results/claims/digits-semppl-seed=0.json", "linear", ["README.md", "claims.md"]),
])
def test_a_changed_number_is_noticed(file, number, pages, tables, tmp_path, monkeypatch):
    """The first number of that name of a file, changed in a copy of it."""
    for part in ("README.md", "docs", "notebooks/results", "benchmarks", "semppl_mini"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (tmp_path / part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, tmp_path / part)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert not stale(tables)
    text, changed = re.subn(rf'"{number}": [\d.]+', f'"{number}": 0.111', (tmp_path / file).read_text(), count=1)
    assert changed and (tmp_path / file).write_text(text)
    assert stale(tables) == pages


def test_a_number_that_no_file_has_is_no_empty_column(tables):
    with pytest.raises(AssertionError, match="column is empty"):
        tables.results({"k-NN": "results.knn20", "slip": "results.knn21"}, {"row": "semppl-500-seed0"})
    with pytest.raises(AssertionError, match="no file"):
        tables.kept("no-such-run")


def test_a_moved_line_is_noticed(tables, tmp_path, monkeypatch):
    """Links to a line have words of it as their title; words of no line, or of several, are refused."""
    (tmp_path / "code.py").write_text("a = 1\nb = 2\nb = 3\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.renewed('[b](../code.py#L1 "b = 2") [a](code.py)') == '[b](../code.py#L2 "b = 2") [a](code.py)'
    for words in ("b =", "c = 4"):
        with pytest.raises(AssertionError, match="give words of the one"):
            tables.renewed(f'[b](code.py#L1 "{words}")')


# --- the book

INDEX = ROOT / "docs" / "index.md"


def test_the_book_has_every_page_and_notebook():
    others = [*ROOT.glob("[a-z]*/README.md"), *ROOT.glob("notebooks/[0-9]*.ipynb"), ROOT / "CHANGELOG.md"]
    pages = {*PAGES, *others} - {INDEX}
    chapters = re.findall(r"^- \[.+?\]\((\S+)\)", INDEX.read_text(), re.MULTILINE)
    assert len(chapters) == len(set(chapters)) and pages <= {(INDEX.parent / chapter).resolve() for chapter in chapters}


def test_the_book_has_every_module():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "book").glob("*.rst"))
    listed = re.findall(r"automodule:: semppl_mini\.(\S+)", pages)
    modules = [path.relative_to(ROOT / "semppl_mini") for path in (ROOT / "semppl_mini").rglob("*.py")
               if ".ipynb_checkpoints" not in path.parts]  # of JupyterLab, once a reader opened a file
    names = {".".join(path.with_suffix("").parts) for path in modules if path.name != "__init__.py"}
    assert len(listed) == len(set(listed)) and set(listed) == names | {"recipes"}


# --- the README

def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 90
    assert not [line for line in lines if len(line) > 120 and not re.search("<!-- (badges|claims_line) -->", line)]


def test_readme_code_runs(tmp_path, monkeypatch):
    """The lines of Python, with a small preset, few images and two steps."""
    code, = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    fit, data_for = semppl_mini.fit, semppl_mini.data_for
    sizes = dict(width=8, projector_hidden=8, predictor_hidden=8, batch_size=16, negatives=4, queue=64)
    small = semppl_mini.presets.digits().replace(**sizes)

    def few(*args):
        data = data_for(*args)
        train = data.train.take(data.train.labels.argsort(descending=True)[:200])  # the labelled ones first
        val, test = (images.take(torch.arange(100)) for images in (data.val, data.test))
        return dataclasses.replace(data, train=train, val=val, test=test)

    monkeypatch.setattr(semppl_mini.presets, "digits", lambda: small)
    monkeypatch.setattr(semppl_mini, "data_for", few)
    monkeypatch.setattr(semppl_mini, "fit", lambda *args, **more: fit(*args, **more, steps=2, progress=False))
    monkeypatch.chdir(tmp_path)
    seen = {}
    exec(code, seen)  # our own file
    assert len(seen["features"]) == len(seen["data"].test) and (tmp_path / "runs" / "mine").is_dir()


# --- your own images

def test_code_for_your_own_images_runs(tmp_path, monkeypatch, capsys):
    """Every block of Python, with a small preset, one epoch and images of noise."""
    page, sizes = (ROOT / "docs" / "your_images.md").read_text(), dict(width=8, projector_hidden=8, predictor_hidden=8)
    sizes |= dict(batch_size=64, negatives=4, queue=64, epochs=1, warmup_epochs=0, device="cpu")
    small = semppl_mini.presets.cifar10_cpu().replace(**sizes)
    monkeypatch.setattr(semppl_mini.presets, "cifar10_cpu", lambda: small)
    pixels = np.random.default_rng(0).integers(0, 256, (264, 3, 64, 64), np.uint8)
    parts = {split: (x, np.arange(len(x)) % 3) for split, x in (("train", pixels[:240]), ("test", pixels[240:]))}
    names = {split: [f"{split}/{i}.png" for i in range(len(x))] for split, (x, _) in parts.items()}
    write_pack(tmp_path / "mine.npz", parts, ["ant", "bee", "cow"], "noise", names)
    (tmp_path / "new-images").mkdir()
    Image.fromarray(pixels[0].transpose(1, 2, 0)).resize((90, 64)).save(tmp_path / "new-images" / "1.jpg")
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    seen = {}
    exec("".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)), seen)  # our own file
    wrong = int((seen["found"] != seen["data"].test.truth).sum())
    assert capsys.readouterr().out.count("looks like") == wrong > 0  # as good as chance
    assert seen["names"][0] in seen["data"].classes and seen["new"].shape == (1, 3, 64, 64)


# --- all pages

def targets(page):
    """What a page links to: the relative targets, without #fragments."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text) + re.findall(r'<img src="([^"]+)"', text)
    return [target.split("#")[0] for target in found if not re.match(r"\w+:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    assert not [target for target in targets(page) if not (page.parent / target).exists()]


def test_links_are_found():
    assert {"docs/figures/method.svg", "docs/figures/film.svg", "LICENSE"} <= set(targets(PAGES[0]))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    text = page.read_text()
    code = "\n".join(re.findall(r"^```.*?^```|^    .*?$|`[^`\n]+`", text, re.MULTILINE | re.DOTALL))
    makefile = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)(?=[\s`]|$)", code)) <= set(makefile)
    assert not [script for script in re.findall(r"\bpython (\S+\.py)\b", code) if not (ROOT / script).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_of_the_package_exist(page):
    for path in re.findall(r"\bs\.((?:\w+\.)*\w+)(?=\()", page.read_text()):
        part = semppl_mini
        for attribute in path.split("."):
            part = getattr(part, attribute)


def test_selections_of_tests_select_some():
    tests = [f"{path.relative_to(ROOT)}::{test}".lower() for path in (ROOT / "tests").rglob("test_*.py")
             for test in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)]  # fmt: skip
    found = re.findall(r'`pytest -k "?([^`"]+)"?`', (ROOT / "docs" / "guarantees.md").read_text())
    assert len(found) > 8
    for words in found:
        assert not [word for word in words.split(" or ") if not any(word in test for test in tests)]


def test_the_picture_of_minutes_is_of_the_table(tables, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    points = importlib.import_module("minutes_picture").points()
    svg = (ROOT / "docs/figures/minutes.svg").read_text()
    words = [f"{method} {of_method[-1][1]:.1f}" for method, of_method in points.items()]
    assert len(words) == len({method for method, _ in tables.YARDSTICKS}) and all(word in svg for word in words), words
