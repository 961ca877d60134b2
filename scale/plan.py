"""What a recipe costs on given chips: FLOPs, memory and traffic a device, what a step waits for, hours: from, to.

    python scale/plan.py imagenet_1pct --devices 128 --chip tpu-v3
    python scale/plan.py imagenet_1pct width=128 recompute=True --devices 8 --chip h100 --utilisation 0.2

Any field of `Config` can be given as field=value. The networks run forward and backward once on the meta device, where
tensors have shapes but no numbers; what they compute and keep is counted there, the rest is formulas, each beside its
line. Nothing is trained. Counts are exact, times are not: each has a quick and a slow end.
B batch, b = B / n rows on each of n devices, m microbatches; L, V, D, Q, R, C as in the module.
"""

import functools
import json
import math
from typing import NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from semppl_mini import SemPPL, presets
from semppl_mini.batches import steps_per_epoch
from semppl_mini.config import Config
from semppl_mini.keeping import class_of
from semppl_mini.keeping.command import Parser, command, override
from semppl_mini.networks import networks

HEADROOM = 0.1  # of a chip's memory, for temporaries and what an allocator wastes [ours]

# Ends of what a time may be, the quick one first. [ours] is a guess: measure it on your machine.
UTILISATION = 0.18, 0.09  # of the peak. MLPerf 3.0 (3.0-2053): ResNet-50 on 8 H100 in 13.466 minutes, 18% if these are
# 37 epochs of 3 x 8.18 GFLOP an image (developer.nvidia.com/deep-learning-performance-training-inference/training);
# half of it for code without hand-written kernels [ours]
TOUCHED = 3, 8  # times that a kept activation crosses the memory: written, read, its gradient; unfused layers [ours]
CROSSED = 0.8, 0.25  # of the published speed between chips that an exchange reaches [ours]
HOP = 5e-6, 25e-6  # s of an exchange for each doubling of the devices, beside its bytes [ours]
DISPATCH = 10e-6, 33e-6  # s of the host an operation; 33: benchmarks/gpu-h100.json, 67.3 ms for 2,048; 10 [ours]
REPLAYED = 0.31  # of these seconds are left with graph=True; the same file, 20.7 ms
REST = 1650  # operations of a step beside the networks' (views, casts, votes, losses, optimizer): what is left of 2,048
DECODED = 307, 307 / 2  # images/s a core: decoding, masks, six bicubic crops, short side 256; measured once, on a core
# of the machine these notes were written on; half of it where a core is a hyperthread [ours]


class Chip(NamedTuple):
    """Peak FLOP/s with bf16 inputs, without sparsity; bytes of memory, a GB read as 10^9; who publishes the figures.

    speed: bytes/s of the memory; links: bytes/s that leave a chip, within a host or slice of so many chips, and beyond.
    """

    name: str
    peak: float
    memory: float | None
    source: str
    speed: float | None = None
    links: tuple[float, float] | None = None
    host: int = 8


CHIPS = {chip.name: chip for chip in (
    Chip("tpu-v3", 123e12, 32e9, "cloud.google.com/tpu/docs/v3; a chip has two cores", 900e9, (82e9, 82e9)),
    Chip("tpu-v3-core", 61.5e12, 16e9, "half of a chip", 450e9, (41e9, 41e9)),
    Chip("tpu-v4", 275e12, 32e9, "cloud.google.com/tpu/docs/v4", 1200e9, (300e9, 300e9)),
    Chip("tpu-v5e", 197e12, 16e9, "cloud.google.com/tpu/docs/v5e", 819e9, (200e9, 200e9)),
    Chip("tpu-v5p", 459e12, 95e9, "cloud.google.com/tpu/docs/v5p", 2765e9, (600e9, 600e9)),
    Chip("tpu-v6e", 918e12, 32e9, "cloud.google.com/tpu/docs/v6e", 1640e9, (448e9, 448e9)),
    Chip("a100", 312e12, 80e9, "NVIDIA's A100 80GB and DGX A100 data sheets", 2039e9, (300e9, 25e9)),
    Chip("h100", 989e12, 80e9, "NVIDIA's H100 SXM and DGX H100 data sheets, FLOP/s halved: they count sparsity",
         3350e9, (450e9, 50e9)),
)}  # fmt: skip


def chip_of(name: str, flops: float | None = None) -> Chip:
    """The chip of that name, or "cpu-core" at `flops` FLOP/s. ValueError names those there are."""
    if name == "cpu-core":
        if flops is None or not 0 < flops < math.inf:
            raise ValueError(f"cpu-core has no published peak and --flops is {flops}; give one, such as --flops 5e10.")
        return Chip(name, flops, None, "speed as given")
    if name not in CHIPS:
        raise ValueError(f"There is no chip {name!r}; choose one of {', '.join(CHIPS)}, or cpu-core with --flops.")
    if flops is not None:
        raise ValueError(f"--flops = {flops:g} is for cpu-core, {name} has a published peak; give --utilisation.")
    return CHIPS[name]


# ---- counted on the meta device -------------------------------------------------------------------------------------


@functools.cache
def parts(network: Config) -> torch.nn.ModuleDict:
    """Encoder f, projector g, predictor h without memory behind them."""
    generator = torch.Generator()
    with torch.device("meta"):
        return networks(network, generator)


def network_of(config: Config) -> Config:
    """What the networks are made from, all else as by default: plans that differ in the rest count once."""
    own = ("backbone", "width", "stem", "stem_stride", "padding", "sk", "recompute")
    return Config(**{n: getattr(config, n) for n in (*own, "projector_hidden", "predictor_hidden", "embedding_dim")})


def sizes_of(c: Config) -> tuple[int, int]:
    """Sides of large and small views; without small ones no network need take them."""
    return c.large_size, c.small_size if c.small_views else c.large_size


def saved_bytes(run, known) -> tuple[torch.Tensor, object]:
    """Bytes of (floats, integers) that run() keeps for its gradient, each storage once, without `known`; and run()."""
    kept, known = {}, {t.untyped_storage()._cdata for t in known}

    def pack(t):
        kept[t.untyped_storage()._cdata] = t  # held, so that no other storage gets its address
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        out = run()
    new = [(t.untyped_storage().nbytes(), t.is_floating_point()) for key, t in kept.items() if key not in known]
    return torch.tensor([sum(n for n, is_float in new if is_float == kind) for kind in (True, False)]), out


class Dispatched(TorchDispatchMode):
    """Counts the operations that reach a backend; on a GPU about as many kernels start."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += 1
        return function(*args, **(kwargs or {}))


@functools.cache
def operations_of(network: Config, size: int) -> tuple[int, int]:
    """Operations of a pass through the networks, forward and backward, whatever the number of images."""
    f, g, h = parts(network).values()
    x, gradient = torch.empty(4, 3, size, size, device="meta"), torch.empty(4, h[-1].out_features, device="meta")
    with Dispatched() as forward:
        o = h(g(f(x)))
    with Dispatched() as backward:
        o.backward(gradient)
    return forward.n, backward.n


@functools.cache
def count(network: Config, size: int) -> dict:
    """One image (3, size, size) through the networks: FLOPs of the passes, bytes (floats, integers) kept for backward.

    "kept" leaves out weights and the image; "block" is the most one block keeps, which `recompute` holds for a moment.
    """
    rows = 64  # any number costs the same here; the share of what does not grow with it, batch statistics, vanishes
    f, g, h = parts(network).values()
    x = torch.empty(rows, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        kept, o = saved_bytes(lambda: h(g(f(x))), [x, *parts(network).parameters()])
        forward = counter.get_total_flops() / rows
        o.backward(torch.empty_like(o))
    predictor = sum(2 * w.numel() for w in h.parameters() if w.dim() == 2)  # the target has none
    block = torch.zeros(2)
    if network.recompute:
        block = largest_block(parts(network.replace(recompute=False))["encoder"], x)
    backward = counter.get_total_flops() / rows - forward
    flops = {"online": forward, "backward": backward, "target": forward - predictor}
    return {**flops, "kept": kept / rows, "block": block / rows}


def largest_block(f: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The most bytes (floats, integers) that one block of an encoder keeps."""
    x, sizes = f.stem(x), []
    for block in f.stages:
        kept, x = saved_bytes(functools.partial(block, x), [x, *block.parameters()])
        sizes.append(kept)
    return max(sizes, key=sum)


# ---- formulas -------------------------------------------------------------------------------------------------------


def flops(config: Config) -> dict[str, float]:
    """FLOPs a step by part, of all devices together; a multiply-add is two."""
    c, pairs = config, (config.large_views + config.small_views) * config.large_views  # (L + V) L
    large, small = (count(network_of(c), size) for size in sizes_of(c))
    views = {name: c.batch_size * (c.large_views * large[name] + c.small_views * small[name]) for name in small}
    return {
        "online forward": views["online"] * (2 if c.microbatches > 1 else 1),
        "online backward": views["backward"],  # with what `recompute` computes again
        "target forward": c.batch_size * c.large_views * large["target"],
        "similarities": 2 * 2 * pairs * c.batch_size * (c.batch_size + c.semantic_positives) * c.embedding_dim,
        "votes": 2 * (c.voting_views or c.large_views) ** 2 * c.batch_size * c.queue * c.embedding_dim,
    }


def memory(config: Config, devices: int, classes: int) -> dict[str, float]:
    """Bytes a device, by part."""
    c, nets, m, half = config, parts(network_of(config)), config.microbatches, config.precision != "fp32"
    b, views = c.batch_size / devices, c.large_views + c.small_views
    large, small = (count(network_of(c), size) for size in sizes_of(c))
    kept = c.large_views * large["kept"] + c.small_views * small["kept"] if m == 1 else large["kept"] / m  # one part
    floats, integers = (kept + large["block"] / m).tolist()
    pixels = 3 * (c.large_views * c.large_size**2 + c.small_views * c.small_size**2)
    weights = 4 * sum(p.numel() for p in nets.parameters())
    return {
        "activations": b * (floats / (2 if half else 1) + integers),
        "views": b * pixels * (6 if half else 4),  # float32, and what the first convolution keeps of them
        "weights in bf16": half * weights / 2 * (views if m == 1 and not c.recompute else 1),  # autocast's, a view
        "similarities": 2 * views * c.large_views * b * c.batch_size * 4,  # (L + V, L, b, B), and their gradient
        "votes": 16e6 + b * (c.voting_views or c.large_views) ** 2 * classes * 5,  # k-NN; one-hot votes, weights
        "queues": c.large_views * (c.queue + 1) * c.embedding_dim * 4 + (c.queue + 1) * 16 + 8,
        "online networks": size_of(nets.values()),
        "target networks": size_of([nets["encoder"], nets["projector"]]),
        "gradients": weights * (2 if devices > 1 else 1),  # once more in a row, to be exchanged
        "optimizer": sum(4 * p.numel() * moments(c.optimizer, p) for p in nets.parameters()),
    }


def moments(optimizer: str, weight: torch.Tensor) -> int:
    """How many numbers an optimizer keeps of each one of a weight."""
    two = optimizer == "adamw" or (optimizer == "muon" and weight.dim() != 4)
    return weight.requires_grad * (1 + two)


def size_of(modules) -> int:
    return sum(t.nbytes for module in modules for t in [*module.parameters(), *module.buffers()])


def norms(config: Config, of=lambda norm: 1) -> dict[str, int]:
    """Batch norms of each network and of the encoder's blocks, or the sum of any number `of` each."""
    nets = parts(network_of(config))
    return {name: sum(of(m) for m in net.modules() if hasattr(m, "running_mean"))
            for name, net in [*nets.items(), ("blocks", nets["encoder"].stages)]}  # fmt: skip


def passes(config: Config, online: int, target: int, numbers: dict[str, int]) -> int:
    """The sum of `numbers` of each network over all that pass it: `online` and `target` times, forward or backward."""
    c, target_own = config, numbers["encoder"] + numbers["projector"]
    own = target_own + numbers["predictor"]
    each = 2 * own + (c.microbatches > 1) * own + c.recompute * numbers["blocks"]  # what is computed again, too
    return c.microbatches * (online * each + target * target_own)


def exchanges(config: Config, devices: int, xla: bool = False) -> dict[str, int]:
    """How often a device waits for the others in a step: batch norms, each way, and all else.

    Views of one size share the exchanges of `parallel/norm.py`; on XLA (SPMD), with microbatches and recompute they
    have their own.
    """
    c = config
    alone = xla or c.microbatches > 1 or c.recompute
    online = c.large_views + c.small_views if alone else 1 + (c.small_views > 0)
    shared = passes(c, online, c.large_views if alone else 1, norms(c))
    return {"batch norm": (devices > 1) * shared, "all else": (devices > 1) * 11}  # 11: benchmarks/two_processes.py


def traffic(config: Config, devices: int, number: int = 8) -> dict[str, float]:
    """Bytes a device sends a step: in a ring 2 (n - 1) / n of what is summed, (n - 1) / n of what is gathered.

    number: bytes of a sum of a batch norm, 8 on GPUs and CPUs, 4 on TPUs.
    """
    c, nets, ring = config, parts(network_of(config)), (devices - 1) / devices
    layers = passes(c, c.large_views + c.small_views, c.large_views, norms(c, lambda norm: norm.num_features))
    return {
        "gradients": 2 * ring * 4 * sum(p.numel() for p in nets.parameters()),
        "batch norm": 2 * ring * number * 2 * layers,  # two sums a channel
        "targets": ring * c.batch_size * (c.large_views * c.embedding_dim * 4 + 16),  # with labels and ids
    }


# ---- what a step takes: a quick end, as on paper, and a slow end, as it often is -------------------------------------


def operations(config: Config) -> float:
    """Operations that Python starts in a step of one process, all else beside the networks' as in `cifar10()`."""
    c, sizes = config, sizes_of(config)
    large, small = (operations_of(network_of(c), size) for size in sizes)
    m, again = c.microbatches, 1 + (c.microbatches > 1)
    online = c.large_views * (again * large[0] + large[1]) + c.small_views * (again * small[0] + small[1])
    return m * (online + c.large_views * large[0]) + REST


def times(config: Config, devices: int, chip: Chip, utilisation: tuple, cores: int, xla: bool = False) -> dict:
    """Seconds a step by what they are spent on, (quick, slow).

    The chip does arithmetic or waits for memory, whichever is longer, then for other devices; meanwhile the host starts
    operations and prepares images.
    """
    c, b, tpu = config, config.batch_size / devices, chip.name.startswith("tpu")
    held, work = memory(c, devices, 1000), sum(flops(c).values()) / devices + updates_of(c)
    touched = [t * held["activations"] * c.microbatches + 10 * held["optimizer"] for t in TOUCHED]
    sent = sum(traffic(c, devices, 4 if tpu else 8).values())
    waits, hops = sum(exchanges(c, devices, xla).values()), math.ceil(math.log2(devices))
    link = chip.links[devices > chip.host] if chip.links else math.inf
    started = 0 if xla or chip.name == "cpu-core" else operations(c) * (REPLAYED if c.graph and devices == 1 else 1)
    decoded = b / cores if c.stem == "imagenet" else 0  # small sets are in memory
    return {
        "arithmetic": [work / (chip.peak * u) for u in utilisation],
        "memory": [n / (chip.speed or math.inf) for n in touched],
        "sending": [sent / (link * share) for share in CROSSED],
        "waiting": [waits * hops * hop for hop in HOP],
        "starting": [started * each for each in DISPATCH],
        "decoding": [decoded / rate for rate in DECODED],
    }


def together(parts: dict, end: int) -> tuple[float, str]:
    """Seconds of a step at that end (0 quick, 1 slow), and what binds: shortening anything else gains less."""
    s = {name: ends[end] for name, ends in parts.items()}
    own = max(("arithmetic", "memory"), key=s.get)
    chip = s[own] + s["sending"] + s["waiting"]
    seconds = max(chip, s["starting"], s["decoding"])
    if seconds > chip:
        return seconds, max(("starting", "decoding"), key=s.get)
    return seconds, max((own, "sending", "waiting"), key=s.get)


def updates_of(config: Config) -> float:
    """FLOPs of LARS and EMA, on every device."""
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in parts(network_of(config)).items()}
    return 11 * sum(sizes.values()) + 3 * (sizes["encoder"] + sizes["projector"])


def plan(config: Config, devices: int, chip: Chip, utilisation=UTILISATION, images: int = 1281167, classes: int = 1000,
         cores: int = 12, xla: bool = False) -> dict:  # fmt: skip
    """All of it, for a run on `images` images; ValueError says what is odd.

    utilisation: share of the peak, one number, or a quick end and a slow end; cores: of a host, for each device.
    """
    ends = [utilisation] * 2 if isinstance(utilisation, (int, float)) else list(utilisation)
    for end in ends:
        check(config, devices, end)
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in parts(network_of(config)).items()}
    held, steps = memory(config, devices, classes), config.epochs * steps_per_epoch(config, images)
    spent = times(config, devices, chip, ends, cores, xla)
    seconds, binds = zip(*(together(spent, end) for end in (0, 1)), strict=True)
    fits = room(held, chip) >= 0
    return {
        "config": config.to_dict(), "devices": devices, "rows": config.batch_size // devices, "chip": chip._asdict(),
        "utilisation": ends, "images": images, "classes": classes,
        "parameters": {**sizes, "target": sizes["encoder"] + sizes["projector"]},
        "flops": flops(config), "replicated": updates_of(config), "memory": held, "fits": fits,
        "traffic": traffic(config, devices, 4 if chip.name.startswith("tpu") else 8),
        "exchanges": exchanges(config, devices, xla), "operations": operations(config), "cores": cores,
        "remedies": [] if fits else remedies(config, devices, chip, classes),
        "steps": steps, "times": spent, "seconds": list(seconds), "binds": list(binds),
        "hours": [steps * s / 3600 for s in seconds],
    }  # fmt: skip


def room(held: dict, chip: Chip) -> float:
    """Bytes of a chip that are left, beside the headroom; negative if they are too few."""
    return (chip.memory or math.inf) * (1 - HEADROOM) - sum(held.values())


def check(config: Config, devices: int, utilisation: float) -> None:
    SemPPL.check(config)
    B, m = config.batch_size, config.microbatches
    if devices < 1 or B % devices:
        near = min((n for n in range(1, B + 1) if B % n == 0), key=lambda n: abs(n - devices))
        raise ValueError(f"batch_size = {B} cannot be shared by {devices} devices; give {near}, or another batch_size.")
    if m > 1 and (B // devices % m or B // devices < 2 * m):
        raise ValueError(f"microbatches = {m} does not part the {B // devices} rows of a device; give a divisor.")
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation = {utilisation} lies outside (0, 1]; give a share of the peak, such as 0.2.")
    if config.precision == "fp64":
        raise ValueError("precision = 'fp64' is for checks and cannot be planned; give bf16 or fp32.")


def remedies(config: Config, devices: int, chip: Chip, classes: int) -> list[str]:
    """Changes each of which makes it fit, the least of its kind; two together only if no single one does."""
    b, doubling = config.batch_size // devices, [2**i for i in range(1, 20)]
    split = [{"microbatches": m} for m in doubling if b % m == 0 and b >= 2 * m]
    more = [{"devices": n} for n in range(devices + 1, config.batch_size + 1) if config.batch_size % n == 0]
    smaller = [{"queue": config.queue // q} for q in doubling if config.queue // q >= config.k]

    def fits(fields: dict) -> bool:
        changed = config.replace(**{name: value for name, value in fields.items() if name != "devices"})
        return room(memory(changed, fields.get("devices", devices), classes), chip) >= 0

    def least(*kinds: list[dict]) -> list[str]:
        found = [next(filter(fits, kind), {}) for kind in kinds]
        return [" ".join(f"{name}={value}" for name, value in fields.items()) for fields in found if fields]

    both = [{"recompute": True, **fields} for fields in split]
    return least([{"recompute": True}], split, smaller, more) or least(both) or ["a larger chip or smaller network"]


# ---- printed --------------------------------------------------------------------------------------------------------


def human(number: float, unit: str = "") -> str:
    """123456789, "B" -> "123 MB"."""
    power = min(6, int(math.log10(number) // 3)) if number >= 1 else 0
    return f"{number / 1000**power:.3g} {' kMGTPE'[power].strip()}{unit}".strip()


def table(title: str, entries: dict, unit: str) -> list[str]:
    total = sum(entries.values())
    lines = [f"  {name:18}{human(n, unit):>12}{n / total:8.1%}" for name, n in entries.items()]
    return [title, *lines, f"  {'together':18}{human(total, unit):>12}"]


def text(p: dict) -> str:
    """A plan, to read."""
    c, chip = p["config"], p["chip"]
    limit = human(chip["memory"], "B") if chip["memory"] else "any memory"
    lines = [
        f"{p['devices']} x {chip['name']}, each {human(chip['peak'], 'FLOP/s')}, {limit} ({chip['source']})",
        f"batch {c['batch_size']}, {p['rows']} rows a device; {c['epochs']} epochs of {p['images']} images",
        "parameters: " + ", ".join(f"{name} {human(n)}" for name, n in p["parameters"].items()),
        *table("FLOPs a step, all devices", p["flops"], "FLOP"),
        f"  beside these {human(p['replicated'], 'FLOP')} on every device: optimizer and moving average",
        *table("memory a device", p["memory"], "B"),
        f"  {'fits' if p['fits'] else 'DOES NOT FIT'} in {limit}, a tenth kept free",
        *(f"    would fit: {change}" for change in p["remedies"]),
    ]
    lines += table("sent by a device a step", p["traffic"], "B") if p["devices"] > 1 else ["sent by a device: nothing"]
    binds = dict.fromkeys(p["binds"])
    waits, chip_hours = p["exchanges"], [hours * p["devices"] for hours in p["hours"]]
    lines += [
        f"a device waits for others {sum(waits.values())} times a step, {waits['batch norm']} of them in batch norms; "
        f"its host starts {p['operations']:.0f} operations",
        "seconds a step, from (as on paper) to (as it often is)",
        *(f"  {name:18}{quick:12.2g}{slow:12.2g}  {MEANING[name]}" for name, (quick, slow) in p["times"].items()),
        "  {:18}{:12.2g}{:12.2g}  what binds: {}".format("a step", *p["seconds"], " or ".join(binds)),
        f"{p['steps']} steps: {between(p['hours'])} hours, {between(chip_hours)} device hours",
    ]
    return "\n".join(lines)


MEANING = {
    "arithmetic": "products, at the utilisation given", "memory": "activations and weights to and from memory",
    "sending": "bytes between devices", "waiting": "the others' answers, beside the bytes",
    "starting": "the host, one operation after the other", "decoding": "images, by the host's cores",
}  # fmt: skip


def between(ends) -> str:
    """[2.0, 5.25] -> "2 to 5.25"."""
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in ends))


def paper(config: Config, utilisation, images: int) -> str:
    """The hardware the paper states, read both ways."""
    lines = ["the paper states 128 Cloud TPUv3, chips or cores unsaid, and 300 epochs; this recipe there:"]
    for name in ("tpu-v3", "tpu-v3-core"):
        p = plan(config, 128, CHIPS[name], utilisation, images)
        held = f"{human(sum(p['memory'].values()), 'B')} of {human(p['chip']['memory'], 'B')} each"
        fits = "fits" if p["fits"] else "does not fit"
        lines += [f"  128 x {name:12}{between(p['hours']):>14} hours, {held}, {fits}"]
    return "\n".join(lines)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("recipe", help="a preset, such as imagenet_1pct")
    parser.add_argument("changes", nargs="*", help="field=value ...")
    parser.add_argument("--devices", type=int, required=True, help="how many chips share a batch")
    parser.add_argument("--chip", required=True, help=", ".join([*CHIPS, "cpu-core"]))
    parser.add_argument("--flops", type=float, help="FLOP/s of a cpu-core")
    parser.add_argument("--utilisation", type=float, help=f"share of the peak that is reached (default: {UTILISATION})")
    parser.add_argument("--cores", type=int, default=12, help="of a host that prepare images, for each device")
    parser.add_argument("--xla", action="store_true", help="scale/train_xla.py instead of torchrun")
    parser.add_argument("--images", type=int, default=1281167, help="training images (default: ImageNet's)")
    parser.add_argument("--classes", type=int, default=1000, help="for the memory of the votes")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    args = parser.parse_intermixed_args()
    parser.whole("--classes", args.classes, 1)
    parser.whole("--cores", args.cores, 1)
    utilisation = UTILISATION if args.utilisation is None else args.utilisation
    config = presets.named(args.recipe).replace(**dict(override(change) for change in args.changes))
    if class_of(config) is not SemPPL:
        raise ValueError(f"The planner counts SemPPL's step, and {args.recipe} has method = {config.method!r}; give a "
                         "recipe of SemPPL.")  # fmt: skip
    chip = chip_of(args.chip, args.flops)
    p = plan(config, args.devices, chip, utilisation, args.images, args.classes, args.cores, args.xla)
    if args.json:
        print(json.dumps(p, indent=1))
    else:
        print(text(p))
        if args.recipe.startswith("imagenet") and config.batch_size % 128 == 0:
            print(paper(config, utilisation, args.images))


if __name__ == "__main__":
    command(main, "scale/plan.py")
