"""One training step under the microscope, for gpu_check.py: where it waits, what it launches, how long its pieces take.

What is said of a whole step is measured in `fit` itself; pieces are called one by one, on the same views.
"""

import collections
import contextlib
import dataclasses
import itertools
import statistics
import time
import traceback
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import semppl_mini as s
from semppl_mini import parallel
from semppl_mini.batches import Batches
from semppl_mini.networks import begin
from semppl_mini.optim import make_optimizer, set_lr

ROOT = Path(__file__).resolve().parents[1]
GPU = torch.cuda.is_available()
NEEDS = "needs a GPU"
FIRST, LAST = 3, 7  # the steps that `waits` looks at


def wait() -> None:
    """Until the GPU has done all it was given."""
    if GPU:
        torch.cuda.synchronize()


@contextlib.contextmanager
def setting(module, **values):
    """Inside, these attributes of a module have other values."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def few(data: s.Data, n: int) -> s.Data:
    """The data with n labelled and n unlabelled training images, evenly spread, or as many as there are."""
    labels = data.train.labels
    rows = [kind.nonzero().squeeze(1) for kind in (labels >= 0, labels < 0)]
    return dataclasses.replace(data, train=data.train.take(torch.cat([x[:: max(1, len(x) // n)][:n] for x in rows])))


def watched(config: s.Config, data: s.Data, marks: dict) -> None:
    """Train by `fit`, which calls marks[i]() where step i has its gradient; the last mark ends it.

    From one mark to the next are whole steps: update, counts, log, batches made and placed, networks, losses.
    """
    steps = itertools.count()

    class Watched(s.SemPPL):
        def before_step(self, progress):
            marks.get(next(steps), lambda: None)()

    s.fit(config, data, progress=False, method=Watched, steps=max(marks) + 1)


# ---- waits


def waits(found: dict, config: s.Config, data: s.Data) -> None:
    """A step's operations, host waits and kernels: means of four steps of `fit`, a training for each question."""
    data, config, lines, ops = few(data, 9 * config.batch_size), config.replace(labels=None), Steps(), Dispatched()
    config = config.replace(graph=False)  # operation by operation
    watch(config, data, ops)
    found["operations"] = {"by device": ops.devices.each(), "most": ops.names.each(12)}
    if not GPU:
        found["host waits"] = found["kernels"] = NEEDS
        return
    watch(config, data, host_waits(lines))
    found["host waits"] = {"all": sum(lines.each().values()), "lines": lines.each()}
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    watch(config, data, profiler)
    found["kernels"] = kernels_in(profiler.events())


class Steps(collections.Counter):
    """Counts over the steps that are looked at."""

    def each(self, top: int | None = None) -> dict:
        """{name: mean of a step}, the `top` largest."""
        return {name: x / (LAST - FIRST) for name, x in self.most_common(top)}


def watch(config: s.Config, data: s.Data, context) -> None:
    """The context is entered at the mark of step FIRST and left at that of step LAST; what was begun has ended."""
    with contextlib.ExitStack() as stack:

        def leave():
            if not (GPU and torch.cuda.get_sync_debug_mode()):  # which would count this wait
                wait()
            stack.close()

        watched(config, data, {FIRST: lambda: (wait(), stack.enter_context(context)), LAST: leave})


class Dispatched(TorchDispatchMode):
    """Counts every operation that reaches a backend, by name, and by the device of its outcome."""

    def __init__(self):
        super().__init__()
        self.names, self.devices = Steps(), Steps()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, (tuple, list)) and out else out
        self.names[str(function)] += 1
        self.devices[first.device.type if isinstance(first, torch.Tensor) else "none"] += 1
        return out


@contextlib.contextmanager
def host_waits(lines: Steps):
    """Counts torch's warnings of operations that synchronise, by the innermost line of the package that led there."""

    def note(message, category, filename, lineno, *_):
        if "synchronizing CUDA operation" in str(message):
            own = [(f.filename, f.lineno) for f in traceback.extract_stack() if f"{ROOT / 'semppl_mini'}" in f.filename]
            name, line = own[-1] if own else (filename, lineno)
            lines[f"{name.removeprefix(f'{ROOT}/')}:{line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def kernels_in(events) -> dict:
    """Of the profiler's events: launches, copies, GPU milliseconds, the 12 longest kernels, calls of CUDA's runtime."""
    times, counts, calls = Steps(), Steps(), Steps()
    for event in events:
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False):
            times[event.name[:120]] += event.time_range.elapsed_us() / 1000
            counts[event.name[:120]] += 1
        elif event.name.startswith("cu"):
            calls[event.name] += 1
    launched, copied = counts.each(), ("Memcpy", "Memset")
    copies = sum(n for name, n in launched.items() if name.startswith(copied))
    most = {name: {"ms": ms, "launched": launched[name]} for name, ms in times.each(12).items()}
    return {"launched": sum(launched.values()) - copies, "copies": copies, "GPU ms": sum(times.each().values()),
            "longest": most, "calls": calls.each(12)}  # fmt: skip


# ---- speed


def speed(found: dict, config: s.Config, data: s.Data, rounds: int, blocks: range) -> None:
    """Milliseconds without and with cudnn.benchmark: of a step of `fit`, of its pieces in so many rounds; images/s."""
    for fast in (False, True):
        with setting(torch.backends.cudnn, benchmark=fast):
            ms = {f"step, graph={graph}": pace(config.replace(graph=graph), data, blocks) for graph in (False, True)}
            ms |= {name: median_ms(task, rounds) for name, task in pieces(config, data).items()}
        ms["losses"] -= ms["votes"]  # which they hold
        speeds = {what: 1000 * config.batch_size / x for what, x in ms.items() if what.startswith(("step", "encoder"))}
        found[f"cudnn benchmark={fast}"] = {"ms": ms, "images/s": speeds}


def pace(config: s.Config, data: s.Data, blocks: range) -> float:
    """Milliseconds of a step of `fit`: the median over blocks of steps; the GPU is awaited between blocks alone."""
    times = []
    watched(config, data, dict.fromkeys(blocks, lambda: (wait(), times.append(time.perf_counter()))))
    return statistics.median(1000 * (b - a) / blocks.step for a, b in itertools.pairwise(times))


def median_ms(task, rounds: int) -> float:
    times = []
    for _ in range(3 + rounds):
        wait()
        start = time.perf_counter()
        task()
        wait()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def pieces(config: s.Config, data: s.Data) -> dict:
    """{what: function} of the pieces of one step: "encoder" on one large view, "networks" on all, "losses" with votes.

    "networks": online forward and backward on all views, target forward on the large ones, no loss. "losses": queue,
    votes, positives, losses and backward, of given embeddings in place of the networks'.
    """
    batches, ids = Batches(config, data.train, s.SemPPL.draw), int(data.train.ids.max()) + 1
    method = parallel.placed(s.SemPPL(config, len(data.classes), ids), batches.device, config)
    begin(method, batches.train, config)
    optimizer, L, ready = make_optimizer(config, method.online), config.large_views, batches[0]
    set_lr(optimizer, 1e-4)
    views, batch, draws = batches.place(ready)
    o = F.normalize(torch.randn(len(views), config.batch_size, config.embedding_dim, device=batches.device), dim=-1)
    method.remember(views, batch)  # so that the queue is not empty
    online, target = (nn.Sequential(*part.values()) for part in (method.online, method.target))

    def backward(make, gradients):  # random ones: a constant one would die in the last batch norm
        optimizer.zero_grad(set_to_none=True)
        with parallel.autocast_of(config, batches.device):
            out = make()
        torch.autograd.backward(out, [g.to(x.dtype) for g, x in zip(gradients, out, strict=True)])

    def networks():
        with torch.no_grad():
            for x in views[:L]:
                target(x)
        return [online(x) for x in views]

    def losses():
        leaf = o.clone().requires_grad_()
        given, theirs = iter(leaf), iter(o)
        with setting(method, predict=lambda x: next(given), project=lambda x: next(theirs)):
            method(views, batch, draws)[0].backward()

    noise = torch.randn(config.batch_size, method.encoder.dim, device=batches.device)
    return {
        "host preparation": lambda: batches[0], "views": lambda: batches.place(ready),
        "encoder": lambda: backward(lambda: [method.encoder(views[0])], [noise]),
        "networks": lambda: backward(networks, o), "votes": lambda: method.vote(o[:L]), "losses": losses,
        "optimizer, EMA": lambda: (optimizer.step(), method.after_step(0.5)),
    }  # fmt: skip
