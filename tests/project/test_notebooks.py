"""The notebooks as files: small, complete, tied to no machine. `make notebooks-test` runs them."""
import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from prepare_notebooks import parameter_names

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
sys.path.insert(0, str(FOLDER))
import execute  # noqa: E402

PATHS = sorted(FOLDER.glob("*.ipynb"))
MACHINE_PATH = re.compile(r"/(home|root|work|tmp|Users)/|\b[A-Z]:\\\\")  # in JSON text a backslash is doubled
CHECK = re.compile(r"^\s*#\s*NBVAL_CHECK_OUTPUT\s*$", re.MULTILINE)
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


def test_no_trace_of_papermill(notebook):
    assert "papermill" not in notebook.metadata
    assert not [cell for cell in notebook.cells if "papermill" in cell.metadata]
    assert not [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]


def test_no_path_of_a_machine(notebook):
    for cell in notebook.cells:
        found = MACHINE_PATH.search(as_text(cell))
        assert not found, f"{found.group()} in the cell or its output:\n{cell.source}"


def test_checks_itself(path, notebook):
    checked = [cell for cell in code_cells(notebook) if CHECK.search(cell.source)]
    assert len(checked) >= 3
    assert all(cell.outputs for cell in checked), "a cell marked NBVAL_CHECK_OUTPUT shows nothing to compare"
    assert sum(len(ASSERT.findall(cell.source)) for cell in code_cells(notebook)) >= 3


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
