"""What a step of training asks of the machine: itself made ahead, its method in place, its gradients averaged."""

import math
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from . import world
from .device import far, numbers, run_pending
from .norm import share_batch_norm

PER_CORE = 4  # workers, at most [ours]
AHEAD = 2  # items that a worker has ready, at most: torch's default
SHARED = Path("/dev/shm")  # where items wait: Linux's, and no folder elsewhere


def ahead(make: Callable, first: int, last: int, workers: int = 0) -> Iterator:
    """make(first), ..., make(last - 1), in order, made ahead in so many processes; 0: here, when asked for.

    Workers are sent numbers and send items; the first is made here, as it tells how much room the others will need.
    Never more than there are items, or, with a warning, than PER_CORE for each core. ValueError: no room for them."""
    if workers > (most := PER_CORE * (cores := os.cpu_count() or 1)):
        words = f"workers = {workers} are more than {PER_CORE} for each of {cores} cores; {most} are started, at most."
        warnings.warn(words, stacklevel=2)
    early = [make(first)] if workers and first < last else []
    workers = min(workers, most, max(last - first - 1, 0))
    check_room(early, workers)
    more = {"num_workers": workers, "prefetch_factor": AHEAD if workers else None, "generator": torch.Generator()}
    more |= {"collate_fn": partial(_attempt, make), "worker_init_fn": bound}
    more |= {"multiprocessing_context": "fork" if workers and SHARED.is_dir() else None}
    # Linux; to processes started afresh, Python 3.14's default, no lambda and no class of a notebook can be sent
    rest = iter(DataLoader(range(first + len(early), last), batch_size=None, **more))  # here they start
    for item in chain(early, rest):
        if isinstance(item, ValueError):
            raise item
        yield item


def check_room(item, workers: int) -> None:
    """ValueError unless what waits, up to AHEAD such items a worker, and two in use fit into shared memory.

    Where it is full workers die without a word. Each process of a machine has its share of it."""
    if workers and SHARED.is_dir():
        need = (AHEAD * workers + 2) * sum(x.nbytes for x in tree_leaves(item) if isinstance(x, Tensor))
        disk = shutil.disk_usage(SHARED)
        room = min(disk.free, disk.total // world.within("LOCAL_WORLD_SIZE", 1, 2**20, "1"))
        if need > room:
            words = f"workers = {workers} keep up to {need:,} bytes in {SHARED} and {room:,} are free for this process"
            raise ValueError(f"{words}; give fewer workers, or a larger {SHARED} (docker run --shm-size, or mount).")


def one_early(items: Iterator) -> Iterator:
    """The same items, the next one made in a thread while this one is in use: for training on an accelerator."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


def _attempt(make: Callable, i: int):
    """make(i), or its ValueError: raised by a worker it would become a traceback, so `ahead` raises it."""
    try:
        return make(i)
    except ValueError as error:
        return error


def bound(worker: int) -> None:
    """Workers leave Ctrl-C to the process they work for, and end at once on SIGTERM, and when that process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """In a thread: others may wait to write what nobody reads. (PR_SET_PDEATHSIG is about the thread that forked.)"""
    multiprocessing.parent_process().join()
    os._exit(1)


def placed(method: nn.Module, device: torch.device, config) -> nn.Module:
    """The method where it computes: type and memory layout of its tensors, batch norms over the global batch."""
    if device.type == "cuda" and config.precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # it is on, and cuts factors to 10 bits
    method.to(device, torch.float64 if config.precision == "fp64" else None)
    if device.type == "tpu":  # which multiplies float32 in bf16, votes and losses too, unless told
        torch.set_float32_matmul_precision("highest")
    elif device.type != "xla":  # these two choose memory layouts themselves
        method.to(memory_format=torch.channels_last)
    share_batch_norm(method)
    for parts in (method.online, method.target) if config.compile else ():
        compiled(parts)
    return method


def compiled(parts: nn.ModuleDict, **options) -> None:
    """torch.compile networks in place, at first call; names stay, deep copies are eager. ValueError with recompute."""
    for part in parts.values():
        if getattr(part, "recompute", False):  # it cannot trace that, and need not trace microbatches
            raise ValueError("compile = True does not go with recompute = True; give recompute=False and microbatches.")
        part.compile(**options)


class NotFinite(FloatingPointError):
    """A loss or gradient is infinite or no number."""


def averaged(online: nn.Module, terms: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
    """Gradients and terms become those of the global batch; the function says the terms, or NotFinite names a bad one.

    Here it is asked at once, before a weight has moved; far away, where one would wait, the next step asks."""
    gradients = {name: p.grad for name, p in online.named_parameters() if p.grad is not None}
    world.average_([*gradients.values(), *terms.values()])
    norms = torch._foreach_norm([*gradients.values()]) if gradients else []
    ask = numbers(every := torch.stack([*terms.values(), *norms]))
    run_pending(every.device)

    def said() -> dict[str, float]:
        names = [f"the term {name}" for name in terms], [f"the gradient of {name}" for name in gradients]
        found = list(zip([*names[0], *names[1]], ask(), strict=True))
        if bad := {name: x for name, x in found if not math.isfinite(x)}:
            name = min(bad, key=lambda name: (name not in names[0], name == "the term loss"))  # loss if it is alone
            raise NotFinite(f"{name} is {bad[name]}")
        return dict(zip(terms, (x for _, x in found), strict=False))

    return said if far(every.device) else partial(dict, said())
