"""Writes the tables of README.md and docs/ from the JSON files of the runs: python docs/tables.py

A table stands between the comments `table: NAME` and `end` of a page; everything between them is replaced. First the
rule of each table, as data: its columns, each with the place of its number in a JSON file, and its rows, each with the
files it is the mean of (±: standard deviation). A share is written in percent.
Links to a line of code, which have the words of that line as their title, get its present number.
"""

import json
import re
import sys
from pathlib import Path
from statistics import mean, stdev

import semppl_mini

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))
import board  # noqa: E402  # the tables of docs/claims.md
import claims  # noqa: E402

# ---- results: notebooks/results ------------------------------------------------------------------------------------

DIGITS = ("pseudo-labels", "k-NN", "linear")
FRONT_ROWS = {  # row: its files (demo.json has all seeds), and the places of the three numbers
    "untrained network":
        ("demo", "history.0.pseudo_label_accuracy", "accuracy.untrained.knn20", "accuracy.untrained.linear"),
    "augmentation-only: SemPPL without semantic positives":
        ("demo", "augmentation_only.-1.pseudo_label_accuracy", "accuracy.augmentation-only.knn20",
         "accuracy.augmentation-only.linear"),
    "**SemPPL**": ("demo", "history.-1.pseudo_label_accuracy", "accuracy.SemPPL.knn20", "accuracy.SemPPL.linear"),
    "supervised-only, its own classifier": ("supervised-100-seed*", "", "", "results.supervised"),
}  # fmt: skip
DIGITS_ROWS = {"raw pixels, k = 1": ("demo", "", "accuracy.raw pixels.knn1", "")} | FRONT_ROWS

CIFAR10 = {  # column: the place of its number; "a or b": b where there is no a
    "k-NN": "results.knn20",
    "linear": "results.linear",
    "all weights": "results.fine_tuned or results.supervised",
    "pseudo-labels": "history.-1.pseudo_label_accuracy",
    "linear, all labels": "results.linear_all",
}
LABELS_500 = {  # row: its files
    "**SemPPL**": "semppl-500-seed*",
    "the same, 35 epochs at `lr` 0.004": "semppl-500-35epochs-seed*",
    "augmentation-only": "augmentation-500-seed*",
    "supervised-only": "supervised-500-seed*",
    "*oracle*": "oracle-500-seed*",
}
LABELS_250 = {"SemPPL, 250 labels": "semppl-250-seed*", "supervised-only, 250 labels": "supervised-250-seed*"}

BUDGET = {
    "k-NN": "results.knn20", "linear": "results.linear", "SVM, 5 a class": "measures.few_shot.5.mean",
    "corrupted": "measures.robustness.mean",
}  # fmt: skip
UNLABELLED = {
    "NMI": "measures.clustering.nmi", "adjusted Rand": "measures.clustering.ari",
    "retrieval": "measures.retrieval", "copies": "measures.copies.first",
}  # fmt: skip
BUDGET_ROWS = {
    "SemPPL, 12 epochs": "compare-semppl-seed*",
    "augmentation-only, 12 epochs": "compare-augmentation-seed*",
    "IFND, 12 epochs": "compare-ifnd-seed*",
    "CARP, 9 epochs": "compare-carp-seed*",
    "untrained network": "compare-untrained-seed*",
    "raw pixels": "compare-pixels",
}
TRANSFER = {"k-NN": "results.knn20", "linear": "results.linear"}
TRANSFER_ROWS = {
    "SemPPL, trained on CIFAR-10, read out on the digits": "semppl-cifar10-on-digits",
    "IFND, the same": "ifnd-cifar10-on-digits",
}

# ---- speed: benchmarks/results.json --------------------------------------------------------------------------------

SPEED = {  # row: a question of benchmarks/README.md, and its first line of that name
    "training step / bare passes of its networks, `cifar10_cpu`": ("a", "CIFAR-10 CPU preset: step / bare passes"),
    "the same without views / bare passes, optimizer and EMA": (
        "a", "  the same / bare passes, optimizer, EMA"),
    "training step / bare passes, width 16, 2 views": ("a", "width 16, 2 views: step / bare passes"),
    "training step / bare passes, width 16, 4 + 2 views": ("a", "width 16, 4 + 2 views: step / bare passes"),
    "images/s / lightly's BYOL, width 16": ("b", "width 16, stride-1 stem: equal precision (fp32)"),
    "the same, lightly in channels-last, too": ("b", "  ours / lightly in channels-last"),
    "the same, each with its own defaults": ("b", "width 16, stride-1 stem: own defaults"),
    "images/s / lightly's BYOL, width 16, stride-2 stem": ("b", "width 16, stride-2 stem: equal precision (fp32)"),
    "batched views / torchvision's v2, on tensors": ("c", "32 pixels, no blur: v2 on tensors"),
    "batched views / torchvision's v2, on PIL images": ("c", "  PIL"),
    "16 votes of 1,024 images among 81,920 keys / faiss": ("d", "16 votes, B 1,024, Q 81,920, D 256: IndexFlatIP"),
    "LARS on ResNet-50 / timm's": ("e", "LARS on ResNet-50: timm's Lars"),
    "EMA on ResNet-50 / torch's `AveragedModel`": ("e", "EMA on ResNet-50: torch's AveragedModel"),
    "two processes, B 128 / one with B 64, a thread each": ("h", "two processes, B 128 / one with B 64, a thread each"),
}

# ---- on a GPU: benchmarks/gpu-h100.json ----------------------------------------------------------------------------

GPU = {  # row: the place of its number, under a part's name and a preset's
    "operations dispatched in a step": ("waits", "operations.by device.cuda"),
    "waits of the host for the GPU in a step": ("waits", "host waits.all"),
    "kernels started in a step": ("waits", "kernels.launched"),
    "ms of the GPU in a step": ("waits", "kernels.GPU ms"),
    "ms of a step, `graph=False`": ("speed", "cudnn benchmark=True.ms.step, graph=False"),
    "ms of a step, `graph=True`": ("speed", "cudnn benchmark=True.ms.step, graph=True"),
    "images/s, `graph=True`": ("speed", "cudnn benchmark=True.images/s.step, graph=True"),
    "ms of its views, one by one": ("speed", "cudnn benchmark=True.ms.views"),
    "ms of its networks, forward and backward, one by one": ("speed", "cudnn benchmark=True.ms.networks"),
    "ms of optimizer and EMA": ("speed", "cudnn benchmark=True.ms.optimizer, EMA"),
    "float64: largest relative difference of a term from the CPU's, four steps": ("parity", "fp64.terms.largest"),
    "the same in float32, without TF32": ("parity", "fp32.terms.largest"),
    "tensors of two runs in bf16 that differ in a bit": ("parity", "bf16 twice, cudnn deterministic=False.unequal"),
}  # fmt: skip

# ---- the search for a recipe: benchmarks/speedruns -----------------------------------------------------------------

START = "cifar10_cpu-epochs=4-seed0"

# ---- the same for the relatives: benchmarks/relatives --------------------------------------------------------------

IFND_START, CARP_START = "cifar10_cpu_ifnd-epochs=4-seed0", "cifar10_cpu_carp-epochs=4-seed0"

# ---- others, in equal minutes: benchmarks/yardsticks, speedruns, relatives, and minutes.json -----------------------

YARDSTICKS = {  # (method, steps): (its files in benchmarks/, its name in minutes.json, runs of its search)
    ("**SemPPL**", "4 epochs"): ("speedruns/cifar10_cpu-epochs=4-negatives=127-lr=0.007-large_scale=(0.5,1.0)-seed*",
                                 "SemPPL", "22"),
    ("**SemPPL**", "12 epochs, `cifar10_cpu`"): ("yardsticks/cifar10_cpu-seed*", "SemPPL", ""),
    ("**SemPPL**", "35 epochs, `lr` 0.004"): ("yardsticks/cifar10_cpu-epochs=35-lr=0.004-seed*", "SemPPL", "1"),
    ("augmentation-only", "12 epochs"): ("yardsticks/cifar10_cpu-semantic_positives=0-seed*", "augmentation-only",
                                         "SemPPL's"),
    ("FixMatch", "12 epochs"): ("yardsticks/fixmatch-12epochs-seed*", "FixMatch", "1"),
    ("IFND", "12 epochs, `cifar10_cpu_ifnd`"): ("yardsticks/cifar10_cpu_ifnd-seed*", "IFND", "4"),
    ("CARP", "9 epochs, `cifar10_cpu_carp`"): ("yardsticks/cifar10_cpu_carp-seed*", "CARP", "5"),
    ("lightly's SimCLR", "6 epochs"): ("yardsticks/lightly-simclr-epochs=6-seed*", "lightly's SimCLR", "its own"),
    ("supervised-only", "2,000 steps"): ("yardsticks/supervised-muon-lr=0.03-steps=2000-seed*", "supervised-only", "3"),
}  # fmt: skip

# ---- from here on: reading, averaging, writing ---------------------------------------------------------------------


def kept(pattern: str) -> list[dict]:
    """The runs of the files that fit, one a seed."""
    files = {path.stem: json.loads(path.read_text()) for path in sorted(ROOT.glob("notebooks/results/**/*.json"))}
    found = [run for name, run in files.items() if Path(name).match(pattern)]
    assert found, f"no file of notebooks/results is called {pattern}.json"
    return [seed for run in found for seed in run.get("seeds", [run])]


def number(run: dict, places: str):
    """The number at the first of the places that the run has, or None."""
    for place in places.split(" or "):
        part = run
        for key in place.split("."):
            part = part[int(key)] if isinstance(part, list) else (part or {}).get(key)
        if part is not None:
            return part


def cell(runs: list[dict], places: str) -> str:
    values = [value for run in runs if (value := number(run, places)) is not None]
    assert len(values) in (0, len(runs)), f"{places} is in {len(values)} of {len(runs)} files"
    if not values:
        return ""
    spread = stdev(values) if len(values) > 1 else 0
    return f"{100 * mean(values):.1f}" + (f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * spread:.1f}" if spread else "")


def markdown(header, rows) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [("", *header), "-" * (1 + len(header)), *rows])


def digits(rows: dict) -> str:
    found = {row: (kept(files), places) for row, (files, *places) in rows.items()}
    return markdown(DIGITS, [(row, *(cell(runs, place) for place in places)) for row, (runs, places) in found.items()])


def results(columns: dict, rows: dict) -> str:
    lines = []
    for row, files in rows.items():
        runs = kept(files)
        lines.append((row, str(len(runs)), *(cell(runs, place) for place in columns.values()), f"`{files}`"))
    assert all(map(any, zip(*lines, strict=True))), "a column is empty: no file has a number at its place"
    return markdown(("seeds", *columns, "file"), lines)


def ratio(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}"


def speed() -> str:
    measured, rows = json.loads((ROOT / "benchmarks/results.json").read_text()), []
    for row, (question, what) in SPEED.items():
        line = next(line for line in measured["questions"][question]["rows"] if line["what"] == what)
        goal, met = line["goal"], line["goal"] and line["ratio"] >= line["goal"]
        goal = f"{round(goal, 2)}, {'met' if met else 'missed'}" if goal else ""
        rows.append((row, ratio(line["ratio"]), " to ".join(map(ratio, line["quartiles"])), goal))
    at, libraries = measured["hardware"], ", ".join(map(" ".join, measured["versions"].items()))
    on = f"{at['cpu']}, {at['threads']} threads on {at['cores']} cores, bf16: {'yes' if at['bf16'] else 'no'}"
    return f"{markdown(('ratio', 'quartiles', 'goal'), rows)}\n\nMeasured on: {on}; {libraries}."


def gpu() -> str:
    found, presets = json.loads((ROOT / "benchmarks/gpu-h100.json").read_text()), ("cifar10", "cifar10_cpu")

    def shown(x) -> str:
        return "" if x is None else f"{x:.0f}" if x >= 100 or x == int(x) else f"{x:.1f}" if x >= 0.1 else f"{x:.0e}"

    rows = [(row, *(shown(number(found.get(f"{part} {name}"), place)) for name in presets))
            for row, (part, place) in GPU.items()]  # fmt: skip
    at = found["where"]
    on = f"one {at['gpu']}, torch {at['torch']}, CUDA {at['cuda']}, {at['cpus']} CPU cores"
    return f"{markdown([f'`{name}()`' for name in presets], rows)}\n\nMeasured on: {on}."


def presets() -> str:
    paper, names = semppl_mini.Config().to_dict(), ("cifar10", "cifar10_cpu", "digits")
    ours = [getattr(semppl_mini.presets, name)().to_dict() for name in names]
    rows = [(f"`{field}`", str(value), *("" if own[field] == value else str(own[field]) for own in ours))
            for field, value in paper.items() if any(own[field] != value for own in ours)]  # fmt: skip
    return markdown(("`Config()`", *(f"`{name}()`" for name in names)), rows)


def searched(folder: str, first: str) -> str:
    """A line a recipe of benchmarks/folder that begins as `first` does: what differs from it, and its read-outs on
    validation images."""
    folder, recipes = ROOT / "benchmarks" / folder, {}
    start = semppl_mini.Config.from_dict(json.loads((folder / f"{first}.json").read_text())["config"]).to_dict()
    for path in sorted(folder.glob(f"{first.partition('-')[0]}-*.json")):
        run = json.loads(path.read_text())
        config = semppl_mini.Config.from_dict(run["config"]).to_dict()  # fields that came later have their defaults
        changes = {k: v for k, v in config.items() if v != start[k] and k not in ("seed", "epochs")}
        named = ", ".join(f"`{k}={tuple(v) if isinstance(v, list) else v}`" for k, v in changes.items())
        recipes.setdefault((named or "*start*", run["config"]["epochs"]), []).append(run)
    places = {"pseudo-labels": "history.-1.pseudo_label_accuracy", "k-NN": "read.knn20", "few-label": "read.few_label"}
    if start["method"] != "semppl":
        del places["pseudo-labels"]
    rows = sorted(recipes.items(), key=lambda row: mean(number(run, places["few-label"]) for run in row[1]))
    return markdown(("epochs", "seeds", *places), [
        (name, str(epochs), str(len(runs)), *(cell(runs, place) for place in places.values()))
        for (name, epochs), runs in rows])  # fmt: skip


def yardsticks(times: str = "minutes.json") -> list[tuple]:
    """(method, steps, minutes of two quiet cores, search, runs) of each row of YARDSTICKS, on one machine."""
    times, rows = json.loads((ROOT / "benchmarks" / times).read_text()), []
    for (method, steps), (files, name, search) in YARDSTICKS.items():
        runs = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks").glob(f"{files}.json"))]
        epochs = max(record["epoch"] for record in runs[0]["history"])
        each = 45_000 // 128 if runs[0]["config"]["batch_size"] == 128 else 4  # steps an epoch: all images, or 500
        time = times["rows"][name]
        minutes = (epochs * each * time["ms"] / 1000 + (epochs - 1) * time.get("clusters", 0)) / 60
        rows.append((method, steps, minutes, search, runs))
    return rows


def in_equal_minutes() -> str:
    places = ("read.knn20", "read.few_label", "read.classifier")
    header = ("", "minutes", "on AMD", "search", "seeds", "k-NN", "linear", "own classifier")
    on_amd = [minutes for _, _, minutes, *_ in yardsticks("minutes-amd.json")]
    return markdown(header, [
        (method, steps, f"{minutes:.1f}", f"{amd:.1f}", search, str(len(runs)), *(cell(runs, x) for x in places))
        for (method, steps, minutes, search, runs), amd in zip(yardsticks(), on_amd, strict=True)])  # fmt: skip


def claimed(table) -> str:
    return table(claims.board(ROOT / "notebooks/results/claims"))


TABLES = {
    "front": lambda: digits(FRONT_ROWS),
    "digits": lambda: digits(DIGITS_ROWS),
    "labels_500": lambda: results(CIFAR10, LABELS_500),
    "labels_250": lambda: results(CIFAR10, LABELS_250),
    "budget": lambda: results(BUDGET, BUDGET_ROWS),
    "unlabelled": lambda: results(UNLABELLED, BUDGET_ROWS),
    "transfer": lambda: results(TRANSFER, TRANSFER_ROWS),
    "speed": speed,
    "gpu": gpu,
    "speedruns": lambda: searched("speedruns", START),
    "search_ifnd": lambda: searched("relatives", IFND_START),
    "search_carp": lambda: searched("relatives", CARP_START),
    "yardsticks": in_equal_minutes,
    "presets": presets,
    "claims_line": lambda: claimed(board.line),
    "claims": lambda: claimed(board.verdicts),
    "claims_before": lambda: claimed(board.fixed_before),
}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


def renewed(page: str) -> str:
    """A page with every table written anew, between blank lines: without them Markdown sees no table; and with what
    stands within a line."""
    mark = r"(<!-- table: (\w+) -->)\n.*?<!-- end -->"
    page = re.sub(mark, lambda m: f"{m[1]}\n\n{TABLES[m[2]]()}\n\n<!-- end -->", page, flags=re.DOTALL)
    page = re.sub(r"(<!-- (\w+) -->)[^\n]*<!-- end -->", lambda m: f"{m[1]}{TABLES[m[2]]()}<!-- end -->", page)
    return re.sub(r'\]\((\S+\.py)#L\d+ "([^"]+)"\)', to_line, page)


def to_line(link: re.Match) -> str:
    """A link `](file.py#L7 "words")` with the number of the one line that has the words."""
    file, words = link.groups()
    found = [n for n, line in enumerate((ROOT / file.removeprefix("../")).read_text().splitlines(), 1) if words in line]
    assert len(found) == 1, f"{file} has {len(found)} lines with {words!r}: give words of the one that is meant"
    return f']({file}#L{found[0]} "{words}")'


if __name__ == "__main__":
    for page in pages():
        page.write_text(renewed(page.read_text()))
