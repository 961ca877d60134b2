"""What a recipe costs on given chips: parameters, FLOPs, memory and traffic a device, hours. Nothing is trained.

    python scale/plan.py imagenet_1pct --devices 128 --chip tpu-v3
    python scale/plan.py imagenet_1pct width=128 recompute=True --devices 8 --chip h100 --utilisation 0.2

Any field of `Config` can be given as field=value. The networks run forward and backward once on the meta device, where
tensors have shapes but no numbers; what they compute and keep is counted there, the rest is formulas, each beside its
line. B batch, b = B / n rows on each of n devices, m microbatches; L, V, D, Q, R, C as in the module.
"""

import functools
import json
import math
from typing import NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from semppl_mini import presets
from semppl_mini.command import Parser, command, override
from semppl_mini.config import Config
from semppl_mini.networks import networks
from semppl_mini.train import steps_per_epoch

HEADROOM = 0.1  # of a chip's memory, for temporaries and what an allocator wastes [ours]
OPTIMIZER = {"lars": 1, "sgd": 1, "adamw": 2}  # numbers kept for each weight


class Chip(NamedTuple):
    """Peak FLOP/s with bf16 inputs, without sparsity; memory in bytes, a GB read as 10^9; who publishes the figures."""

    name: str
    peak: float
    memory: float
    source: str


CHIPS = {chip.name: chip for chip in (
    Chip("tpu-v3", 123e12, 32e9, "cloud.google.com/tpu/docs/v3; a chip has two cores"),
    Chip("tpu-v3-core", 61.5e12, 16e9, "half of a chip"),
    Chip("tpu-v4", 275e12, 32e9, "cloud.google.com/tpu/docs/v4"),
    Chip("tpu-v5e", 197e12, 16e9, "cloud.google.com/tpu/docs/v5e"),
    Chip("tpu-v5p", 459e12, 95e9, "cloud.google.com/tpu/docs/v5p"),
    Chip("tpu-v6e", 918e12, 32e9, "cloud.google.com/tpu/docs/v6e"),
    Chip("a100", 312e12, 80e9, "NVIDIA's A100 80GB data sheet"),
    Chip("h100", 989e12, 80e9, "NVIDIA's H100 SXM data sheet, halved: it counts sparsity"),
)}  # fmt: skip


def chip_of(name: str, flops: float | None = None) -> Chip:
    """The chip of that name, or "cpu-core" at `flops` FLOP/s. ValueError names those there are."""
    if name == "cpu-core":
        if flops is None or not 0 < flops < math.inf:
            raise ValueError(f"cpu-core has no published peak and --flops is {flops}; give one, such as --flops 5e10.")
        return Chip(name, flops, math.inf, "speed given, memory not limited")
    if name not in CHIPS:
        raise ValueError(f"There is no chip {name!r}; choose one of {', '.join(CHIPS)}, or cpu-core with --flops.")
    if flops is not None:
        raise ValueError(f"--flops = {flops:g} is for cpu-core, {name} has a published peak; give --utilisation.")
    return CHIPS[name]


# ---- counted on the meta device -------------------------------------------------------------------------------------


def parts(config: Config) -> torch.nn.ModuleDict:
    """Encoder f, projector g, predictor h without memory behind them."""
    generator = torch.Generator()
    with torch.device("meta"):
        return networks(config, generator)


def saved_bytes(run, known) -> tuple[int, object]:
    """Bytes that run() keeps for its gradient, each storage once and those of the tensors `known` left out; run()."""
    kept, known = {}, {t.untyped_storage()._cdata for t in known}

    def pack(t):
        kept[t.untyped_storage()._cdata] = t  # held, so that no other storage gets its address
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        out = run()
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in known), out


@functools.cache
def count(config: Config, size: int) -> dict[str, float]:
    """One image (3, size, size) through the networks: FLOPs of each pass, float32 bytes kept for the backward pass.

    "kept" leaves out weights and the image; "block" is the most one block keeps, which `recompute` holds for a moment.
    """
    rows, flops = 2, {}  # batch norm wants two rows; all else is linear in them
    f, g, h = parts(config).values()
    x = torch.empty(rows, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as flops["target"], torch.no_grad():
        g(f(x))
    with FlopCounterMode(display=False) as flops["online"]:
        kept, o = saved_bytes(lambda: h(g(f(x))), [x, *f.parameters(), *g.parameters(), *h.parameters()])
    with FlopCounterMode(display=False) as flops["backward"]:
        o.backward(torch.empty_like(o))
    counted = {name: counter.get_total_flops() / rows for name, counter in flops.items()}
    block = largest_block(parts(config.replace(recompute=False))["encoder"], x) if config.recompute else 0
    return {**counted, "kept": kept / rows, "block": block / rows}


def largest_block(f: torch.nn.Module, x: torch.Tensor) -> int:
    """The most bytes that one block of an encoder keeps."""
    x, sizes = f.stem(x), []
    for block in f.stages:
        kept, x = saved_bytes(functools.partial(block, x), [x, *block.parameters()])
        sizes.append(kept)
    return max(sizes)


# ---- formulas -------------------------------------------------------------------------------------------------------


def flops(config: Config) -> dict[str, float]:
    """FLOPs a step by part, over all devices together; a multiply-add is two."""
    c, pairs = config, (config.large_views + config.small_views) * config.large_views  # (L + V) L
    large, small = count(c, c.large_size), count(c, c.small_size)

    def views(name: str) -> float:
        return c.batch_size * (c.large_views * large[name] + c.small_views * small[name])

    asked = (c.voting_views or c.large_views) ** 2  # L L queries and queues
    return {
        "online forward": views("online") * (2 if c.microbatches > 1 else 1),
        "online backward": views("backward"),
        "target forward": c.batch_size * c.large_views * large["target"],
        "similarities": 2 * 2 * pairs * c.batch_size * (c.batch_size + c.semantic_positives) * c.embedding_dim,
        "votes": 2 * asked * c.batch_size * c.queue * c.embedding_dim,
    }


def memory(config: Config, devices: int, classes: int) -> dict[str, float]:
    """Bytes a device by part."""
    c, nets, half = config, parts(config), config.precision != "fp32"
    rows, views = c.batch_size / devices, c.large_views + c.small_views
    large, small = count(c, c.large_size), count(c, c.small_size)
    pixels = 3 * (c.large_views * c.large_size**2 + c.small_views * c.small_size**2)
    kept = (c.large_views * large["kept"] + c.small_views * small["kept"]) / c.microbatches
    asked, weights = (c.voting_views or c.large_views) ** 2, sum(4 * p.numel() for p in nets.parameters())
    return {
        "activations": rows * (kept + large["block"] / c.microbatches) / (2 if half else 1),
        "views": rows * pixels * (6 if half else 4),  # float32, and what the first convolution keeps of them
        "similarities": 2 * views * c.large_views * rows * c.batch_size * 4,  # (L + V, L, b, B), and their gradient
        "votes": 16e6 + rows * asked * classes * 5,  # a chunk of the k-NN; one-hot votes and their weights
        "queues": c.large_views * (c.queue + 1) * c.embedding_dim * 4 + (c.queue + 1) * 16 + 8,
        "online networks": size_of(nets),
        "target networks": size_of(nets["encoder"], nets["projector"]),
        "gradients": weights * (2 if devices > 1 else 1),  # a second time, flat, to be exchanged
        "optimizer": OPTIMIZER[c.optimizer] * weights,
    }


def size_of(*modules: torch.nn.Module) -> int:
    return sum(t.nbytes for module in modules for t in [*module.parameters(), *module.buffers()])


def traffic(config: Config, devices: int) -> dict[str, float]:
    """Bytes that a device sends a step; a ring sends 2 (n - 1) / n of what is summed, (n - 1) / n of what is gathered."""
    c, nets, ring = config, parts(config), (devices - 1) / devices
    f_g, h = (sum(t.numel() for net in some for name, t in net.named_buffers() if "mean" in name)
              for some in ((nets["encoder"], nets["projector"]), (nets["predictor"],)))  # fmt: skip
    passes = 3 if c.microbatches > 1 else 2  # forward (twice if in parts) and backward, mean and variance in each
    online = passes * (c.large_views + c.small_views) * (f_g + h)
    sums = 2 * c.microbatches * (online + c.large_views * f_g)
    return {
        "gradients": 2 * ring * 4 * sum(p.numel() for p in nets.parameters()),
        "batch norm": 2 * ring * 4 * sums,
        "targets": ring * c.batch_size * (c.large_views * c.embedding_dim * 4 + 16),  # with labels and ids
    }


def plan(config: Config, devices: int, chip: Chip, utilisation: float, images: int, classes: int = 1000) -> dict:
    """All of it for a run on `images` images at a share `utilisation` of the chips' peak; ValueError says what is odd."""
    check(config, devices, utilisation)
    nets, steps = parts(config), config.epochs * steps_per_epoch(config, images)
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    sizes["target"] = sizes["encoder"] + sizes["projector"]
    shared, held = flops(config), memory(config, devices, classes)
    replicated = {  # each device does these in full
        "updates": 11 * sum(p.numel() for p in nets.parameters()) + 3 * sizes["target"],  # LARS, EMA
        "queue sort": config.queue * math.log2(config.queue + 1),
    }
    seconds = (sum(shared.values()) / devices + sum(replicated.values())) / (chip.peak * utilisation)
    fits = sum(held.values()) <= chip.memory * (1 - HEADROOM)
    return {
        "devices": devices, "chip": chip._asdict(), "utilisation": utilisation, "images": images, "classes": classes,
        "config": config.to_dict(), "rows": config.batch_size // devices, "parameters": sizes, "flops": shared,
        "replicated": replicated, "memory": held, "fits": fits, "traffic": traffic(config, devices), "steps": steps,
        "seconds": seconds, "hours": steps * seconds / 3600,
        "remedies": [] if fits else remedies(config, devices, chip, classes),
    }  # fmt: skip


def check(config: Config, devices: int, utilisation: float) -> None:
    B, m = config.batch_size, config.microbatches
    if devices < 1 or B % devices:
        near = [n for n in range(1, B + 1) if B % n == 0]
        near = sorted(sorted(near, key=lambda n: abs(n - devices))[:2])
        few = " or ".join(map(str, near))
        raise ValueError(f"batch_size = {B} cannot be shared by {devices} devices; give for example {few} of them.")
    if B // devices % m:
        raise ValueError(f"microbatches = {m} does not divide the {B // devices} rows of a device; give a divisor.")
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation = {utilisation} lies outside (0, 1]; give a share of the peak, such as 0.2.")
    if config.precision == "fp64":
        raise ValueError("precision = 'fp64' is for checks and is not planned; give bf16 or fp32.")


def remedies(config: Config, devices: int, chip: Chip, classes: int) -> list[str]:
    """Changes of which each alone makes it fit, and the last resort if none does."""

    def first(tries: list[dict], change) -> str | None:
        for fields in tries:
            if sum(change(fields).values()) <= chip.memory * (1 - HEADROOM):
                return ", ".join(f"{name}={value}" for name, value in fields.items())
        return None

    rows = config.batch_size // devices
    halves = [{"microbatches": m} for m in (2**i for i in range(1, 20)) if rows % m == 0 and rows // m > 1]
    again = {"recompute": True}
    more = [{"devices": n} for n in range(devices + 1, config.batch_size + 1) if config.batch_size % n == 0]
    queues = [{"queue": config.queue >> i} for i in range(1, 20) if config.queue >> i > config.k]

    def with_fields(fields: dict) -> dict:
        return memory(config.replace(**fields), devices, classes)

    found = [first([again], with_fields), first(halves, with_fields)]
    found += [] if any(found) else [first([again | half for half in halves], with_fields)]
    found += [first(more, lambda fields: memory(config, fields["devices"], classes)), first(queues, with_fields)]
    return [change for change in found if change] or ["no single change; take a larger chip or a smaller network"]


# ---- printed --------------------------------------------------------------------------------------------------------


def human(number: float, unit: str = "") -> str:
    """123456789.0, "B" -> "123 MB"."""
    power = max(0, min(6, int(math.log10(number) // 3))) if number >= 1 else 0
    value = number / 1000**power
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {' kMGTPE'[power].strip()}{unit}".rstrip()


def table(title: str, entries: dict, unit: str) -> list[str]:
    total = sum(entries.values())
    lines = [f"  {name:18}{human(n, unit):>14}{n / max(total, 1):8.1%}" for name, n in entries.items()]
    return [title, *lines, f"  {'total':18}{human(total, unit):>14}"]


def text(p: dict) -> str:
    """A plan as lines to read."""
    chip, limit = p["chip"], human(p["chip"]["memory"], "B") if p["chip"]["memory"] < math.inf else "no limit"
    lines = [f"{p['devices']} x {chip['name']}: {human(chip['peak'], 'FLOP/s')}, {limit} each ({chip['source']})"]
    lines += [f"batch {p['config']['batch_size']:,}, {p['rows']:,} rows a device; {p['config']['epochs']} epochs of {p['images']:,} images"]
    lines += ["parameters: " + ", ".join(f"{name} {human(n)}" for name, n in p["parameters"].items())]
    lines += table("FLOPs a step, all devices", p["flops"], "FLOP")
    lines += table("done again on every device", p["replicated"], "FLOP")
    lines += table("memory a device", p["memory"], "B")
    lines += [f"  {'fits' if p['fits'] else 'DOES NOT FIT'} in {limit}, a tenth of it kept free"]
    lines += [f"    would fit: {change}" for change in p["remedies"]]
    lines += table("sent by a device a step", p["traffic"], "B")
    time = f"{p['steps']:,} steps of {p['seconds']:.3g} s at {p['utilisation']:.0%} of the peak"
    return "\n".join([*lines, f"{time}: {p['hours']:.1f} hours, {p['hours'] * p['devices']:,.0f} device hours"])


def paper(config: Config, utilisation: float, images: int) -> str:
    """The hardware the paper states, read both ways."""
    lines = ["the paper: 128 Cloud TPU v3, chips or cores unstated, 300 epochs; this recipe there"]
    for name in ("tpu-v3", "tpu-v3-core"):
        p = plan(config, 128, CHIPS[name], utilisation, images)
        held = f"{human(sum(p['memory'].values()), 'B')} of {human(p['chip']['memory'], 'B')} a device"
        lines += [f"  on 128 {name:12} {p['hours']:6.1f} hours, {held}: {'fits' if p['fits'] else 'does not fit'}"]
    return "\n".join(lines)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("recipe", help="a preset, such as imagenet_1pct")
    parser.add_argument("changes", nargs="*", help="field=value ...")
    parser.add_argument("--devices", type=int, required=True, help="how many chips share a batch")
    parser.add_argument("--chip", required=True, help=", ".join([*CHIPS, "cpu-core"]))
    parser.add_argument("--flops", type=float, help="FLOP/s of a cpu-core")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak that is reached")
    parser.add_argument("--images", type=int, default=1281167, help="training images (default: ImageNet's)")
    parser.add_argument("--classes", type=int, default=1000, help="for the memory of the votes")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    args = parser.parse_intermixed_args()
    parser.whole("--classes", args.classes, 1)
    config = presets.named(args.recipe).replace(**dict(override(change) for change in args.changes))
    p = plan(config, args.devices, chip_of(args.chip, args.flops), args.utilisation, args.images, args.classes)
    if args.json:
        print(json.dumps(p, indent=1))
    else:
        print(text(p))
        if args.recipe.startswith("imagenet") and config.batch_size % 128 == 0:
            print(paper(config, args.utilisation, args.images))


if __name__ == "__main__":
    command(main, "scale/plan.py")
