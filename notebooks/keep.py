"""A finished run as small files that the repository keeps, to explore it without its data or its training.

    python notebooks/keep.py runs/mine --results notebooks/results/mine.json

    encoder.safetensors   the encoder: scale/export.py's file, but weights in 16 bits; run.json as metadata
    method.safetensors    what else the method votes or chooses with: heads, queues, clusters; config and history
    README.md, run.json   the model card: data, command, seed, figures, licence

    run = keep.load("mine")      run.method.encoder, run.history, and `inspect(run.method, images)`
    keep.find(config, data)      the kept run of these settings and images, or None

What has one axis (norms, biases) stays in 32 bits. Of online and target network one is kept, the one that is read out:
`load` puts it in the other's place, too, which no read-out of a finished run asks for. In all at most 4.5 MB a file.
"""

import copy
import json
import sys
from pathlib import Path

import torch

import semppl_mini as s
from semppl_mini.files import shown
from semppl_mini.keeping import class_of
from semppl_mini.keeping.command import Parser, command
from semppl_mini.keeping.run import check_labels

sys.path.append(str(Path(__file__).resolve().parents[1] / "scale"))
import export  # noqa: E402

ENCODERS = Path(__file__).resolve().parent / "encoders"
MOST = 4_500_000  # bytes a file
LICENCE = "Apache-2.0, as the code; the images' own terms may bind beside it (data/README.md)"


def rounded(method):
    """A copy of a method whose weights and entries have values that 16 bits hold."""
    method = copy.deepcopy(method).float().eval()
    method.load_state_dict({name: export.half(x).to(x.dtype) for name, x in method.state_dict().items()})
    return method


def sides(kind) -> tuple[str, str]:
    """Names of the network that is kept begin with the first, of the other one with the second."""
    return ("target.", "online.") if kind.reads.startswith("target.") else ("online.", "target.")


def keep(run: s.Run, folder, results: dict | None = None, licence: str = LICENCE) -> Path:
    """Write the files above into a folder. ValueError: the run is not finished, or a file would be too large."""
    from safetensors.torch import save

    if not run.finished:
        raise ValueError(f"{run.folder} has {len(run.history) - 1} of {run.config.epochs} epochs; finish it first.")
    method, left = rounded(run.method), (run.method.reads + ".", sides(run.method)[1])
    rest = {name: export.half(x) for name, x in method.state_dict().items() if not name.startswith(left)}
    told = {"config": run.config.to_dict(), "history": run.history, "data": run.data, "classes": run.method.num_classes}
    blob = save(rest, export.texts(told))
    size = sum(export.half(x).nbytes for x in method.encoder.state_dict().values())
    if (most := max(size, len(blob))) > MOST:
        large = f"{run.folder} would take {most / 1e6:.1f} MB"
        raise ValueError(f"{large}, more than {MOST / 1e6} MB; keep a smaller network.")
    words = f"features are off the run's own by {gap(run, method):.1e} of the largest, by rounding to 16 bits"
    story = [*export.story_of(run, results), ("rounded", words)]
    told = export.told_of(run) | {"licence": licence}
    return export.export(method.encoder, told, "safetensors", folder, story, [("method.safetensors", blob)])


@torch.no_grad()
def gap(run: s.Run, method) -> float:
    """How far features of random images are off the run's own, the largest being 1."""
    x = export.random((8, 3, *export.told_of(run)["size"]))
    wanted = copy.deepcopy(run.method.encoder).float().eval()(x)
    return float((method.encoder(x) - wanted).abs().max() / wanted.abs().max())


def load(name) -> s.Run:
    """A kept run, by name or folder: config, history, method. ValueError: there is none."""
    from safetensors import safe_open

    folder, tensors = ENCODERS / name, {}
    if not (folder / "method.safetensors").is_file():
        there = ", ".join(sorted(path.name for path in ENCODERS.iterdir()))
        raise ValueError(f"There is no kept run {shown(str(name))}; choose one of {there}.")
    with safe_open(folder / "method.safetensors", "pt") as file:
        told = {field: text if field == "data" else json.loads(text) for field, text in file.metadata().items()}
        tensors |= {field: file.get_tensor(field) for field in file.keys()}
    config = s.Config.from_dict(told["config"])
    kind = class_of(config)
    with safe_open(folder / "encoder.safetensors", "pt") as file:
        tensors |= {f"{kind.reads}.{field}": file.get_tensor(field) for field in file.keys()}
    method, (kept, other) = kind(config, told["classes"], kind.images_in(tensors)), sides(kind)
    twins = (field for field in method.state_dict() if field.startswith(other))
    tensors |= {field: tensors[kept + field.removeprefix(other)] for field in twins}
    method.load_state_dict(tensors)
    return s.Run(config, method, told["history"], folder, told["data"])


def find(config, data) -> s.Run | None:
    """The kept run of these settings and of images of this provenance, if there is one. ValueError: other labels."""
    check_labels(config, data)
    runs = (load(path.parent) for path in sorted(ENCODERS.glob("*/method.safetensors")))
    return next((run for run in runs if (run.config, run.data) == (config, data.provenance)), None)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--results", type=Path, help="its JSON file of scale/train.py or evaluate.py: for the card")
    parser.add_argument("--name", help="of the kept run (default: that of its folder)")
    parser.add_argument("--licence", default=LICENCE, help="of the weights, for the card")
    parser.add_argument("--out", type=Path, default=ENCODERS, help="where its folder goes")
    args = parser.parse_args()
    run = s.load_run(args.run)
    results = export.of_this(run, args.results) if args.results else None
    folder = keep(run, args.out / (args.name or run.folder.resolve().name), results, args.licence)
    print(f"{folder}: {', '.join(f'{path.name} {path.stat().st_size:,}' for path in sorted(folder.iterdir()))} bytes")


if __name__ == "__main__":
    command(main, "notebooks/keep.py")
