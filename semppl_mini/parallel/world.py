"""One process, several (torchrun), or one XLA program over many devices; the global batch is the only batch.

    gather(x)   the rows of all processes, in order; its backward sums over the processes
    mean(x)     the mean over processes; likewise differentiable (`average_` is in place, and is not)
    rows(B)     which rows of the global batch are this process's

Each process's loss is the mean over its own rows, plus terms that are equal on all; gradients are then *averaged* over
the processes, which makes them those of one process with the whole batch. With one process, and under XLA SPMD, where
a tensor already is global, all of this is the identity: nothing else in the module knows how many there are.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> None:
    """Join the processes that torchrun started (NCCL on GPUs, gloo on CPUs); alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leave them."""
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
    if batch % size():
        near = batch // size() * size() or size()
        raise ValueError(f"A batch of {batch} cannot be shared by {size()} processes; give batch_size={near}.")
    own = batch // size()
    return slice(rank() * own, (rank() + 1) * own)


# ---- collectives ----------------------------------------------------------------------------------------------------


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward: each gets back the sum of what all want of its rows."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rows(len(gradient))]


class _Sum(torch.autograd.Function):
    """Sum over processes; backward: the sum of what all want of it."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.forward(ctx, gradient)


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """Local rows along `dim` -> the rows of the global batch, on every process; differentiable."""
    if size() == 1:
        return x
    return _Gather.apply(x.transpose(0, dim).contiguous()).transpose(0, dim)


def mean(x: Tensor) -> Tensor:
    """The mean of x over processes; differentiable."""
    return x if size() == 1 else _Sum.apply(x) / size()


def total(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over processes, in one exchange of all of them."""
    if size() > 1:
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))


def average_(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over processes."""
    if size() > 1:
        total(tensors)
        torch._foreach_div_(tensors, size())


def most(number: int, device) -> int:
    """The largest of the processes' whole numbers."""
    if size() == 1:
        return number
    every = torch.tensor(number, device=device)
    dist.all_reduce(every, dist.ReduceOp.MAX)
    return int(every)


def tell(value):
    """Process 0's value, on every process."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]
