"""The planner against real steps, real bytes and published numbers; and planted bugs that these checks must find."""

import functools
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from core_checks import random, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet50_Weights

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scale"))

import plan as planner  # noqa: E402
from figures import plan_figure  # noqa: E402

from semppl_mini import parallel, presets  # noqa: E402
from semppl_mini.networks import networks  # noqa: E402
from semppl_mini.optim import make_optimizer  # noqa: E402
from semppl_mini.parallel import in_parts  # noqa: E402
from semppl_mini.semppl import Batch, SemPPL, draw_step  # noqa: E402

LARGE = dict(backbone="resnet50", stem="imagenet", large_size=64, small_size=32)
SMALL_CHIP = planner.Chip("toy", 1e12, 40e6, "invented")
GENERATOR = torch.Generator()


def inputs(config, rows=None):
    """Views and labels of `rows` images, or a whole batch."""
    rows = rows or config.batch_size
    sizes = [config.large_size] * config.large_views + [config.small_size] * config.small_views
    return [random(rows, 3, s, s, seed=i) for i, s in enumerate(sizes)], Batch(torch.arange(rows), torch.arange(rows))


@functools.cache
def real_step(config):
    """A forward and backward pass of SemPPL with numbers: FLOPs, and bytes kept beside views, weights and queues."""
    method, (views, batch) = SemPPL(config, config.batch_size), inputs(config)
    known = {t.untyped_storage().data_ptr() for t in [*views, *method.state_dict().values()]}
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t
        return t

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss, _ = method(views, batch, draw_step(config, 0))
        loss.backward()
    return counter.get_total_flops(), sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in known)


# ---- published numbers


def test_resnet50_has_the_published_cost():
    """torchvision publishes 4.089 billion multiply-adds and 25,557,032 parameters, with a classifier of 1000."""
    published, network = ResNet50_Weights.IMAGENET1K_V2.meta, planner.network_of(presets.imagenet_1pct())
    projector = 2 * (2048 * 4096 + 4096 * 256)
    encoder = planner.count(network, 224)["target"] - projector
    assert encoder + 2 * 2048 * 1000 == pytest.approx(2e9 * published["_ops"], rel=2e-4)
    parameters = sum(p.numel() for p in planner.parts(network)["encoder"].parameters())
    assert parameters + 2049 * 1000 == published["num_params"]


@pytest.mark.parametrize("name, millions", [
    ("ResNet-50 2x", 94), ("ResNet-50 4x", 375), ("ResNet-200 2x", 250),  # BYOL, table 1
    ("SK-ResNet-50 1x", 35), ("SK-ResNet-50 2x", 140),  # SimCLRv2, table 1
])  # fmt: skip
def test_larger_networks_have_the_published_sizes(name, millions):
    config = presets.imagenet_1pct().replace(**presets.LARGER[name])
    size = sum(p.numel() for p in planner.parts(planner.network_of(config))["encoder"].parameters())
    assert size == pytest.approx(1e6 * millions, rel=0.02)


def test_every_larger_network_is_a_config():
    names = [presets.imagenet_1pct().replace(**changes) for changes in presets.LARGER.values()]
    assert len(set(names)) == 6


def test_recipes_are_the_papers():
    one, ten = presets.named("imagenet_1pct"), presets.named("imagenet_10pct")
    assert one.replace(labels=128116) == ten and one.labels == 12811
    assert (one.backbone, one.width, one.sk, one.stem, one.interpolation) == (
        "resnet50", 64, False, "imagenet", "bicubic")  # fmt: skip
    assert (one.large_views, one.large_size, one.small_views, one.small_size) == (4, 224, 2, 96)
    assert (one.batch_size, one.queue, one.epochs, one.warmup_epochs) == (4096, 20 * 4096, 300, 10)
    assert (one.projector_hidden, one.predictor_hidden, one.embedding_dim) == (4096, 4096, 256)
    assert (one.optimizer, one.lr, one.weight_decay, one.eta, one.momentum) == ("lars", 0.3, 1e-6, 1e-3, 0.9)
    assert (one.gamma, one.tau, one.k, one.negatives, one.semantic_positives) == (0.996, 0.2, 1, 10, 3)
    assert (one.c, one.alpha, one.lam, one.labelled_share, one.oracle) == (0.3, 0.2, 5.0, None, False)


# ---- a real step


CONFIGS = {
    "narrow": tiny(),
    "other widths": tiny(large_views=3, small_views=2, embedding_dim=12, queue=100, semantic_positives=2, width=16),
    "few votes": tiny(voting_views=1, backbone="resnet18", stem_stride=1),
    "resnet50": tiny(batch_size=24, **LARGE),
    "recompute": tiny(batch_size=24, recompute=True, **LARGE),
    "sk": tiny(sk=True, **LARGE),
    "airbench": tiny(backbone="airbench", small_size=9),
}


def check_flops(config=CONFIGS["narrow"]):
    """All of a step but the making of views: not one product more or less."""
    assert real_step(config)[0] == sum(planner.flops(config).values())


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_are_those_of_a_real_step(name):
    check_flops(CONFIGS[name])


def test_flops_of_microbatches():
    """The networks in parts: a second forward pass, but for the last layer, whose outcome no gradient needs."""
    config = tiny(microbatches=4)
    network = nn.Sequential(*networks(config, GENERATOR).values())
    with FlopCounterMode(display=False) as counter:
        for x in inputs(config)[0]:
            in_parts(network, x, 4).sum().backward()
    planned, last = planner.flops(config), 3 * 16 * 2 * config.predictor_hidden * config.embedding_dim
    assert counter.get_total_flops() == planned["online forward"] + planned["online backward"] - last
    assert planned["online forward"] == 2 * planner.flops(tiny())["online forward"]


def check_kept(config=tiny(width=16, batch_size=128, large_size=32, small_size=16), tolerance=0.02):  # noqa: B008
    """What is beyond it: statistics of batch norms, 2 numbers a channel and view, and the loss's own tensors."""
    kept, held = real_step(config)[1], planner.memory(config, 1, 1000)
    half = config.precision != "fp32"
    pixels = sum(x.numel() for x in inputs(config)[0])
    planned = held["activations"] + held["weights in bf16"] + 2 * half * pixels
    if config.recompute:  # the block that is held for a moment is not among what waits
        block = planner.count(planner.network_of(config), config.large_size)["block"]
        planned -= config.batch_size * float(block[0] / (1 + half) + block[1])
    assert planned == pytest.approx(kept, rel=tolerance)


@pytest.mark.parametrize("name", ["resnet50", "recompute", "sk"])
def test_kept_bytes_are_those_of_a_real_step(name):
    check_kept(CONFIGS[name])


def test_kept_bytes_in_bf16():
    """Floats are halved, and each view has its own copy of the weights in bf16."""
    check_kept(tiny(width=16, batch_size=128, large_size=32, small_size=16, precision="bf16"), 0.05)


def test_the_largest_block_is_the_first_bottleneck():
    """Of width w: 1x1, 3x3 with w channels, 1x1 and shortcut with 4w; kept are convolutions and ReLUs, 16w a pixel."""
    config = planner.network_of(CONFIGS["recompute"])
    floats = 16 * config.width * 16 * 16  # pixels of a 64 x 64 image behind the stem
    assert float(planner.count(config, 64)["block"][0]) == pytest.approx(4 * floats, rel=1e-3)


def test_microbatches_hold_one_part_of_one_view():
    whole, parts = (planner.memory(tiny(microbatches=m), 1, 10)["activations"] for m in (1, 4))
    one = 16 / 4 * float(planner.count(planner.network_of(tiny()), 16)["kept"].sum())
    assert parts == pytest.approx(one) and whole > 8 * parts


def check_state(config=CONFIGS["narrow"]):
    """Queues, networks and optimizer, byte for byte."""
    method = SemPPL(config, 10)
    optimizer = make_optimizer(config, method.online)
    for p in method.online.parameters():
        p.grad = torch.ones_like(p)
    gradients = sum(p.grad.nbytes for p in method.parameters() if p.grad is not None)
    optimizer.step()
    real = {
        "queues": sum(t.nbytes for t in method.queue.state_dict().values()),
        "online networks": sum(t.nbytes for t in method.online.state_dict().values()),
        "target networks": sum(t.nbytes for t in method.target.state_dict().values()),
        "gradients": gradients,
        "optimizer": sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.dim()),
    }
    planned = planner.memory(config, 1, 10)
    assert {name: planned[name] for name in real} == real


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"optimizer": "adamw"}, {"queue": 33, "large_views": 3},
                                     {"backbone": "airbench", "small_size": 9, "optimizer": "muon"}])  # fmt: skip
def test_bytes_of_state_are_those_of_the_tensors(changes):
    check_state(tiny(**changes))


def check_similarities(config=CONFIGS["other widths"]):
    """The largest tensor that the logits make, and its gradient, are as planned, and shrink with the devices."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and function is torch.ops.aten.bmm.default:
                largest = max(largest, out.nbytes)
            return out

    from semppl_mini import losses

    L, views, B, D = config.large_views, config.large_views + config.small_views, config.batch_size, 4
    with Watch():
        losses.logits(random(views, B, D), random(L, B, D), draw_step(config, 0).negatives, 0.2)
    assert planner.memory(config, 1, 10)["similarities"] == 2 * largest
    assert planner.memory(config, 4, 10)["similarities"] == largest / 2


def test_similarities():
    check_similarities()


# ---- what is sent


def sent_in_a_step(config, n, monkeypatch):
    """Bytes that one of n processes sends in a real step, rings assumed, by what the exchanges are given."""
    sent, ring = {"gradients": 0.0, "batch norm": 0.0, "targets": 0.0, "calls": 0}, (n - 1) / n

    def all_reduce(x, *_, part="batch norm"):
        sent["calls"] += part == "batch norm"
        sent[part] += 2 * ring * x.nbytes

    def all_gather(parts, x):
        sent["targets"] += (n - 1) * x.nbytes
        for part in parts:
            part.copy_(x)

    method = SemPPL(config, config.batch_size)
    for place in (parallel, parallel.world):
        monkeypatch.setattr(place, "size", lambda: n)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(parallel.world, "FEW", 0)  # as on any device but a CPU
    parallel.share_batch_norm(method)
    own, (views, batch) = parallel.rows(config.batch_size), inputs(config, config.batch_size // n)
    draws = type(draw_step(config, 0))(*(x[own] for x in draw_step(config, 0)))
    method(views, batch, draws)[0].backward()
    monkeypatch.setattr(dist, "all_reduce", functools.partial(all_reduce, part="gradients"))
    parallel.world.average_([p.grad for p in method.online.parameters()])
    return sent


@pytest.mark.parametrize("name, n", [("narrow", 4), ("narrow", 2), ("other widths", 2)])
def test_what_a_real_step_sends(name, n, monkeypatch):
    """The collectives of `parallel`, counted in place of the network; a few 0-d sums of the loss come on top."""
    sent, planned = sent_in_a_step(CONFIGS[name], n, monkeypatch), planner.traffic(CONFIGS[name], n)
    assert sent["gradients"] == planned["gradients"] and sent["targets"] == planned["targets"]
    assert 0 <= sent["batch norm"] - planned["batch norm"] < 100


def test_one_device_sends_nothing():
    assert set(planner.traffic(tiny(), 1).values()) == {0.0}


# ---- the plan


def make(config=None, devices=1, chip=SMALL_CHIP, utilisation=0.5, images=64):
    return planner.plan(config or tiny(), devices, chip, utilisation, images)


def test_steps_and_hours():
    p = make(tiny(epochs=3), devices=2, images=100)  # 6 batches of 16 an epoch
    assert p["steps"] == 18 and p["rows"] == 8
    work = sum(p["flops"].values()) / 2 + p["replicated"]
    assert p["times"]["arithmetic"] == pytest.approx([work / 0.5e12] * 2)
    assert p["hours"] == pytest.approx([18 * s / 3600 for s in p["seconds"]])


# ---- what a step takes


def check_norms(name="cifar10_cpu", norms=23):
    """tests/parallel/test_norm.py counts the same numbers in real processes, docs/scaling.md tells them."""
    assert planner.exchanges(presets.named(name), 2) == {"batch norm": norms, "all else": 11}


@pytest.mark.parametrize("name, norms", [("cifar10_cpu", 23), ("imagenet_1pct", 274)])
def test_exchanges_are_those_that_were_counted(name, norms):
    check_norms(name, norms)
    assert sum(planner.exchanges(presets.named(name), 1).values()) == 0


def check_exchanges(monkeypatch, **changes):
    """All-reduces of real steps, but for the loss's own: batch norms', forward and backward."""
    config = tiny(**changes)
    calls = sent_in_a_step(config, 2, monkeypatch)["calls"]
    loss = 3  # sums of the loss over the rows, and back
    assert calls - loss == planner.exchanges(config, 2)["batch norm"]


@pytest.mark.parametrize("changes", [{}, {"small_views": 0}, {"recompute": True}, {"microbatches": 2}])
def test_exchanges_of_batch_norms_are_those_of_a_real_step(changes, monkeypatch):
    check_exchanges(monkeypatch, **changes)


def test_on_xla_every_view_has_its_own_exchanges():
    assert planner.exchanges(presets.imagenet_1pct(), 4, xla=True)["batch norm"] == 876


@pytest.mark.parametrize("name", ["cifar10", "cifar10_cpu"])
def test_operations_are_those_counted_on_a_gpu(name):
    counted = json.loads((ROOT / "benchmarks" / "gpu-h100.json").read_text())[f"waits {name}"]["operations"]
    assert planner.operations(presets.named(name)) == pytest.approx(counted["by device"]["cuda"], rel=0.02)


def check_networks_operations(config=CONFIGS["narrow"]):
    """The networks' share of them, against a real pass of the same networks with numbers."""
    network, x = nn.Sequential(*networks(config, GENERATOR).values()), inputs(config)[0][0]
    with planner.Dispatched() as forward:
        o = network(x)
    gradient = torch.ones_like(o)
    with planner.Dispatched() as backward:
        o.backward(gradient)
    assert planner.operations_of(planner.network_of(config), config.large_size) == (forward.n, backward.n)


@pytest.mark.parametrize("name", ["narrow", "resnet50"])
def test_operations_of_networks_are_those_of_a_real_pass(name):
    check_networks_operations(CONFIGS[name])


def test_the_measured_steps_of_an_h100_lie_between_the_ends():
    """benchmarks/gpu-h100.json: 67.3 ms and 63.1 without a graph, 20.7 and 23.4 with one; the GPU is busy for 13.2."""
    speeds = json.loads((ROOT / "benchmarks" / "gpu-h100.json").read_text())["speed cifar10"]
    for graph in (False, True):
        p = planner.plan(presets.cifar10().replace(graph=graph), 1, planner.CHIPS["h100"], images=50000)
        quick, slow = p["seconds"]
        for kind in ("False", "True"):
            ms = speeds[f"cudnn benchmark={kind}"]["ms"][f"step, graph={graph}"]
            assert 0.9 * quick < ms / 1000 < 1.1 * slow
        assert ("starting" in p["binds"]) is not graph


BOUND = {  # what binds when it is made scarce
    "arithmetic": ({"utilisation": 1e-9}, {}), "memory": ({}, {"speed": 1e3}), "sending": ({}, {"links": (1e3, 1e3)}),
    "decoding": ({"cores": 1e-6}, {}), "starting": ({}, {}),
}  # fmt: skip


@pytest.mark.parametrize("scarce", BOUND)
def test_what_is_scarce_binds(scarce):
    more, chip = BOUND[scarce]
    p = planner.plan(tiny(stem="imagenet", large_size=64, small_size=32), 2, SMALL_CHIP._replace(**chip),
                     **{"utilisation": 0.5, "images": 64, "classes": 10, **more})  # fmt: skip
    assert p["binds"] == [scarce, scarce] and p["seconds"][0] <= p["seconds"][1]
    assert p["seconds"][0] >= p["times"][scarce][0]


def test_many_devices_wait_for_one_another(monkeypatch):
    """Where Python starts nothing, each batch norm's answer takes longer than its bytes."""
    p = planner.plan(tiny(), 8, planner.CHIPS["tpu-v5p"], images=64, xla=True)
    assert p["binds"] == ["waiting", "waiting"]


def test_a_larger_utilisation_is_quicker():
    p = planner.plan(presets.imagenet_1pct(), 8, planner.CHIPS["h100"])
    assert p["times"]["arithmetic"][1] == pytest.approx(2 * p["times"]["arithmetic"][0])
    assert p["utilisation"] == [0.18, 0.09] and p["hours"][0] < p["hours"][1]


def test_mlperf_is_the_share_of_the_peak_that_is_told():
    """37 epochs of 1,281,167 images in 13.466 minutes on 8 H100, forward and backward three times 8.18 GFLOP."""
    reached = 37 * 1281167 * 3 * 2 * 4.089e9 / (13.466 * 60) / 8
    assert reached / planner.CHIPS["h100"].peak == pytest.approx(planner.UTILISATION[0], abs=0.005)


def test_a_plan_survives_json():
    for chip in (SMALL_CHIP, planner.chip_of("cpu-core", 5e10)):
        p = make(chip=chip)
        assert json.loads(json.dumps(p, allow_nan=False))["memory"] == p["memory"]


@pytest.mark.parametrize("share, kinds", [(0.5, 2), (0.2, 1)])
def test_every_remedy_is_the_least_that_fits(share, kinds):
    """Each remedy, taken, fits; half of it does not."""
    config = tiny(batch_size=64, large_size=32, queue=2**14)
    needed = sum(make(config, images=640)["memory"].values()) - 16e6  # beside the k-NN's chunk
    chip = planner.Chip("toy", 1e12, (16e6 + share * needed) / 0.9, "invented")
    p = make(config, chip=chip, images=640)
    assert not p["fits"] and len(p["remedies"]) >= kinds
    for remedy in p["remedies"]:
        fields = {name: json.loads(value.lower()) for name, value in re.findall(r"(\w+)=(\w+)", remedy)}
        devices = fields.pop("devices", 1)
        assert make(config.replace(**fields), devices, chip, images=640)["fits"], remedy
        if "microbatches" in fields and len(fields) == 1:
            assert not make(config.replace(microbatches=fields["microbatches"] // 2), 1, chip, images=640)["fits"]
        if devices > 1:
            assert not make(config, devices // 2, chip, images=640)["fits"]


def test_what_never_fits_says_so():
    p = make(chip=planner.Chip("toy", 1e12, 1e3, "invented"))
    assert p["remedies"] == ["a larger chip or smaller network"]


@pytest.mark.parametrize("number, shown", [(0, "0 B"), (12.5, "12.5 B"), (999, "999 B"), (1234567, "1.23 MB"),
                                           (5e13, "50 TB"), (3e21, "3e+03 EB")])  # fmt: skip
def test_human_numbers(number, shown):
    assert planner.human(number, "B") == shown


BAD = {
    "a chip": (lambda: planner.chip_of("tpu9"), "no chip 'tpu9'; choose one of tpu-v3, .*h100, or cpu-core with"),
    "no speed": (lambda: planner.chip_of("cpu-core"), "--flops is None; give one, such as --flops 5e10"),
    "a speed": (lambda: planner.chip_of("cpu-core", math.nan), "--flops is nan; give one"),
    "two speeds": (lambda: planner.chip_of("a100", 1e12), r"--flops = 1e\+12 is for cpu-core, a100 has a published"),
    "devices": (lambda: make(devices=3), "batch_size = 16 cannot be shared by 3 devices; give 2, or another"),
    "no devices": (lambda: make(devices=0), "cannot be shared by 0 devices; give 1, or"),
    "too many": (lambda: make(devices=17), "cannot be shared by 17 devices; give 16, or"),
    "parts": (lambda: make(tiny(microbatches=3)), "microbatches = 3 does not part the 16 rows of a device"),
    "thin parts": (lambda: make(tiny(microbatches=16)), "microbatches = 16 does not part the 16 rows"),
    "utilisation": (lambda: make(utilisation=40), r"utilisation = 40 lies outside \(0, 1\]"),
    "not a number": (lambda: make(utilisation=math.nan), "utilisation = nan lies outside"),
    "few images": (lambda: make(images=3), "batch_size = 16 exceeds the 3 training images"),
    "fp64": (lambda: make(tiny(precision="fp64")), "precision = 'fp64' is for checks and cannot be planned"),
    "basic blocks": (lambda: make(tiny(sk=True)), "sk = True needs bottlenecks"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence(what):
    run, message = BAD[what]
    with pytest.raises(ValueError, match=message) as error:
        run()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def printed(monkeypatch, capsys, command: str) -> str:
    monkeypatch.setattr(sys, "argv", command.split()[1:])
    planner.main()
    return capsys.readouterr().out


def test_the_command_prints_json(monkeypatch, capsys):
    small = "python scale/plan.py digits --images 4500 --devices 1 --chip cpu-core --flops 5e10"
    p = json.loads(printed(monkeypatch, capsys, small + " batch_size=100 --json"))
    assert p["config"]["batch_size"] == 100 and p["chip"]["peak"] == 5e10 and p["steps"] == 24 * 45
    out = printed(monkeypatch, capsys, small + " batch_size=100")
    assert f"{planner.between(p['hours'])} hours" in out and f"what binds: {p['binds'][0]}" in out


def test_the_figure_shows_every_byte_and_flop():
    """Bars end at the sum of a plan's memory, in percent of the chip's, and of its FLOPs."""
    plans = {"one": make(), "two": make(devices=2)}
    axes = plan_figure(plans).axes
    for ax, key, units in zip(axes, ("memory", "flops"), (0.4e6, 1e15), strict=True):
        ends = {round(bar.get_y() + 0.31): bar.get_x() + bar.get_width() for bar in ax.patches if bar.get_height() < 1}
        assert list(ends.values()) == pytest.approx([sum(p[key].values()) / units for p in plans.values()])
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == list(plans)


# ---- planted bugs


def bytes_of_tensors(right):
    """A storage counts as often as it is kept."""

    def wrong(run, known):
        total = torch.zeros(2)

        def pack(t):
            total[int(not t.is_floating_point())] += t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = run()
        return total, out

    return wrong


def changed(key, change):
    """`right` with one entry of the dict it returns changed."""

    def make_wrong(right):
        def wrong(*args):
            out = dict(right(*args))
            return out | {key: change(out, *args)}

        return wrong

    return make_wrong


PLANTED = {
    "backward is twice forward": (check_flops, "count", changed("backward", lambda out, *_: 2 * out["online"])),
    "the target predicts": (check_flops, "count", changed("target", lambda out, *_: out["online"])),
    "one queue is asked": (check_flops, "flops", changed("votes", lambda out, c: out["votes"] / c.large_views)),
    "no gradient of similarities": (check_flops, "flops", changed("similarities", lambda o, _: o["similarities"] / 2)),
    "a storage counts twice": (check_kept, "saved_bytes", bytes_of_tensors),
    "large views alone": (check_kept, "memory", changed("activations", lambda out, *_: 0.9 * out["activations"])),
    "queues without trash slot": (check_state, "memory", changed("queues", lambda out, *_: out["queues"] - 48)),
    "a target of another size": (check_state, "memory", changed("target networks", lambda o, *_: 2 * o["queues"])),
    "no momentum": (check_state, "memory", changed("optimizer", lambda *_: 0)),
    "SyncBatchNorm, each way for each view": (check_norms, "exchanges", changed("batch norm", lambda out, *_: 46)),
    "a backward pass that starts nothing": (check_networks_operations, "operations_of",
                                            lambda right: lambda *args: (right(*args)[0], 0)),
    "all rows on every device": (check_similarities, "memory", changed("similarities", lambda o, c, *_: 24 * 16 * 16)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug, monkeypatch):
    check, name, make_wrong = PLANTED[bug]
    planner.count.cache_clear()
    real_step.cache_clear()
    monkeypatch.setattr(planner, name, make_wrong(getattr(planner, name)))
    with pytest.raises(AssertionError):
        check()
    monkeypatch.undo()
    planner.count.cache_clear()
    check()  # finds nothing else


def test_a_storage_counts_once():
    """A ReLU in place keeps what the next layer keeps: 16 numbers a row here, and not 24."""
    layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Sigmoid())
    x = random(4, 8)
    kept, _ = planner.saved_bytes(lambda: layers(x), [x, *layers.parameters()])
    assert kept.tolist() == [4 * 16 * 4, 0]


# ---- scale/README.md


def shown():
    """Commands of the README and what it says they print."""
    readme = (ROOT / "scale" / "README.md").read_text()
    blocks = re.findall(r"^```\n\$ (python scale/plan\.py .*)\n((?:.*\n)+?)```", readme, re.M)
    return [pytest.param(command, text, id=command.split("plan.py ")[1]) for command, text in blocks]


@pytest.mark.parametrize("command, text", shown())
def test_the_readme_shows_what_is_printed(command, text, monkeypatch, capsys):
    out = printed(monkeypatch, capsys, command).splitlines()
    wanted = text.splitlines()
    if "..." in wanted:  # lines left out
        assert [line for line in out if line in wanted] == [line for line in wanted if line != "..."]
    else:
        assert out == wanted
