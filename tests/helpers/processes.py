"""Several processes: some share the rows of a batch, one trains in the background until it is stopped."""

import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from semppl_mini.method import Batch
from semppl_mini.parallel import world


def start(rank, path, work, out, n):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/meet", rank=rank, world_size=n)
    result = work()
    if rank == 0:
        torch.save(result, out)
    dist.destroy_process_group()


def by_two(work, folder, n=2):
    """What work() returns on the first of n processes."""
    mp.spawn(start, (str(folder), work, str(folder / "out.pt"), n), nprocs=n)
    return torch.load(folder / "out.pt", weights_only=True)


def step_of(method, x, batch, draws):
    """Loss and gradients of the global batch, as the trainer makes them of own rows; batch norm is frozen."""
    own = world.rows(len(batch.ids))
    method.double().eval()
    loss, _ = method([v[own].double() for v in x], Batch(batch.labels[own], batch.ids[own]), draws)
    loss.backward()
    return [world.mean(value) for value in (loss.detach(), *(p.grad for p in method.online.parameters()))]


def steps_logged(folder):
    log = folder / "log.jsonl"
    return log.read_text().count('"step"') if log.exists() else 0


def wait_for_steps(process, folder, count):
    until = time.time() + 900  # a busy machine may take its time; that it arrives is what counts
    while steps_logged(folder) < count:
        assert process.poll() is None and time.time() < until, process.communicate()
        time.sleep(0.005)


def workers_of(pid):
    """The processes that the main thread of `pid` has forked and that are still what it is: workers (on Linux)."""
    try:
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        forked = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in forked if Path(f"/proc/{child}/cmdline").read_bytes() == own]
    except OSError:  # gone meanwhile
        return []


def running(pid):
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds):
    """Whether all of these processes end within so many seconds."""
    until = time.time() + seconds
    while any(map(running, pids)) and time.time() < until:
        time.sleep(0.02)
    return not any(map(running, pids))
