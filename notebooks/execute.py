"""Execute notebooks in place with their default parameters, and save them as they are committed.

    python notebooks/execute.py notebooks/01_the_pieces.ipynb ...

Left out: papermill's metadata, widget states (pictures beside them stay), what went to stderr. A figure is a PNG of 150
dots an inch with 256 colours or fewer, of 50 KB at most. Drawn of few lines and no photograph it is an SVG, too, which
the book and a trusted notebook in JupyterLab show in its place; a notebook that is not trusted yet, and GitHub, show
the PNG. A notebook that fails is left as it was.
"""

import base64
import io
import re
from pathlib import Path

import nbformat
import papermill
from PIL import Image

from semppl_mini.keeping.command import Parser, command

WIDGET, PNG, SVG = "application/vnd.jupyter.widget-view+json", "image/png", "image/svg+xml"
DPI, LIMIT, SVG_LIMIT = 150, 50_000, 60_000  # bytes of a picture
# an SVG has text as text, and the same bytes whenever it is drawn
RC = {"svg.fonttype": "none", "svg.hashsalt": "semppl-mini", "font.sans-serif": ["DejaVu Sans"]}
KERNEL = [
    "--InlineBackend.figure_formats={'png', 'svg'}",
    f"--InlineBackend.print_figure_kwargs={{'bbox_inches': 'tight', 'dpi': {DPI}}}",
    f"--IPKernelApp.exec_lines=import matplotlib; matplotlib.rcParams.update({RC})",
]
PLAIN = (  # what of an SVG is replaced: what comes before it, its date, turns by nothing, lines, thousandths of a point
    (r'^.*?(?=<svg)|<metadata>.*?</metadata>| transform="rotate\(-0 .*?\)"', ""),
    (r"\s+", " "),
    (r"(\.\d\d)\d{3,4}(?!\d)", r"\1"),
)


def execute(path: Path) -> None:
    """Run the notebook from its own folder; papermill raises if a cell does."""
    half = path.with_suffix(".part")
    options = dict(kernel_name="python3", cwd=str(path.parent), extra_arguments=KERNEL)
    try:
        papermill.execute_notebook(str(path), str(half), **options)
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
        if PNG in output.get("data", {}):
            shrink(output)
        kept.append(output)
    return kept


def shrink(output) -> None:
    """A figure's PNG with a palette, shown at its size in inches; its SVG, if it is small, as a line without a date."""
    output.data[PNG], (width, height) = smaller(output.data[PNG])
    output.metadata[PNG] = {"width": width * 96 // DPI, "height": height * 96 // DPI}  # a browser's inch is 96 pixels
    svg = output.data.pop(SVG, "<image")
    for pattern, kept in PLAIN:
        svg = re.sub(pattern, kept, svg, flags=re.DOTALL)
    if "<image" not in svg and len(svg) <= SVG_LIMIT:
        output.data[SVG] = svg


def smaller(png: str) -> tuple[str, tuple[int, int]]:
    """A base64 PNG with the most of 256, 128, 64, 32 colours that keep it within the limit; its size in pixels."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        picture.quantize(colours, kmeans=1, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= LIMIT:
            break
    return base64.b64encode(file.getvalue()).decode(), picture.size


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
