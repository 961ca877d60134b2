"""`make demo`: notebook 00 on the embedded data, once a seed, and the table of what came out.

Leaves the executed notebook, its figures and summary.json in OUT (OUT/seed1, OUT/seed2, ... for further seeds).
"""

import json
from pathlib import Path
from statistics import mean, stdev

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from semppl_mini.files import make_folder
from semppl_mini.keeping.command import Parser, command

NOTEBOOK = Path(__file__).with_name("00_start_here.ipynb")


def run(seed: int, out: Path, epochs: int) -> dict:
    """Execute the notebook with one seed; its printed lines appear as they come. Returns its summary."""
    make_folder(out)
    parameters = {"seed": seed, "epochs": epochs, "out": str(out.resolve())}
    target = str(out / NOTEBOOK.name)
    quiet = ["--log-level=CRITICAL"]  # of its sockets, and of the interrupt by which it is ended
    options = dict(progress_bar=False, stdout_file=Echo(), kernel_name="python3", extra_arguments=quiet)
    try:
        papermill.execute_notebook(lesson(NOTEBOOK), target, parameters, **options)
    except PapermillExecutionError as error:
        raise ValueError(f"{target} stopped in cell {error.exec_count} ({error.ename}): {error.evalue}") from None
    return json.loads((out / "summary.json").read_text())


def lesson(path: Path):
    """The notebook without its exercises: an answer that is not right yet is no fault of the run. Headings are printed,
    so that those who wait know for what."""
    notebook, cells = nbformat.read(path, as_version=4), []
    for cell in notebook.cells:
        cells += [cell] if "exercise" not in cell.metadata.get("tags", []) else []
        heading = cell.source.partition("\n")[0] if cell.cell_type == "markdown" else ""
        if heading.startswith("## ") and heading != "## Exercises":
            cells.append(nbformat.v4.new_code_cell(f"print({heading[3:]!r}, flush=True)"))
    notebook.cells = cells
    return notebook


def row_of(summary: dict) -> dict:
    """The shares in a summary by name, but for what could not be counted, as k-NN of fewer than 20 labels."""
    accuracy, loop = summary["accuracy"], [r["pseudo_label_accuracy"] for r in summary["history"]]
    row = {"votes, untrained": loop[0], "votes, SemPPL": loop[-1]}
    row["votes, augmentation-only"] = summary["augmentation_only"][-1]["pseudo_label_accuracy"]
    row["raw pixels, 1-NN"] = accuracy["raw pixels"]["knn1"]
    trained = ("untrained", "augmentation-only", "SemPPL")
    row |= {f"{name}, k-NN": accuracy[name].get("knn20") for name in trained}
    row |= {f"{name}, linear": accuracy[name]["linear"] for name in trained}
    return {name: share for name, share in row.items() if share is not None}


class Echo:
    """A file that prints, line by line, what the notebook prints."""

    def write(self, text: str) -> None:
        print(text, end="", flush=True)

    def flush(self) -> None:
        pass


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--epochs", type=int, default=0, help="0: as in the preset")
    args = parser.parse_args()
    parser.whole("--seeds", args.seeds, 1)
    parser.whole("--epochs", args.epochs, 0)
    rows = []
    for seed in range(args.seeds):
        rows.append(row_of(run(seed, args.out if seed == 0 else args.out / f"seed{seed}", args.epochs)))
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        spread = f"  mean {mean(values):6.1%} ± {stdev(values):.1%}" if len(values) > 1 else ""
        print(f"{name:26s}", "  ".join(f"{value:6.1%}" for value in values), spread)
    print(f"notebook, figures and summary.json: {args.out}")


if __name__ == "__main__":
    command(main, "notebooks/demo.py")
