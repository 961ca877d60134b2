"""The notebooks as files: small, complete, tied to no machine. `make notebooks-test` runs them."""
import base64
import io
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import nbformat
import numpy as np
import papermill
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image
from prepare_notebooks import parameter_names

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
sys.path.insert(0, str(FOLDER))
import demo  # noqa: E402
import execute  # noqa: E402
import lab  # noqa: E402
import pictures  # noqa: E402

PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))
MACHINE_PATH = re.compile(r"/(home|root|work|tmp|Users)/|\b[A-Z]:\\\\")  # in JSON text a backslash is doubled
ASSERT = re.compile(r"^\s*assert\b|\bassert_\w+\(", re.MULTILINE)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def as_text(cell):
    """Source and outputs of a cell as JSON text, images left out."""
    outputs = [{**output, "data": {mime: value for mime, value in output.get("data", {}).items()
                                   if not mime.startswith("image/")}} for output in cell.get("outputs", [])]
    return json.dumps([cell.source, outputs])


def test_the_four_are_there():
    assert [path.name[:3] for path in PATHS][:4] == ["00_", "01_", "02_", "03_"]


def test_quick_parameters_name_every_notebook():
    quick = json.loads((FOLDER / "quick.json").read_text())
    assert sorted(quick) == [path.name for path in PATHS]


def test_quick_parameters_are_known(path, notebook):
    quick = json.loads((FOLDER / "quick.json").read_text())
    assert set(quick[path.name]) <= parameter_names(notebook)


def test_valid_with_kernel_python3(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_one_parameters_cell(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    assert parameter_names(notebook)


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 12, f"{len(lines)} lines:\n{cell.source}"


def test_outputs_of_one_clean_run(path, notebook):
    cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
    counts = [cell.execution_count for cell in cells]
    assert None not in counts, f"not executed:\n{cells[counts.index(None)].source}"
    assert counts == sorted(set(counts)), "cells ran out of order: restart and run all"
    assert not [cell for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_file_is_small(path):
    assert path.stat().st_size < 500_000


def pictures_of(notebook):
    """(source of its cell, output) of every figure."""
    return [(cell.source, output) for cell in code_cells(notebook) for output in cell.outputs
            if execute.PNG in output.get("data", {})]  # fmt: skip


def test_pictures_are_sharp_and_small(notebook):
    shown = [output for _, output in pictures_of(notebook)]
    assert shown
    for output in shown:
        png = base64.b64decode(output.data[execute.PNG])
        assert max(len(png), len(output.data.get(execute.SVG, ""))) <= 60_000
        inches = output.metadata[execute.PNG]["width"] / 96
        assert abs(Image.open(io.BytesIO(png)).width - 150 * inches) < 2


LINES = re.compile(r"plots\.(curves|pseudo_label_curves|agreement|live)|dot_panels|sweep_panels|^show\(|"
                   r"board\.(picture|forest)|_figure\(|temperature_explorer|k_explorer", re.MULTILINE)  # fmt: skip


def test_lines_and_dots_are_vectors_with_text(notebook):
    for source, output in pictures_of(notebook):
        if LINES.search(source):
            svg = output.data.get(execute.SVG, "")
            assert "<text" in svg and "<image" not in svg and "<metadata" not in svg, source
        else:
            assert execute.SVG not in output.data, source


def test_axes_with_numbers_have_names(notebook):
    """In the SVG an axis is a group, its ticks are groups in it, and its name is a text of its own."""
    for source, output in pictures_of(notebook):
        svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", output.data.get(execute.SVG, "<svg/>")).replace("xlink:", "")
        for axis in ElementTree.fromstring(svg).iterfind(".//g[@id]"):
            if axis.get("id").startswith("matplotlib.axis"):
                ticks = [g for g in axis if re.match("[xy]tick", g.get("id"))]
                shown = ["".join(text.itertext()) for g in ticks for text in g.iter("text")]
                numbers = [text for text in shown if re.fullmatch(r"[\s\d.,%\u2212-]+", text)]
                assert not numbers or len([text for g in axis if g not in ticks for text in g.iter("text")]), source


def test_links_the_card_of_symbols(notebook):
    assert "](../docs/symbols.md)" in notebook.cells[0].source


def test_links_lead_to_files(notebook):
    """A folder is no page: Lab says "File Load Error", the book has nothing to show."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for target in re.findall(r"\]\(([^)#]+)", "\n".join(texts)):
        assert "://" in target or (FOLDER / target).is_file(), target


def test_notebook_00_has_its_folder_before_it_trains(tmp_path):
    """The cells up to the parameters' check: what cannot be written is said there, not after two trainings."""
    cells = code_cells(nbformat.read(FOLDER / "00_start_here.ipynb", as_version=4))
    (tmp_path / "file").write_text("")
    names = {"repo_url": ""}
    exec(cells[1].source, names)
    names["out"] = str(tmp_path / "file")
    with pytest.raises(OSError, match="file is no folder to write to .*; give another, or free this one"):
        exec(cells[2].source, names)


def test_notebook_07_refuses_images_too_small_for_its_encoder_before_it_packs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {}
    cells = code_cells(nbformat.read(FOLDER / "07_your_own_images.ipynb", as_version=4))
    parameters, imports, check = (cell.source for cell in cells[:3])
    exec(parameters, names)
    exec(imports, names)
    names |= {"size": 11, "folder": str(tmp_path / "new")}
    with pytest.raises(ValueError, match="size = 11 is no whole number above 11; give 12 or more"):
        exec(check, names)
    assert not (tmp_path / "new").exists()
    exec(check, names | {"size": 12})
    assert (tmp_path / "new").is_dir()


def test_no_trace_of_papermill(notebook):
    assert "papermill" not in notebook.metadata
    assert not [cell for cell in notebook.cells if "papermill" in cell.metadata]
    assert not [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]


def test_no_path_of_a_machine(notebook):
    for cell in notebook.cells:
        found = MACHINE_PATH.search(as_text(cell))
        assert not found, f"{found.group()} in the cell or its output:\n{cell.source}"


def test_checks_itself(path, notebook):
    checked = [cell for cell in code_cells(notebook) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(checked) >= 3
    assert all(cell.outputs for cell in checked), "a cell tagged nbval-check-output shows nothing to compare"
    assert sum(len(ASSERT.findall(cell.source)) for cell in code_cells(notebook)) >= 3


def test_plumbing_is_folded_in_lab_and_book(notebook):
    plumbing = [cell for cell in code_cells(notebook) if re.search(r"check_parameters\(|google\.colab", cell.source)]
    assert plumbing
    for cell in plumbing:
        assert "hide-input" in cell.metadata.tags and cell.metadata.jupyter.source_hidden, cell.source


@pytest.mark.parametrize("colab, url", [(False, ""), (True, "https://github.com/o/n"), (True, "")])
def test_notebook_00_installs_the_package_on_colab_alone(colab, url, monkeypatch):
    """Its first cell of code, translated as a kernel does."""
    asked, cell = [], code_cells(nbformat.read(FOLDER / "00_start_here.ipynb", as_version=4))[0]
    code = TransformerManager().transform_cell(re.sub(r'repo_url = ".*?"', f'repo_url = "{url}"', cell.source))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    shell = SimpleNamespace(run_line_magic=lambda *words: asked.append(" ".join(words)), system=asked.append)
    monkeypatch.setattr(sys, "path", [*sys.path])
    given = {"get_ipython": lambda: shell}
    with pytest.raises(AssertionError, match="repo_url is empty") if colab and not url else nullcontext():
        exec(code, given)
    done = ["git clone -q --depth 1 {repo_url} semppl-mini", "pip install -q -e semppl-mini umap-learn"]
    assert asked == (done if colab and url else []) and (sys.path[0] == "semppl-mini") == bool(asked)


def run_cell(name, words, **given):
    """The names that are there after the one cell of a notebook that has these words."""
    (cell,) = [cell for cell in nbformat.read(FOLDER / name, as_version=4).cells if words in cell.source]
    exec(cell.source, given)
    return given


@pytest.mark.parametrize("names", [("knn20", "linear"), ("linear",)])
def test_the_table_of_notebook_00_has_what_there_is(names, capsys):
    """Ten labels are too few for the 20 nearest of them."""
    read = {"split": "test", "bank": 10, "few_label": 0.5} | dict.fromkeys(names, 0.5)
    module = SimpleNamespace(evaluate=lambda *_: read, raw_pixel_accuracy=lambda data: 0.4)
    encoders = dict.fromkeys(("SemPPL", "untrained", "augmentation-only"))
    given = dict(s=module, encoders=encoders, config=None, data=None)
    table = run_cell("00_start_here.ipynb", "raw_pixel_accuracy", **given)["table"]
    assert table["SemPPL"] == dict.fromkeys(names, 0.5) and len(capsys.readouterr().out.splitlines()) == 4


def test_notebook_00_says_what_it_can(capsys):
    say = run_cell("00_start_here.ipynb", "def say", s=SimpleNamespace(fit=lambda *_, **more: None), config=None,
                   data=None, plots=SimpleNamespace(live=lambda: None))["say"]  # fmt: skip
    for accuracy in (0.5, None):
        say(None, {"epoch": 3, "pseudo_label_accuracy": accuracy})
    assert [line.split("accuracy ")[1] for line in capsys.readouterr().out.splitlines()] == [" 50.0%", "unknown"]


def test_the_demo_prints_what_the_notebook_prints_and_nothing_else(tmp_path, capfd, monkeypatch):
    """No word of a kernel about its sockets, nor "ERROR" at its end."""
    lines = 'print("seen")', "from pathlib import Path", 'n = Path(out, "summary.json").write_text("{}")'
    cells = [nbformat.v4.new_code_cell('out = ""', metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("\n".join(lines))]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    monkeypatch.setattr(demo, "lesson", lambda path: nbformat.v4.new_notebook(cells=cells, metadata=kernel))
    assert demo.run(0, tmp_path, 0) == {}
    said = capfd.readouterr()
    assert said.out == "seen\n" and "IPKernelApp" not in said.err


@pytest.mark.parametrize("few", [False, True])
def test_the_demo_has_a_row_for_what_was_counted(few):
    read = {} if few else {"knn20": 0.8}
    accuracy = {name: read | {"linear": 0.9} for name in ("untrained", "augmentation-only", "SemPPL")}
    history = [{"pseudo_label_accuracy": share} for share in (None if few else 0.1, 0.9)]
    summary = {"history": history, "augmentation_only": history, "accuracy": accuracy | {"raw pixels": {"knn1": 0.4}}}
    row = demo.row_of(summary)
    assert len(row) == (6 if few else 10) and None not in row.values() and ("SemPPL, k-NN" in row) != few


@pytest.mark.parametrize("used, rows", [(1, 1), (3, 3), (27, 5), (29, 5), (100, 5)])
def test_the_gallery_of_notebook_05_shows_prototypes_in_use(used, rows):
    choice = torch.arange(400) % used
    shown, truth = [], torch.arange(400) % 10
    given = dict(counts=choice.bincount(minlength=1024), choice=choice, images=truth, truth=truth)
    given |= dict(image_rows=lambda rows, n: shown.append(rows), data=SimpleNamespace(classes="0123456789"))
    run_cell("05_random_partitions_carp.ipynb", "image_rows(", **given)
    assert len(shown[0]) == rows and all(len(good) for _, _, good in shown[0])


def test_the_gallery_of_notebook_04_leaves_empty_clusters_out():
    y, shown = torch.tensor([0, 0, 2]), []
    config = SimpleNamespace(clusters=(9,))
    most = lambda k: (None, (y == k).nonzero(), str(int(y[y == k].mode().values)))  # noqa: E731
    run_cell("04_false_negatives_ifnd.ipynb", "image_rows(", y=y, level=0, config=config, most_trusted=most,
             torch=torch, image_rows=lambda rows, n: shown.append(rows))  # fmt: skip
    assert [name for name, *_ in shown[0]] == ["2: 0", "1: 2"]


def test_no_pixel_is_in_a_training_and_in_a_test_patch():
    photo = np.arange(427 * 640).reshape(427, 640, 1)  # each pixel says where it is
    found = pictures.patches(photo, np.random.default_rng(0))
    assert {kind: len(images) for kind, images in found.items()} == {"test": 50, "train": 60, "unlabelled": 180}
    test, *others = (np.unique(np.stack(images)) for images in found.values())
    assert {image.shape for images in found.values() for image in images} == {(48, 48, 1)}
    assert len(test) > 10_000 and not np.isin(test, np.concatenate(others)).any()


def test_pictures_are_whole_or_not_there(tmp_path, monkeypatch):
    folder = tmp_path / "patches"
    photographs = pictures.photographs()
    with monkeypatch.context() as torn, pytest.raises(TypeError):  # the third cannot be written
        torn.setattr(pictures, "photographs", lambda: photographs | {"portrait": photographs["portrait"] / 255})
        pictures.cut(folder)
    assert not folder.exists()
    assert pictures.cut(folder) == folder and len(list(folder.glob("*/*/*.png"))) == 3 * (50 + 60 + 180)
    (folder / "test" / "dahlia" / "000.png").unlink()
    assert len(list(pictures.cut(folder).glob("*/*/*.png"))) == 869  # what is there stays as it is


def test_a_saved_notebook_is_small_and_says_the_same():
    """One text for pieces of it, no stderr, no widget, and the same picture with fewer colours."""
    file, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    picture = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
    printed = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in
               (("stdout", "a"), ("stderr", "warning"), ("stdout", "b"))]  # fmt: skip
    shown = [nbformat.v4.new_output("display_data", data) for data in (picture, {execute.WIDGET: {}})]
    cell = nbformat.v4.new_code_cell("1", outputs=printed + shown, metadata={"papermill": {}, "tags": ["kept"]})
    saved = execute.tidy(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}})).cells[0]
    assert [o.get("text") for o in saved.outputs] == ["ab", None] and saved.metadata == {"tags": ["kept"]}
    png = base64.b64decode(saved.outputs[1].data["image/png"])
    error = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) - noise
    assert len(png) < len(file.getvalue()) / 2 and np.abs(error).mean() < 30


def test_an_executed_notebook_has_the_same_bytes_again(tmp_path, monkeypatch):
    """A figure of lines as PNG and SVG, a photograph as PNG alone."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # of the tests
    cells = ["from semppl_mini import plots", "plots.agreement([1.0, 0.5], [True, False])",
             "import torch\nplots.view_grid(grey := torch.full((2, 3, 8, 8), 0.5), [grey])"]  # fmt: skip
    made = []
    for _ in range(2):
        path = tmp_path / "of_lines.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell, id=f"{i}") for i, cell in
                                                       enumerate(cells)]), path)  # fmt: skip
        execute.execute(path)
        made.append(path.read_bytes())
    lines, photograph = (output for _, output in pictures_of(nbformat.read(path, as_version=4)))
    assert made[0] == made[1] and list(tmp_path.iterdir()) == [path]
    assert ">right pseudo-labels</text>" in lines.data[execute.SVG] and execute.SVG not in photograph.data
    assert 600 < lines.metadata[execute.PNG]["width"] < 660  # 6.5 inches and a margin


def test_a_figure_is_an_image_in_a_notebook_that_has_opened_no_backend():
    """Jupyter shows a figure as an image only once pyplot has made one, in a process of its own."""
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
from semppl_mini import plots
shown, _ = shell.display_formatter.format(plots.agreement([1.0, 0.5], [True, False]))
assert "image/png" in shown, shown
assert not plots.plt.get_fignums()  # or it would be shown again at the end of the cell
"""
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, env=environment, check=True)


# ---- a reader's own copies, other parameters


@pytest.fixture
def folder(tmp_path):
    for path in PATHS:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_the_lab_makes_copies_whose_links_lead_to_copies(folder):
    made = lab.copies(folder)
    assert [path.name for path in made] == [f"my_{path.name}" for path in PATHS]
    for path, original in zip(made, PATHS, strict=True):
        text = path.read_text()
        for link in re.findall(r"\]\(([^)#]*\.ipynb)", text):
            assert link.startswith("my_") and (folder / link).is_file(), link
        nbformat.validate(nbformat.read(path, as_version=4))
        assert text.replace("](my_", "](") == nbformat.writes(nbformat.read(original, as_version=4)).rstrip() + "\n"


def test_the_lab_keeps_copies_and_says_which_are_old(folder, capsys):
    made = lab.copies(folder)
    made[0].write_text("mine")
    os.utime(folder / PATHS[0].name, (2e9, 2e9))  # pulled later
    lab.copies(folder)
    assert made[0].read_text() == "mine"
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{made[0].name} is older than {PATHS[0].name}: delete or rename it")


def test_git_and_our_tools_pass_over_copies(folder):
    made = FOLDER / f"my_{PATHS[0].name}"
    assert subprocess.run(["git", "check-ignore", "-q", made], cwd=FOLDER).returncode in (0, 128)  # 128: no checkout
    assert made not in PATHS and not made.match("[0-9]*.ipynb")


def test_papermill_with_an_unknown_parameter_stops_before_training(tmp_path):
    words = "no parameter 'epoch'; the nearest is 'epochs'"
    with pytest.raises(papermill.PapermillExecutionError, match=words) as error:
        papermill.execute_notebook(FOLDER / "00_start_here.ipynb", tmp_path / "out.ipynb", {"epoch": 1, "seed": 1},
                                   kernel_name="python3", progress_bar=False)  # fmt: skip
    assert error.value.exec_count <= 4  # papermill counts its own cell; of Colab, of the parameters, of their check
