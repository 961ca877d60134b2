"""`make lab`: JupyterLab at notebook 00, in a reader's own copies of the notebooks.

    python notebooks/lab.py --no-browser --port 8899      options are JupyterLab's

Lab writes what a reader runs and answers into notebooks/my_00_start_here.ipynb and so on, which git ignores; links
between notebooks lead to copies, too. A copy that is there stays as it is: delete it for a new one.
"""

import os
import re
import sys
from pathlib import Path

import nbformat

FOLDER = Path(__file__).resolve().parent
LINK = re.compile(r"\]\((?=\d\d_\w+\.ipynb\b)")  # ](00_start_here.ipynb


def copies(folder: Path = FOLDER) -> list[Path]:
    """Make the copies that are missing -> all of them, my_00 first; says which are older than their notebook."""
    made = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        copy = path.with_name(f"my_{path.name}")
        if not copy.exists():
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = LINK.sub("](my_", cell.source)
            nbformat.write(notebook, copy)
        elif copy.stat().st_mtime < path.stat().st_mtime:
            print(f"{copy.name} is older than {path.name}: delete or rename it, and the next start copies anew.")
        made.append(copy)
    return made


def main() -> None:
    first = copies()[0].name
    root, url = f"--ServerApp.root_dir={FOLDER.parent}", f"--LabApp.default_url=/lab/tree/{FOLDER.name}/{first}"
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", root, url, *sys.argv[1:]])


if __name__ == "__main__":
    main()
