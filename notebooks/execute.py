"""Execute notebooks in place with their default parameters, and save them as they are committed.

    python notebooks/execute.py notebooks/01_the_pieces.ipynb ...

Left out: papermill's metadata, widget states (pictures beside them stay), what went to stderr. Pictures are
reduced to 256 colours, a third of their bytes. A notebook that fails is left as it was.
"""

import base64
import io
from pathlib import Path

import nbformat
import papermill
from PIL import Image

from semppl_mini.keeping.command import Parser, command

WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> None:
    """Run the notebook from its own folder; papermill raises if a cell does."""
    half = path.with_suffix(".part")
    try:
        papermill.execute_notebook(str(path), str(half), kernel_name="python3", cwd=str(path.parent))
        notebook = nbformat.read(half, as_version=4)
    finally:
        half.unlink(missing_ok=True)
    nbformat.write(tidy(notebook), path)


def tidy(notebook):
    """The same notebook without what the docstring above lists."""
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            shown = (o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {}))
            cell.outputs = merged(shown)
    return notebook


def merged(outputs) -> list:
    """Outputs with neighbouring pieces of printed text joined and pictures made smaller."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
            continue
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = smaller(output.data["image/png"])
        kept.append(output)
    return kept


def smaller(png: str) -> str:
    """A base64 PNG with 256 colours."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    paths = parser.parse_args().notebooks
    for path in paths:
        if not path.is_file() or path.suffix != ".ipynb":
            raise ValueError(f"{path} is no notebook; give paths that end in .ipynb.")
    for path in paths:
        execute(path)


if __name__ == "__main__":
    command(main, "notebooks/execute.py")
