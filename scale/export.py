"""A run's encoder as files that other libraries read, with a model card beside them.

    python scale/export.py runs/mine --to onnx
    python scale/export.py runs/mine --to timm --results notebooks/results/mine.json --licence CC-BY-4.0

    torchvision    encoder.pth                        state_dict by the names of torchvision's ResNets
    timm           model.safetensors, config.json     by timm's, which are the same; a folder for timm's "local-dir:"
    safetensors    encoder.safetensors                by ours, with what run.json says as metadata
    onnx           encoder.onnx                       a graph, of batches and images of any size where that can be
    torchscript    encoder.torchscript.pt             traced, for programs that still load this kind
    pt2            encoder.pt2                        torch.export's, which follows it

All of them take images (B, 3, H, W), normalised by mean and std of run.json, and give features (B, dim). Before a file
is kept it is read back by the very lines that the card shows, and its features are compared with the encoder's.
"""

import copy
import importlib.util
import io
import json
import re
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import semppl_mini as s
from semppl_mini import networks
from semppl_mini.files import check_type, make_folder, shown, write_whole
from semppl_mini.keeping.command import Parser, command
from semppl_mini.keeping.run import COMPUTING, facts
from semppl_mini.recipes import resnets

BLOCKS = networks.BLOCKS | resnets.BLOCKS
PACKAGES = {"timm": ["timm", "safetensors"], "safetensors": ["safetensors"],
            "onnx": ["onnx", "onnxscript", "onnxruntime"]}  # fmt: skip
LIMIT = 1e-4  # largest difference of features, where the largest of them is 1
MAX_JSON, MAX_SIDE = 2**24, 1024  # bytes; pixels, of what run.json says
OPEN = "The code: Apache-2.0. None is stated for these weights; the data's own may bind them."


# ---- targets: an encoder, what run.json says, images, whether others may have another size -> {file: bytes}, and the
#      lines that read them


def torchvision(encoder, told, x, free):
    name, stem = named(told["architecture"], "torchvision")
    model = f"{name}()" if name != "resnet200" else "ResNet(torchvision.models.resnet.Bottleneck, [3, 24, 36, 3])"
    lines = f"""
        import torch, torchvision
        f = torchvision.models.{"resnet." * (name == "resnet200")}{model}
        f.fc = torch.nn.Identity(){stem}
        f.load_state_dict(torch.load(f"{{folder}}/encoder.pth", weights_only=True))
        f = f.eval()"""
    tensors = their_names(encoder.state_dict(), BLOCKS[name])
    return {"encoder.pth": filled(lambda file: torch.save(tensors, file))}, lines


def timm(encoder, told, x, free):
    from safetensors.torch import save

    name, stem = named(told["architecture"], "timm")
    tensors = their_names(encoder.state_dict(), BLOCKS[name])
    files = {"model.safetensors": save(tensors, texts(told) | {"format": "pt"})}
    if stem:
        return files, f"""
        import timm, torch
        from safetensors.torch import load_file
        f = timm.create_model("{name}", num_classes=0){stem}
        f.load_state_dict(load_file(f"{{folder}}/model.safetensors"))
        f = f.eval()"""
    seen = {"mean": told["mean"], "std": told["std"], "input_size": [3, *told["size"]], "crop_pct": 1.0}
    seen |= {"num_classes": 0, "first_conv": "conv1", "classifier": "fc", "pool_size": None}
    config = {"architecture": name, "num_classes": 0, "num_features": encoder.dim, "pretrained_cfg": seen}
    return files | {"config.json": json.dumps(config, indent=1).encode()}, """
        import timm
        f = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()"""


def safetensors(encoder, told, x, free):
    from safetensors.torch import save

    tensors = {name: half(x) if torch.equal(half(x).to(x), x) else x for name, x in encoder.state_dict().items()}
    return {"encoder.safetensors": save(tensors, texts(told))}, """
        import json
        from safetensors import safe_open
        import semppl_mini as s
        from semppl_mini.networks import ENCODERS
        with safe_open(f"{folder}/encoder.safetensors", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            architecture = json.loads(file.metadata()["architecture"])
        f = ENCODERS[architecture["backbone"]](s.Config().replace(**architecture))
        f.load_state_dict(tensors)
        f = f.eval()"""


def onnx(encoder, told, x, free):
    axes = {0: "batch"} | ({2: "height", 3: "width"} if free else {})
    names = {"input_names": ["images"], "output_names": ["features"]}
    program = torch.onnx.export(encoder, (x,), dynamo=True, verbose=False, dynamic_shapes=(axes,), **names)
    model = program.model_proto
    for key, value in texts(told).items():
        model.metadata_props.add(key=key, value=value)
    return {"encoder.onnx": model.SerializeToString()}, """
        import onnxruntime
        session = onnxruntime.InferenceSession(f"{folder}/encoder.onnx", providers=["CPUExecutionProvider"])
        f = lambda images: session.run(None, {"images": images.numpy()})[0]"""


def torchscript(encoder, told, x, free):
    if not free:
        raise ValueError(f"torchscript keeps this encoder for images of {told['size']} pixels alone, and would give "
                         "wrong features of others without a word; export to onnx or pt2.")  # fmt: skip
    traced, extra = torch.jit.trace(encoder, x), {"run.json": json.dumps(told)}
    return {"encoder.torchscript.pt": filled(lambda file: torch.jit.save(traced, file, _extra_files=extra))}, """
        import torch
        f = torch.jit.load(f"{folder}/encoder.torchscript.pt")"""


def pt2(encoder, told, x, free):
    axes = dict.fromkeys((0, 2, 3) if free else (0,), torch.export.Dim.AUTO)
    program = torch.export.export(encoder, (x,), dynamic_shapes=(axes,))
    extra = {"run.json": json.dumps(told)}
    return {"encoder.pt2": filled(lambda file: torch.export.save(program, file, extra_files=extra))}, """
        import torch
        f = torch.export.load(f"{folder}/encoder.pt2").module()"""


def half(x: Tensor) -> Tensor:
    """Weights, which have two axes or more, in 16 bits; written so where nothing is lost (notebooks/keep.py)."""
    return x.half() if x.is_floating_point() and x.ndim > 1 else x


TARGETS = {write.__name__: write for write in (torchvision, timm, safetensors, onnx, torchscript, pt2)}


def filled(write) -> bytes:
    """What `write(file)` writes."""
    write(file := io.BytesIO())
    return file.getvalue()


def texts(told: dict) -> dict[str, str]:
    """run.json as metadata, which is text: what is no text becomes JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


# ---- torchvision's and timm's ResNets


def named(architecture: dict, to: str) -> tuple[str, str]:
    """Their name of a ResNet, and the line that gives it a cifar stem, or "". ValueError: they have no such network."""
    name, cifar = architecture["backbone"], architecture["stem"] == "cifar"
    for field, fits, why in (
        ("backbone", len(BLOCKS.get(name, ())) == 4, f"{to} has no such network, its ResNets have four stages"),
        ("width", architecture["width"] == 64, f"the first stage of {to}'s ResNets has 64 channels"),
        ("sk", not architecture["sk"], f"{to} has no such selective kernels"),
        ("padding", architecture["padding"] == "symmetric", f"{to}'s ResNets pad both sides alike"),
        ("stem_stride", not cifar or architecture["stem_stride"] == 1, f"{to}'s stem halves twice, and that which "
                                                                       "small images get instead keeps their size"),
    ):  # fmt: skip
        if not fits:
            others = ", ".join(target for target in TARGETS if target not in ("torchvision", "timm"))
            raise ValueError(f"{field} = {architecture[field]!r} cannot be exported: {why}; choose one of {others}.")
    new = "torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()"
    return name, f"\n        f.conv1, f.maxpool = {new}" if cifar else ""


def their_names(tensors: dict[str, Tensor], blocks: tuple[int, ...]) -> dict[str, Tensor]:
    """stem.0, stem.1, stages.0, stages.1, ... -> conv1, bn1, layer1.0, layer1.1, ...; inside a block they agree."""
    places = [f"layer{stage}.{block}." for stage, n in enumerate(blocks, 1) for block in range(n)]
    new = {"stem.0.": "conv1.", "stem.1.": "bn1."} | {f"stages.{i}.": place for i, place in enumerate(places)}
    starts = {name: re.match(r"stem\.\d\.|stages\.\d+\.", name)[0] for name in tensors}
    return {new[start] + name.removeprefix(start): tensors[name] for name, start in starts.items()}


# ---- writing what has been read back


def export(encoder: nn.Module, told: dict, to: str, folder, story=(), more=()) -> Path:
    """Write an encoder for `to` into a folder, run.json and card (README.md) beside it; returns the folder.

    told: what run.json says, of `keeping.run.facts`; story: further rows of the card, (name, text); more: further
    files, (name, bytes). ValueError: it cannot be expressed there, a package is missing, or what was written gives
    other features; then nothing is kept.
    """
    if missing := [name for name in PACKAGES.get(to, ()) if importlib.util.find_spec(name) is None]:
        raise ValueError(f"--to {to} needs {' and '.join(missing)}; pip install 'semppl-mini[doors]' adds them.")
    encoder = copy.deepcopy(encoder).cpu().float().eval()
    encoder.recompute = False  # only for gradients
    told = {"name": "encoder", "licence": OPEN} | told
    files, lines, free, gap = checked(encoder, told, to)
    files |= dict(more)
    files["run.json"] = json.dumps(told, indent=1).encode() + b"\n"
    check_free(folder, [*files, "README.md"])
    files["README.md"] = card(told, to, lines, [*story, *size_and_gap(told, free, gap)]).encode()  # last: all is there
    for name in list(files)[:-3:-1]:  # of an earlier export: half of the new one is none
        (make_folder(folder) / name).unlink(missing_ok=True)
    for name, blob in files.items():
        write_whole(Path(folder) / name, lambda file, blob=blob: file.write(blob))
    return Path(folder)


def check_free(folder, files) -> None:
    """ValueError: a folder holds what is no part of such an export, whose README.md and run.json would be lost."""
    there = {path.name for path in Path(folder).iterdir() if path.suffix != ".part"} if Path(folder).is_dir() else set()
    if odd := sorted(there - {*files}) or ["README.md"] * ("README.md" in there and "run.json" not in there):
        raise ValueError(f"{folder} holds {odd[0]}, which is no part of this export; give a new or empty folder.")


def checked(encoder: nn.Module, told: dict, to: str) -> tuple[dict, str, bool, float]:
    """The files, the lines that read them, whether images may have any size, and how far their features are off."""
    H, W = told["size"]
    shapes = (3, 3, H, W), (1, 3, H, W), (2, 3, H + H // 2 + 1, W + 7)
    sizes = told["architecture"]["sk"] or told["architecture"]["padding"] == "same"  # it computes with them, and
    if not encoder(random(shapes[1])).isfinite().all():
        raise ValueError("Its features of random images are not finite; export a sound run.")
    slow = sizes and to in ("onnx", "pt2")  # torch.export's algebra on that does not end in minutes
    for free in (False,) if slow else (True, False):
        try:
            files, lines = TARGETS[to](encoder, told, random(shapes[0]), free)
            gap = max(gaps(encoder, files, lines, shapes[: 2 + free]))
        except Exception:  # of exporters and runtimes, each its own
            if not free:
                raise
            continue
        if gap <= LIMIT:
            return files, lines, free, gap
    raise ValueError(f"What {to} reads gives other features, by {gap:.1e} of the largest one; nothing was written.")


def random(shape: tuple) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def gaps(encoder: nn.Module, files: dict, lines: str, shapes):
    """The largest difference from the encoder's features at each shape, the largest feature being 1."""
    with tempfile.TemporaryDirectory() as folder:
        for name, blob in files.items():
            (Path(folder) / name).write_bytes(blob)
        exec("\n".join(line[8:] for line in lines.splitlines()), names := {"folder": folder})
        for shape in shapes:
            wanted = encoder(random(shape))
            features = torch.as_tensor(names["f"](random(shape)))
            yield float((features - wanted).abs().max() / wanted.abs().max())


# ---- the card


def size_and_gap(told: dict, free: bool, gap: float) -> list[tuple]:
    size = " x ".join(map(str, told["size"]))
    sizes = f"height x width {size}" + (", or another" if free else " alone")
    far = f"features are off the run's own by {gap:.1e} of the largest" if gap else "features are the run's to the bit"
    return [("images", sizes), ("read back", f"on random images its {far}")]


def card(told: dict, to: str, lines: str, rows: list[tuple]) -> str:
    """The model card: what it is, the lines that read it, and a table."""
    classes, a = told["classes"], told["architecture"]
    origin = f"converted from {told['converted_from']}" if "converted_from" in told else f"trained ({told['method']})"
    some = ", ".join(classes[:10]) + f", ... ({len(classes)}, all in run.json)" * (len(classes) > 10)
    rows = [("encoder", ", ".join(f"{name} = {value}" for name, value in a.items())), ("data", told["provenance"]),
            ("classes", some or "unknown"), *rows,
            ("made with", ", ".join(f"{name} {value}" for name, value in told["versions"].items()) or "unknown"),
            ("licence", told["licence"])]  # fmt: skip
    code = "\n".join(line[8:] for line in lines.splitlines()[1:])
    table = "\n".join(f"| {name} | {cell(text)} |" for name, text in rows)
    return f"""# {cell(told["name"])}

An encoder {cell(origin)} by semppl-mini, as {to} reads it.

Images (B, 3, H, W), RGB between 0 and 1, minus the mean {numbers(told["mean"])}, over the standard deviation
{numbers(told["std"])}, become features (B, dim).

```python
folder = "."  # that of this file
{code}
features = f(images)
```

| | |
|-|-|
{table}
"""


def numbers(values) -> str:
    return ", ".join(f"{x:g}" for x in values)


def cell(text: str) -> str:
    return " ".join(str(text).replace("|", r"\|").split())


def story_of(run: s.Run, results: dict | None) -> list[tuple]:
    """Rows of the card: command, seed, epochs, figures."""
    if not run.history:  # it was not trained here
        return []
    results, last = results or {}, run.history[-1]
    figures = {name: last[name] for name in ("loss", "pseudo_label_accuracy") if last.get(name) is not None}
    figures |= {name: x for name, x in results.get("results", {}).items() if isinstance(x, float)}
    epochs = f"{len(run.history) - 1} of {run.config.epochs}"
    words = ", ".join(f"{name} {x:.4g}" for name, x in figures.items())
    return [("command", results.get("command") or recipe(run.config)), ("seed", str(run.config.seed)),
            ("epochs", epochs), ("figures", words or "none")]  # fmt: skip


def recipe(config: s.Config) -> str:
    """The call that trains such a run: the nearest preset, and what differs from it."""
    def differing(name):
        preset = s.presets.named(name).to_dict()
        return {field: x for field, x in config.to_dict().items() if x != preset[field] and field not in COMPUTING}

    name = min(s.presets.NAMES, key=lambda name: len(differing(name)))
    changes = ", ".join(f"{field}={x!r}" for field, x in differing(name).items())
    return f"`s.fit(s.presets.{name}(){f'.replace({changes})' * bool(changes)}, data)`"


# ---- reading the run


def read_json(path: Path) -> dict:
    """A JSON file's dictionary. ValueError: there is none, it is too long, or something else."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_JSON + 1)
        return check_type("what it holds", json.loads(text if len(text) <= MAX_JSON else ""), dict)
    except OSError as error:
        raise ValueError(f"There is no file {path} ({error.strerror}); give another.") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).rstrip(".").splitlines()[0]
        raise ValueError(f"{path} is no JSON file of a run ({reason}); give one that was written here.") from None


def told_of(run: s.Run) -> dict:
    """What run.json says; of a run that has none, or not all of it, what its config says."""
    told, path = facts(run.config, run.data), run.folder / "run.json"
    kept = read_json(path) if path.is_file() else {}
    for name in ("size", "classes", "versions"):
        told[name] = check_type(f"{path}: {name}", kept.get(name, told[name]), type(told[name]))
    size, classes = told["size"], told["classes"]
    if len(size) != 2 or not all(type(side) is int and 8 <= side <= MAX_SIDE for side in size):
        raise ValueError(f"{path}: size = {shown(size)} is no height and width from 8 to {MAX_SIDE}; correct it.")
    if odd := [name for name in classes if not isinstance(name, str)]:
        raise ValueError(f"{path}: classes have {shown(odd[0])} among them, which is no name; correct it.")
    if source := kept.get("converted_from"):
        told["converted_from"] = str(source.get("file", "another file") if isinstance(source, dict) else source)
    return told | {"name": run.folder.resolve().name}


def of_this(run: s.Run, path: Path) -> dict:
    """A JSON file of scale/train.py or evaluate.py. ValueError: it is of another run."""
    results = read_json(path)
    check_type(f"{path}: results", results.get("results", {}), dict)
    config, here = (json.loads(json.dumps(x)) for x in (results.get("config", {}), run.config.to_dict()))
    unequal = [name for name in here if name not in COMPUTING and name in config and config[name] != here[name]]
    if not config or unequal or results.get("trained_on", results.get("data")) != run.data:
        differs = [*unequal, "data" if config else "config"][0]
        raise ValueError(f"{path} is of another run than {run.folder}: {differs} differs; give its own.")
    return results


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("run", help="the folder of a run, or one of its checkpoints")
    parser.add_argument("--to", required=True, choices=TARGETS, help="who is to read it")
    parser.add_argument("--out", type=Path, help="a folder (default: export-TARGET in that of the run)")
    parser.add_argument("--results", type=Path, help="its JSON file of scale/train.py or evaluate.py: for the card")
    parser.add_argument("--licence", default=OPEN, help="of the weights, for the card")
    args = parser.parse_args()
    run = s.load_run(args.run)
    story = story_of(run, of_this(run, args.results) if args.results else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters tell of what they will change one day
        told = told_of(run) | {"licence": args.licence}
        folder = export(run.method.encoder, told, args.to, args.out or run.folder / f"export-{args.to}", story)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    command(main, "scale/export.py")
