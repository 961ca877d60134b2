"""One process, several (torchrun), or one XLA program over many devices; the global batch is the only batch.

Each process's loss is the mean over its own rows, plus terms equal on all; the *averaged* gradients are then those of
one process with the whole batch. With one process, and under XLA SPMD (tensors are global), it is all the identity."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from .device import accelerator

PATIENCE = timedelta(hours=2)  # of a collective: the first may be long in writing or in a callback [ours]
FEW = 2**15  # numbers of all processes together that gloo gathers in a third of the time it takes to sum them
_hosts = _store = None  # of the same processes: for waiting, and what the first to write there has said


def start() -> None:
    """Join the processes that torchrun started (NCCL on GPUs, torch_tpu on TPUs, gloo on CPUs); alone, do nothing.

    ValueError: the environment says what no torchrun does."""
    n = within("WORLD_SIZE", 1, 2**20, "1")
    own_rank = within("RANK", 0, n - 1, "0" if n == 1 else "")
    if n > 1 and not dist.is_initialized():
        kind, own = accelerator(), None  # on a TPU each process sees one chip, its own
        if kind == "cuda":
            own = torch.device("cuda", within("LOCAL_RANK", 0, torch.cuda.device_count() - 1, ""))
            torch.cuda.set_device(own)
        if kind == "tpu" and not os.environ.get(name := "TORCH_TPU_SLICEBUILDER_ADDRESSES"):
            raise ValueError(f"{name} is not set, so that {n} TPU processes cannot meet; use scale/scripts/tpu_pod.sh.")
        backend = {"cuda": "nccl", "tpu": "cpu:gloo,tpu:tpu_dist"}.get(kind, "gloo")
        global _hosts, _store
        _store = next(dist.rendezvous("env://", timeout=PATIENCE))[0]
        dist.init_process_group(backend, timeout=PATIENCE, device_id=own, store=_store, rank=own_rank, world_size=n)
        _hosts = dist.new_group(backend="gloo", timeout=timedelta(days=30))


def within(name: str, least: int, most: int, default: str) -> int:
    """A whole number of the environment. ValueError if it is none, or out of these limits."""
    text = os.environ.get(name, default)
    if not text.isdecimal() or not least <= int(text) <= most:
        words = f"{name} = {text!r} in the environment is no whole number from {least} to {most}"
        raise ValueError(f"{words}; let torchrun set it, or unset it and WORLD_SIZE to train in one process.")
    return int(text)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def size() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 logs, saves and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def rows(batch: int) -> slice:
    """This process's rows of a global batch. ValueError if it cannot be shared out evenly."""
    own, over = divmod(batch, n := size())
    if over:
        raise ValueError(f"A batch of {batch} cannot be shared by {n} processes; give batch_size={own * n or n}.")
    return slice(rank() * own, (rank() + 1) * own)


def share(n: int) -> Tensor:
    """This process's rows of n, as many as every other's, so that the last begins again from the front."""
    own = -(-n // size())
    return torch.arange(rank() * own, (rank() + 1) * own) % max(n, 1)


def everyones(x: Tensor) -> list[Tensor]:
    """Each process's x."""
    parts = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(parts, x.contiguous())
    return parts


def summed(x: Tensor) -> Tensor:
    """x summed over processes; x may be overwritten."""
    if x.device.type == "cpu" and x.numel() * size() <= FEW:
        return torch.stack(everyones(x)).sum(0, dtype=x.dtype)
    dist.all_reduce(x)
    return x


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward: each gets back the sum of what all want of its rows."""

    @staticmethod
    def forward(ctx, x):
        return torch.cat(everyones(x))

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.forward(ctx, gradient.contiguous())[rows(len(gradient))]


class _Sum(torch.autograd.Function):
    """Sum over processes; backward: the sum, too, of what all want of it."""

    @staticmethod
    def forward(ctx, x):
        return summed(x.clone(memory_format=torch.contiguous_format))

    backward = forward


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """Local rows along `dim` -> the rows of the global batch, on every process, in order; differentiable."""
    return x if size() == 1 else _Gather.apply(x.transpose(0, dim).contiguous()).transpose(0, dim)


def mean(x: Tensor) -> Tensor:
    """The mean of x over processes; differentiable."""
    return x if size() == 1 else _Sum.apply(x) / size()


def total(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over processes, in one exchange of all of them."""
    if size() > 1:
        flat = summed(torch.cat([t.flatten() for t in tensors]))
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))


def average_(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over processes."""
    if size() > 1:
        total(tensors)
        torch._foreach_div_(tensors, size())


def most(number: int, device) -> int:
    """The largest of the processes' whole numbers."""
    return number if size() == 1 else int(gather(torch.tensor([number], device=device)).max())


def first_to_say(words: str) -> bool:
    """Whether no other process has said these words: what all of them find wrong is said once."""
    try:
        return _store is None or _store.add(words, 1) == 1
    except RuntimeError:  # who kept it has ended
        return True


def wait() -> None:
    """Until all processes are here, however long one computes: no GPU's collective waits meanwhile, or times out."""
    if size() > 1:
        dist.barrier(_hosts)


def tell(value):
    """Process 0's value, on every process."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]
