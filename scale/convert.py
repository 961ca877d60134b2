"""An official SemPPL checkpoint, a pickle of JAX parameters, as a run: no code of it runs, JAX is not needed.

    python scale/convert.py pretrain.pkl --out runs/official

The folder then holds encoder.pt, run.json (what came from where) and a checkpoint, as after a linear evaluation that
took no step: `load_run`, scale/evaluate.py and `fit(..., weights="runs/official")` take it. ResNet-50 and ResNet-200
of any width; the official ones are ResNet-50 1x, 2x, 4x and ResNet-200 2x. What differs from ours, by the official
eval_experiment.py and utils/networks.py (github.com/google-deepmind/semppl) and by Haiku:

    experiment_state.online_params    {"res_net50/~/block_group_2/~/block_0/~/conv_1": {"w": (3, 3, I, O)}, ...}
    ....online_state                  {".../batchnorm_1/~/mean_ema": {"average": (1, 1, 1, C), "hidden", "counter"}}
    all of it                         perhaps with an axis of devices in front, of which the first is as good as any
    convolutions                      H, W, I, O there and O, I, H, W here; padded by TensorFlow's rule: padding="same"
    batch norm                        its running mean and variance are "average"; "hidden" is that before its debiasing
    "logits"                          the ResNet's own classifier, which SemPPL never uses: left out, as other networks

The converted layout is tested on random weights; no official file was read.
"""

import re
from pathlib import Path

import numpy as np
import torch
from pickled import Refused, mapping, read

import semppl_mini as s
from semppl_mini.files import checkpoint, make_folder, shown, write_json
from semppl_mini.files.whole import sha256
from semppl_mini.keeping.command import Parser, command
from semppl_mini.keeping.run import ARCHITECTURE, software
from semppl_mini.networks import ENCODERS
from semppl_mini.recipes.resnets import BLOCKS

BACKBONES = {blocks: name for name, blocks in BLOCKS.items()}
CLASSES = 1000  # of the linear layer that the run gets, at 0
NO_SK = "those with selective kernels (SK) are not converted, since no class of theirs was published"


def layers(blocks: tuple[int, ...]):
    """(our name, Haiku's) of each layer of a ResNet with so many blocks a stage."""
    yield from (("stem.0", "initial_conv"), ("stem.1", "initial_batchnorm"))
    places = [(stage, block) for stage, n in enumerate(blocks) for block in range(n)]
    for i, (stage, block) in enumerate(places):
        at = f"block_group_{stage}/~/block_{block}"
        for k in range(3):
            yield f"stages.{i}.conv{k + 1}", f"{at}/~/conv_{k}"
            yield f"stages.{i}.bn{k + 1}", f"{at}/~/batchnorm_{k}"
        if block == 0:
            yield f"stages.{i}.downsample.0", f"{at}/~/shortcut_conv"
            yield f"stages.{i}.downsample.1", f"{at}/~/shortcut_batchnorm"


def blocks_of(names) -> tuple[int, ...]:
    """Blocks a stage, counted in Haiku's names."""
    found = {match[0] for name in names if (match := re.match(r"block_group_\d/~/block_\d{1,3}(?=/)", name))}
    stages = sorted({name[: len("block_group_0")] for name in found})
    return tuple(sum(name.startswith(stage) for name in found) for stage in stages)


def entry(of, name: str):
    of = mapping(of)
    if name not in of:
        raise Refused(f"has no {shown(name)} where an official checkpoint has it; it has {shown(list(of)[:3])}")
    return of[name]


def encoder_of(value, array) -> tuple[tuple, dict]:
    """What a checkpoint holds -> blocks a stage, and the encoder's tensors by our names."""
    state = entry(value, "experiment_state")
    params, running = (mapping(entry(state, name)) for name in ("online_params", "online_state"))
    roots = [name.removesuffix("initial_conv") for name in map(str, params) if name.endswith("/~/initial_conv")]
    if len(roots) != 1:
        raise Refused(f"has {len(roots)} layers called .../~/initial_conv, an official ResNet has one; {NO_SK}")
    (root,) = roots
    inside = {name.removeprefix(root) for name in map(str, params) if name.startswith(root)} - {"logits"}
    known = dict(layers(blocks := blocks_of(inside)))
    if blocks not in BACKBONES:
        raise Refused(f"is a ResNet of {blocks} blocks a stage; {' or '.join(map(str, BACKBONES))} can be converted")
    if unknown := sorted(inside - set(known.values())):
        raise Refused(f"has a layer {shown(root + unknown[0])} that the official ResNets do not have; {NO_SK}")
    tensors = {}
    for ours, theirs in known.items():
        layer = entry(params, root + theirs)
        if "conv" in theirs:
            tensors[f"{ours}.weight"] = tensor(array, layer, "w").permute(3, 2, 0, 1).contiguous()  # (O, I, H, W)
        else:
            parts = {"weight": (layer, "scale"), "bias": (layer, "offset")}
            for here, there in (("running_mean", "mean_ema"), ("running_var", "var_ema")):
                parts[here] = entry(running, f"{root}{theirs}/~/{there}"), "average"
            tensors |= {f"{ours}.{name}": tensor(array, *part).flatten() for name, part in parts.items()}  # (C,)
            tensors[f"{ours}.num_batches_tracked"] = torch.tensor(0)
    return blocks, tensors


def tensor(array, of, name: str) -> torch.Tensor:
    """One of a layer's arrays, all of four axes, in float32; an axis of devices in front is taken off."""
    x = array(entry(of, name))
    x = torch.from_numpy((x[0] if x.ndim == 5 else x).astype(np.float32))
    if x.dim() != 4 or not x.isfinite().all():
        raise Refused(f"has an array {name!r} of shape {tuple(x.shape)} where four axes of finite numbers are expected")
    return x


def convert(path) -> tuple[s.Config, dict]:
    """A checkpoint -> config of its linear evaluation, the encoder's state_dict. ValueError: it is none, or hostile."""
    blocks, tensors = read(path, encoder_of)
    width = len(tensors["stem.0.weight"])
    if not 8 <= width <= 4096:
        raise ValueError(f"{path} has a stem of {width} channels; those of official ResNets have 64, 128 or 256.")
    config = s.presets.imagenet_linear().replace(backbone=BACKBONES[blocks], width=width, padding="same")
    with torch.device("meta"):  # shapes only
        wanted = ENCODERS[config.backbone](config).state_dict()
    for name, expected in wanted.items():
        if tensors[name].shape != expected.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(expected.shape)}"
            raise ValueError(f"{path} is no official {title_of(config)}: {name} has shape {shapes}; fetch it again.")
    return config, {name: tensors[name] for name in wanted}


def title_of(config: s.Config) -> str:
    return f"ResNet-{config.backbone.removeprefix('resnet')} {config.width / 64:g}x"


def write_run(folder: Path, config: s.Config, encoder: dict, facts: dict) -> None:
    """A run's folder as after no step; its checkpoint last, since that makes it one."""
    write_json(folder / "run.json", facts)
    checkpoint.save(folder / "encoder.pt", encoder)
    method = {f"online.encoder.{name}": x for name, x in encoder.items()}
    method |= {"online.head.weight": torch.zeros(CLASSES, 32 * config.width), "online.head.bias": torch.zeros(CLASSES)}
    checkpoint.save(checkpoint.path_of(folder, 0), {
        "config": config.to_dict(), "position": {"epoch": 0, "step": 0}, "class": config.method, "classes": CLASSES,
        "method": method, "optimizer": {}, "history": [], "steps": [], "log": 0, "data": facts["provenance"],
        "images": "", "weights": "", "software": software(),
    })  # fmt: skip


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="the pickle, as downloaded")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder, new or empty")
    args = parser.parse_args()
    if args.out.is_dir() and any(args.out.iterdir()):
        parser.error(f"--out {args.out} is not empty; choose another folder")
    config, encoder = convert(args.checkpoint)
    with open(args.checkpoint, "rb") as file:
        digest = sha256(iter(lambda: file.read(2**20), b""))
    architecture = {name: getattr(config, name) for name in ARCHITECTURE}
    facts = {"architecture": architecture, "mean": config.mean, "std": config.std, "size": 2 * [config.large_size],
             "provenance": f"unknown: weights of {args.checkpoint.name}, sha256 {digest[:16]}",
             "converted_from": {"file": args.checkpoint.name, "sha256": digest}, "versions": software(),
             "tested": "the layout, on random weights; no official file was read"}  # fmt: skip
    write_run(make_folder(args.out), config, encoder, facts)
    print(f"{title_of(config)}, {sum(x.numel() for x in encoder.values()):,} numbers, is in {args.out}.")


if __name__ == "__main__":
    command(main, "scale/convert.py")
