"""Copy every notebook into .notebooks-quick/ with the small parameters of notebooks/quick.json.

Cells, stored outputs and execution counts stay, so that nbval can compare the marked cells.
"""
import ast
import json
import shutil
import sys
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / ".notebooks-quick"


def parameter_names(notebook):
    """Names set in the cells tagged `parameters`; papermill itself only warns about an unknown one."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def main():
    parameters = json.loads((ROOT / "notebooks" / "quick.json").read_text())
    shutil.rmtree(QUICK, ignore_errors=True)
    QUICK.mkdir()
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):  # not a reader's copies, my_*
        unknown = set(parameters[path.name]) - parameter_names(nbformat.read(path, as_version=4))
        if unknown:
            sys.exit(f"notebooks/quick.json gives {path.name} {sorted(unknown)}, which its parameters cell "
                     "does not define: correct the names.")
        papermill.execute_notebook(path, QUICK / path.name, parameters[path.name], prepare_only=True)


if __name__ == "__main__":
    main()
