"""The house: how large the module is, which way its arrows go, and that it stands without its checkout."""

import ast
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "semppl_mini"
CORE = {path.stem for path in MODULE.glob("*.py")} - {"__init__"}
FILES = sorted(path.relative_to(MODULE) for path in [*MODULE.glob("*.py"), *MODULE.glob("[!.]*/*.py")])  # none of Lab
DOORS = {"parallel", "files"}  # of what lies below the core


def lines_of(path):
    return sum(bool(line.strip()) for line in (MODULE / path).read_text().splitlines())


def tree_of(path):
    return ast.parse((MODULE / path).read_text())


def functions():
    """(lines without the docstring, where) of every function of the module."""
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0]
                doc = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                yield node.end_lineno - node.lineno + 1 - doc, f"{path}:{node.name}"


def imported(path):
    """What a file imports of this package: {"semppl", "parallel", "keeping.run", ...}, from semppl_mini on."""
    found, package = set(), ["", *Path(path).parts[:-1]]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) + 1 - node.level], *(node.module or "").split(".")]
            base = ".".join(part for part in base if part)
            names = [alias.name for alias in node.names]
            found |= {base} if base else set(names)
    return found


# ---- size: these limits are promises to the reader, and are not raised

def test_the_core_can_be_read_in_one_sitting():
    assert sum(lines_of(path) for path in FILES if len(path.parts) == 1) <= 1300  # docstrings included


def test_the_package_is_no_larger_than_promised():
    assert sum(map(lines_of, FILES)) <= 4000


def test_contributing_says_these_numbers():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert "1,300 non-blank lines" in text and "4,000" in text


def test_functions_fit_a_screen():
    long = [(n, where) for n, where in functions() if n > 40]
    assert not long and median(n for n, _ in functions()) <= 8


def test_the_loop_is_on_one_screen_and_shows_its_verbs():
    source = (MODULE / "train.py").read_text()
    fit, step = (next(node for node in ast.parse(source).body if getattr(node, "name", "") == name)
                 for name in ("fit", "gradient_of"))  # fmt: skip
    assert fit.end_lineno - fit.body[1].lineno + 1 <= 40  # body[0] is the docstring
    body = "\n".join(map(ast.unparse, fit.body[1:] + step.body))
    for verb in ("method(views, batch, draws)", "zero_grad", "loss.backward()", "optimizer.step()", "before_step",
                 "after_step"):  # fmt: skip
        assert verb in body, verb


# ---- arrows

@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_opens_only_the_lower_doors(name):
    allowed = CORE | DOORS | ({"keeping"} if name == "train" else set())  # fit() hands a run to its keeper
    assert imported(f"{name}.py") <= allowed


@pytest.mark.parametrize("folder", sorted(DOORS))
def test_what_lies_below_knows_nothing_above(folder):
    for path in (MODULE / folder).glob("*.py"):
        outside = {name for name in imported(path.relative_to(MODULE)) if name.split(".")[0] != folder}
        assert not outside, path


def test_what_keeps_runs_does_not_name_the_trainer():
    for path in (MODULE / "keeping").glob("*.py"):
        assert not {"train", "batches"} & imported(path.relative_to(MODULE)), path


def test_methods_answer_for_themselves():
    """Nobody outside `relatives` asks which method it is, nor whether a method has something."""
    for path in [*(MODULE / path for path in FILES), *(ROOT / "scale").glob("*.py"), *(ROOT / "data").glob("*.py")]:
        if path.parent.name == "relatives":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            asked = map(ast.unparse, [node.left, *node.comparators]) if isinstance(node, ast.Compare) else []
            assert not any(text.endswith("config.method") for text in asked), f"{path.name}: {ast.unparse(node)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
                assert "method" not in ast.unparse(node.args[0]).split("."), f"{path.name}: {ast.unparse(node)}"


def test_no_two_files_that_are_imported_by_their_bare_name_share_it():
    """Folders of scripts stand on one path in the tests: processes that these spawn would find the other file."""
    names = [path.name for folder in ("notebooks", "scale", "data", "benchmarks", "docs", "tests/helpers")
             for path in (ROOT / folder).glob("*.py")]  # fmt: skip
    assert not sorted({name for name in names if names.count(name) > 1})


# ---- without its checkout

TWO_STEPS = """
import importlib, pkgutil, sys, semppl_mini as s
assert s.__file__.startswith(sys.prefix), s.__file__
for module in pkgutil.walk_packages(s.__path__, "semppl_mini."):
    importlib.import_module(module.name)
config = s.presets.digits().replace(width=8, batch_size=16, negatives=4, queue=16, large_size=16, projector_hidden=16,
                                    predictor_hidden=16, embedding_dim=8, device="cpu")
run = s.fit(config, s.data_for(config), progress=False, steps=2)
assert len(run.unfinished) == 2, run
"""


def test_the_wheel_holds_the_whole_package(tmp_path):
    """Built from the tracked files, installed into a new environment, which finds other packages but no checkout."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.split("\n"):
        if name.startswith(("semppl_mini/", "pyproject.toml", "README.md", "LICENSE")) and (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, tmp_path / "source"]
    subprocess.run([*pip, *build], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    own = sysconfig.get_paths(vars={"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")})["purelib"]
    subprocess.run([*pip, "install", "--no-deps", "--target", own, wheel], cwd=tmp_path, check=True)
    environment = {"PYTHONPATH": ":".join(site.getsitepackages()), "PATH": "", "OMP_NUM_THREADS": "1"}
    python = tmp_path / "env" / "bin" / "python"
    done = subprocess.run([python, "-c", TWO_STEPS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
