"""The project as a whole: one list of packages, public names, size, safe loading, nothing of one machine."""
import ast
import importlib.util
import inspect
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

import semppl_mini
from semppl_mini.lars import LARS

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED = "torch torchvision jupyterlab matplotlib umap-learn ipywidgets nbval papermill".split()
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.-])/(home|root|work|tmp|Users)/\w|\b[A-Z]:\\+Users",
    "loading that runs pickled code": r"weights_only\s*=\s*False|allow_pickle\s*=\s*True",
}


def tracked_files():
    """Files under version control, and those that are about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pip_packages():
    extras = PYPROJECT["project"]["optional-dependencies"]
    packages = PYPROJECT["project"]["dependencies"] + extras["notebooks"] + extras["test"]
    return sorted(package for package in packages if not package.startswith("semppl-mini"))


# --- packages

def test_conda_and_pip_list_the_same_packages():
    text = (ROOT / "environment.yml").read_text().split("dependencies:")[1]
    listed = re.findall(r"^  - ([\w.><=-]+)$", text, re.MULTILINE)
    python = "python" + PYPROJECT["project"]["requires-python"]
    assert python in listed
    listed = [re.sub(r"^pytorch\b", "torch", package) for package in listed if package not in (python, "pip")]
    assert sorted(listed) == pip_packages()


def test_the_eight_named_packages_are_listed():
    assert set(NAMED) <= {re.match(r"[\w-]+", package).group() for package in pip_packages()}


def test_every_other_package_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    entries = {found.group(1): line for line in lines if (found := re.match(r' {4}"([a-z][\w-]*).*",', line))}
    assert set(NAMED) < set(entries)
    others = set(entries) - {*NAMED, "semppl-mini"}
    assert not [name for name in others if "  # " not in entries[name]]


def test_version_and_citation_agree():
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


# --- the public face

PUBLIC = "Config presets load_data SemPPL fit load_run knn_accuracy linear_probe".split()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name(name):
    assert hasattr(semppl_mini, name)


@pytest.mark.parametrize("preset", ["digits", "cifar10", "cifar10_cpu", "cifar100"])
def test_preset_is_a_config(preset):
    assert isinstance(getattr(semppl_mini.presets, preset)(), semppl_mini.Config)


@pytest.mark.parametrize("name, parameters", [
    ("load_data", ["name_or_path"]), ("fit", ["config", "data"]), ("SemPPL", ["config", "num_classes"])])
def test_public_signature(name, parameters):
    signature = inspect.signature(getattr(semppl_mini, name))
    assert list(signature.parameters)[:len(parameters)] == parameters


def test_lars_is_a_torch_optimizer():
    assert issubclass(LARS, torch.optim.Optimizer)
    assert list(inspect.signature(LARS).parameters) == ["params", "lr", "momentum", "weight_decay", "eta"]


# --- safety, portability

@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_contains(what):
    found = []
    for path in tracked_files():
        if match := re.search(FORBIDDEN[what], path.read_text(errors="ignore")):
            found.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert not found


def unsafe_loads(source):
    """Line numbers of the calls of `torch.load`, however imported, that do not say weights_only=True."""
    nodes = list(ast.walk(ast.parse(source)))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "torch"]
    names = {alias.asname or alias.name for node in imports for alias in node.names if alias.name == "load"}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) in names | {"torch.load"}]
    safe = "weights_only=True"
    return [call.lineno for call in loads if safe not in [ast.unparse(word) for word in call.keywords]]


@pytest.mark.parametrize("source, lines", [
    ("torch.load(p)", [1]),
    ("x = 1\ntorch.load(p, weights_only=flag)", [2]),
    ("torch.load(p, **options)", [1]),
    ("from torch import load as get\nget(p)", [2]),
    ("torch.load(p, weights_only=True)", []),
    ("np.load(p)", []),
])
def test_unsafe_loads_are_found(source, lines):
    assert unsafe_loads(source) == lines


def test_torch_load_takes_weights_only():
    for path in tracked_files():
        if path.suffix == ".py":
            assert not unsafe_loads(path.read_text()), path.relative_to(ROOT)


# --- the README

def code_in(markdown):
    """Fenced blocks, indented blocks and inline code of a Markdown text."""
    fenced = re.findall(r"^```.*?$(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return fenced + re.findall(r"^    .*$", markdown, re.MULTILINE) + re.findall(r"`([^`\n]+)`", markdown)


def test_readme_commands_exist():
    readme = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"\bmake ([a-z][a-z-]*)(?=[\s`]|$)", "\n".join(code_in(readme))))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= commands <= targets
    for script in re.findall(r"\bpython (\S+\.py)\b", readme):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"\bpython -m (semppl_mini[\w.]*)", readme):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), module


# --- the one address

@pytest.fixture
def address():
    """docs/repo_url.py as a module."""
    spec = importlib.util.spec_from_file_location("repo_url", ROOT / "docs" / "repo_url.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_badges_and_notebook_have_the_one_address(address):
    url, readme, first = address.repo_url(), (ROOT / "README.md").read_text(), (ROOT / address.FIRST).read_text()
    assert address.with_badges(readme, url) == readme and address.with_address(first, url) == first
    assert len(re.findall(r"\S*(?:colab\.research|mybinder)\S*", readme)) == (4 if url else 0)


def test_an_address_comes_and_goes(address):
    """Written into both, and taken back, byte by byte; the cell installs from it."""
    url, readme, first = "https://github.com/o/n", (ROOT / "README.md").read_text(), (ROOT / address.FIRST).read_text()
    new, cell = address.with_badges(readme, url), address.with_address(first, url)
    assert f"https://colab.research.google.com/github/o/n/blob/main/{address.FIRST}" in new
    assert "mybinder.org/v2/gh/o/n/main" in new
    assert len(new.splitlines()) == len(readme.splitlines())
    first_code = next(c for c in json.loads(cell)["cells"] if c["cell_type"] == "code")
    assert f'repo_url = "{url}"' in "".join(first_code["source"])
    assert address.with_badges(new, address.repo_url()) == readme
    assert address.with_address(cell, address.repo_url()) == first


@pytest.mark.parametrize("url", ["http://github.com/o/n", "https://example.org/o/n", "github.com/o/n", "https://github.com/o"])
def test_an_address_that_colab_cannot_open_is_refused(url, address, tmp_path):
    (tmp_path / "pyproject.toml").write_text(f'[tool.semppl_mini]\nrepo_url = "{url}"\n')
    with pytest.raises(ValueError, match="give https://github.com/OWNER/NAME"):
        address.repo_url(tmp_path)
