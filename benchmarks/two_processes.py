"""(h) What does a shared batch cost? Two gloo processes of one thread each, B 128, against one with B 64.

    python benchmarks/two_processes.py [RECIPE ...]     counts a step's exchanges, by the file that asks for them

Each of the two has 64 images of a batch, as many as the one; what comes on top are the exchanges, the negatives and
targets of the other 64, and what two busy cores take from each other. The second line has the last alone: two processes
with B 64 that share no batch; the third what is left. The fourth is the same batch in one process of two threads.
"""

import collections
import contextlib
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import Stepper
from timing import by_turns, row

import semppl_mini
from semppl_mini import presets

STEPS = 2  # a turn
MODULE = Path(semppl_mini.__file__).parent
# Exchanges depend on layers and sizes of views, not on how large these are.
SMALL = dict(width=8, projector_hidden=32, predictor_hidden=32, batch_size=8, negatives=7, queue=32, mask_p=0.0,
             device="cpu", precision="fp32")  # fmt: skip


@contextlib.contextmanager
def together(config, processes: int = 1, threads: int = 1, apart: bool = False):
    """A function that has every one of so many processes do task(stepper), and returns what each says.

    apart: each has batches of its own."""
    context, pipes = mp.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(processes):
            ours, theirs = context.Pipe()
            given = theirs, config, rank, 1 if apart else processes, threads, f"file://{folder}/meet"
            context.Process(target=work, args=given, daemon=True).start()
            theirs.close()
            pipes.append(ours)

        def do(task) -> list:
            for pipe in pipes:
                pipe.send(task)
            return [pipe.recv() for pipe in pipes]

        do(warmed)
        yield do
        for pipe in pipes:
            pipe.send(None)


def work(pipe, config, rank: int, processes: int, threads: int, meet: str) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if processes > 1:
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=processes)
    stepper = Stepper(config)
    while task := pipe.recv():
        pipe.send(task(stepper))


def warmed(stepper: Stepper) -> None:
    for _ in range(STEPS):
        stepper.step()


def timed(stepper: Stepper) -> float:
    start = time.perf_counter()
    warmed(stepper)
    return time.perf_counter() - start


def counted(stepper: Stepper) -> collections.Counter:
    """The exchanges of a step, by the innermost file of the module, but for world.py, that asks for them.

    Nobody does in a backward pass: of SemPPL, these are all of batch norms.
    """
    counts = collections.Counter()

    def counting(exchange):
        def count(*given):
            files = [Path(f.filename) for f in traceback.extract_stack()]
            names = [file.name for file in files if MODULE in file.parents and file.stem != "world"]
            counts[names[-1] if names else "backward"] += 1
            return exchange(*given)

        return count

    with contextlib.ExitStack() as stack:
        for name in ("all_reduce", "all_gather"):
            stack.enter_context(patch.object(dist, name, counting(getattr(dist, name))))
        stepper.step()
    return counts


def exchanges(name: str) -> collections.Counter:
    """Those of one step of a recipe of SemPPL, in two processes, with small networks of as many layers."""
    config = presets.named(name)
    sizes = dict(large_size=64, small_size=32) if config.small_views else {}
    with together(config.replace(**SMALL, **sizes), 2) as do:
        one, other = do(counted)
    assert one == other
    return one


def measure(rounds: int = 20) -> list[dict]:
    config = presets.cifar10_cpu()
    half = config.replace(batch_size=64, negatives=63)
    with (together(config, 2) as two, together(half) as one, together(half, 2, apart=True) as strangers,
          together(config, threads=2) as whole):  # fmt: skip
        tasks = {"two": two, "one": one, "two strangers": strangers, "two threads": whole}
        seconds = by_turns({name: lambda do=do: max(do(timed)) for name, do in tasks.items()}, rounds)
    rows = [
        row("two processes, B 128 / one with B 64, a thread each", seconds, "two", "one", 1 / 1.15),
        row("  two with B 64 that share nothing / one", seconds, "two strangers", "one"),
        row("  two processes, B 128 / two that share nothing", seconds, "two", "two strangers"),
        row("  two processes, B 128 / one process of two threads", seconds, "two", "two threads"),
    ]
    for line in rows:
        line["notes"] = [f"{1 / line['ratio']:.2f} times the seconds of {line['against']}"]
    return rows


if __name__ == "__main__":
    for recipe in sys.argv[1:] or ("cifar10_cpu", "imagenet_1pct"):
        found = exchanges(recipe)
        parts = ", ".join(f"{file} {n}" for file, n in found.most_common())
        print(f"{recipe}: {found.total()} exchanges a step ({parts})", flush=True)
