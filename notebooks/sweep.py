"""How much does each choice matter? Short runs that differ from the preset in one field at a time.

    python notebooks/sweep.py                              every question below, three seeds, embedded data
    python notebooks/sweep.py --preset cifar10_cpu --questions labelled_share,k --seeds 1 --epochs 2
    python notebooks/sweep.py --out notebooks/results/sweep    the table of the runs that notebook 03 shows

A run that ends leaves one small JSON file in the results folder, for its config and its images (by their digest): a
grid that was stopped goes on where it stopped, and a finished one is only read. k-NN and linear accuracies are of the
validation images, since choices must not be made on the test images; pseudo-label accuracy is that of the unlabelled
training images. All seeds share the labelled images.
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from statistics import mean, stdev

import torch
from tqdm.auto import tqdm

import semppl_mini as s
from semppl_mini import plots
from semppl_mini.files import digest, make_folder, write_json
from semppl_mini.keeping import check_labels, class_of, runs_dir
from semppl_mini.keeping.command import Parser, command

RESULTS = Path(__file__).resolve().with_name("results") / "sweep"
MEASURES = ("pseudo_label_accuracy", "knn20", "linear")
QUESTIONS = {  # field: values; the preset's own is always added
    "k": (1, 5, 20),
    "voting_views": (1, 2),
    "alpha": (0.0, 0.3, 1.0, 3.0),
    "queue": (128, 1280, 5120),
    "labelled_share": (None, 0.25, 0.5, 0.75),
    "semantic_positives": (0, 1, 3, 10),  # 0: the augmentation-only baseline
    "labels": (20, 100, 500),
}


def grid(preset: s.Config, questions, seeds: int, epochs: int) -> list[tuple]:
    """Cells (question, value, own: is it the preset's?, config), one seed after the other."""
    asked = questions if isinstance(questions, dict) else {name: QUESTIONS.get(name) for name in questions}
    if unknown := [name for name, values in asked.items() if values is None or name not in preset.to_dict()]:
        raise ValueError(f"There is no question {unknown[0]!r}; choose among {', '.join(QUESTIONS)}.")
    if seeds < 1:
        raise ValueError(f"seeds = {seeds} leaves nothing to run; give 1 or more.")
    base, cells = preset.replace(epochs=epochs, voting_views=preset.voting_views or preset.large_views), []
    for seed, (name, values) in itertools.product(range(seeds), asked.items()):
        own = getattr(base, name)
        for value in sorted({own, *values}, key=lambda v: (v is not None, v)):
            config = base.replace(**{"seed": seed, name: value})
            class_of(config).check(config)
            cells.append((name, value, value == own, config))
    return cells


def images_of(data: s.Data) -> str:
    """The digest of all that a run may see, and is measured by: of whatever number of labels that a seed draws, but of
    those that were chosen."""
    parts = [x for split in (data.train, data.val) for x in (split.images, split.truth, split.masks)]
    parts += [data.train.labels] if data.label_seed is None else []
    return digest(x for x in parts if x is not None)


def whole_run(config: s.Config, data: s.Data, callbacks=(), method=None) -> s.Run:
    """A run to its end. s.Interrupted, in the words of a command: it was stopped, and nothing is kept of half a run."""
    try:
        return s.fit(config, data, callbacks=callbacks, progress=False, method=method)
    except s.Interrupted as stop:
        words = f"{str(stop).partition(':')[0]}: the runs that had ended are kept, and the same command begins this one"
        raise s.Interrupted(f"{words} again.", stop.run, stop.signal) from None


def train(config: s.Config, data: s.Data, bar: tqdm) -> dict:
    """One run, and what is kept of it; the pseudo-label accuracy is kept for every epoch."""
    start = time.time()
    run = whole_run(config, data, [lambda *_: bar.update()])  # epoch 0 counts, too
    accuracy = s.evaluate(run.method.encoder, config, data, split="val")
    accuracy["pseudo_label_accuracy"] = [record.get("pseudo_label_accuracy") for record in run.history]
    seconds = time.time() - start
    kept = {"data": data.provenance, "images": images_of(data), "config": config.to_dict(), "seconds": seconds}
    kept |= {"last": run.history[-1]} if isinstance(run.method, s.SemPPL) else {"history": run.history}
    return kept | {name: accuracy.get(name) for name in MEASURES}


def kept_run(name: str, config: s.Config, data: s.Data, folder=RESULTS) -> dict:
    """The row of one run, as in `sweep`; trained only if `folder`/NAME.json does not have it."""
    check_labels(config, data)
    path, images = make_folder(folder) / f"{name}.json", images_of(data)
    row = read(path, config, images)
    if row is None:
        with tqdm(total=config.epochs + 1, unit="epoch", desc=name) as bar:
            write_json(path, train(config, data, bar))
        row = read(path, config, images)
    return {"value": name, "seed": config.seed, **row}


def merged(data: s.Data, group: tuple, names: list[str]) -> s.Data:
    """The same images with fewer classes: class c becomes group[c], called names[group[c]]; -1 stays unlabelled."""
    group = torch.tensor([*group, -1])  # [-1] is the last

    def of(images):
        return dataclasses.replace(images, labels=group[images.labels], truth=group[images.truth])

    return s.Data(data.name, data.provenance, names, of(data.train), of(data.val), of(data.test), data.label_seed)


def read(path: Path, config: s.Config, images: str | None = None) -> dict | None:
    """The measures kept at `path`; None, and a line that says why, if the file there cannot be used.

    images: the digest of the images, None if they are not here; files of an older version have none.
    """
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text())
        there, here = s.Config.from_dict(kept["config"]).to_dict(), config.to_dict()
        if there != here:
            reason = "is of a run with another " + ", ".join(name for name in here if there[name] != here[name])
        elif images and kept.get("images", images) != images:
            reason = "is of other images"
        else:
            row = {name: kept[name] for name in (*MEASURES, "seconds", "data")}
            row |= {"history": kept["history"]} if "history" in kept else {}
            return row | {"pseudo_label_accuracy": kept["pseudo_label_accuracy"][-1]}
    except (ValueError, KeyError, TypeError, IndexError):
        reason = "is damaged or half written"
    tqdm.write(f"{path.name} {reason}: this run is done again.")
    return None


def named(dataset) -> tuple[str, str | None]:
    """What the files of a data set are called by, and the digest of its images.

    Packs that are given by path may have one name, so theirs has some of the digest. A set given by name need not be
    here any more (None): its finished runs are still read. ValueError: no pack at this path.
    """
    path, name = Path(dataset), str(dataset).replace("/", "-")
    try:
        images = images_of(s.load_data(dataset))
    except ValueError:
        if path.suffix == ".npz":
            raise
        return name, None
    return f"{path.stem}-{images[:8]}" if path.suffix == ".npz" else name, images


def sweep(preset, questions=tuple(QUESTIONS), seeds=3, epochs=6, dataset="digits", folder=RESULTS) -> list:
    """Run what is missing of the grid; one row a question, value and seed, ready for `sweep_panels`.

    questions: names out of QUESTIONS, or {any field of Config: values}. A row: question, value, own, seed, the
    MEASURES (shares), seconds, data (provenance), history (of a relative). An unknown question or a bad
    value raises ValueError.
    """
    cells, paths, folder = grid(preset, questions, seeds, epochs), {}, Path(folder)
    called, images = named(dataset)
    for name, value, own, config in cells:  # equal configs are one run, with one file
        change = "" if own else f"-{name}={value}"
        paths[config] = folder / f"{called}-epochs={epochs}{change}-seed={config.seed}.json"
    done = {config: read(path, config, images) for config, path in paths.items()}
    missing = [config for config in paths if done[config] is None]
    print(f"{len(paths)} runs, {len(missing)} of them still to do", flush=True)
    if missing:
        make_folder(folder)
        bar = tqdm(total=sum(config.epochs + 1 for config in missing), unit="epoch")
        for config in missing:
            bar.set_description(paths[config].stem)
            data = s.data_for(config, dataset)
            write_json(paths[config], train(config, data, bar))
            done[config] = read(paths[config], config, images)
        bar.close()
    return [dict(question=q, value=value, own=own, seed=c.seed, **done[c]) for q, value, own, c in cells]


def table(rows: list[dict]) -> str:
    """Mean ± standard deviation over seeds, a line a question and value; * marks the preset's own value."""
    lines = [" " * 30 + "".join(f"{name:>22}" for name in (*MEASURES, "seconds a run"))]
    for name, value in dict.fromkeys((row["question"], row["value"]) for row in rows):
        same = [row for row in rows if (row["question"], row["value"]) == (name, value)]
        line = f"{name:19}{value!s:>7} {'*' if same[0]['own'] else ' '}  "
        for measure in MEASURES:
            shares = [row[measure] for row in same if row[measure] is not None]
            text = f"{mean(shares):.1%}" if shares else "-"
            line += f"{text + (f' ± {stdev(shares):.1%}' if len(shares) > 1 else ''):>22}"
        lines.append(line + f"{mean(row['seconds'] for row in same):>22.0f}")
    return "\n".join(lines)


@plots.figure
def sweep_panels(rows: list[dict], questions: list[str], measure="pseudo_label_accuracy", baseline=None, top=1.0):
    """A panel a question: mean ± std over seeds (one seed: a hollow dot) of `measure` at each value, from 0 to `top`.

    rows, one a run: {"question": field, "value": ..., "own": is it the preset's (bold)?, measure: share}.
    baseline: shares of augmentation-only, a grey line and band.
    """
    fig, axes = plots.grid(len(questions), 4, 2.4, 2.3, sharey=True)
    for ax, question in zip(axes, questions, strict=True):
        runs = [row for row in rows if row["question"] == question and row[measure] is not None]
        values = sorted({row["value"] for row in runs}, key=lambda value: (value is not None, value))
        seeds = [[row[measure] for row in runs if row["value"] == value] for value in values]
        if baseline is not None:
            plots.band(ax, baseline)
            ax.set_title("grey: augmentation-only", size=8)
        bars = list(map(plots.std, seeds)) if max(map(len, seeds), default=1) > 1 else None
        plots.dots(ax, list(map(str, values)), list(map(mean, seeds)), bars, mfc=None if bars else "white")
        own = {row["value"] for row in runs if row.get("own")}
        for text, value in zip(ax.get_xticklabels(), values, strict=True):
            text.set_weight("bold" if value in own else "normal")
        ax.set(xlabel=plots.words(question), xmargin=0.15, ylim=(0, 1.02 * top))
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(plots.words(measure))
    return fig


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--questions", default=",".join(QUESTIONS), help="names with commas between them")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--epochs", type=int, default=6, help="of each run")
    parser.add_argument("--preset", default="digits", help="digits, cifar10_cpu, ...")
    parser.add_argument("--data", help="name or path of a data pack; the preset's by default")
    parser.add_argument("--out", type=Path, help="folder of the JSON files (default: runs/sweep)")
    args = parser.parse_args()
    parser.whole("--seeds", args.seeds, 1)
    parser.whole("--epochs", args.epochs, 1)
    data, preset = args.data or args.preset.split("_")[0], s.presets.named(args.preset)
    folder = args.out or runs_dir() / "sweep"
    print(table(sweep(preset, args.questions.split(","), args.seeds, args.epochs, data, folder)))


if __name__ == "__main__":
    command(main, "notebooks/sweep.py")
