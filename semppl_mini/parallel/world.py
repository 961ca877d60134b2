"""World: one process, several (torchrun), or one XLA program over many devices; the global batch is the only batch.

    gather(x)   the rows of all processes, in order; its backward sums over the processes
    mean(x)     the mean over processes; likewise differentiable
    rows(B)     which rows of the global batch are this process's

Each process's loss is the mean over its own rows, plus terms that are equal on all; gradients are then *averaged* over
the processes, which makes them those of one process with the whole batch. With one process, and under XLA SPMD, where
a tensor already is global, all of this is the identity: nothing else in the module knows how many there are.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .device import at_least_float

_mesh = None  # of XLA devices, once `start_xla` has been called


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


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over processes."""
    if size() > 1:
        total(tensors)
        torch._foreach_div_(tensors, size())


def largest(number: int, device) -> int:
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


# ---- batch norm over the global batch -------------------------------------------------------------------------------


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """y = (x - m) / sqrt(v + eps) w + b with mean m and variance v of each channel over the rows of all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, but_channels = at_least_float(x), [d for d in range(x.dim()) if d != 1]
        m = mean(y.mean(but_channels, keepdim=True))
        y = y - m
        v = mean(y.square().mean(but_channels, keepdim=True))
        with torch.no_grad():
            n = x.numel() // x.shape[1] * size()
            self.running_mean.lerp_(m.flatten().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(v.flatten().to(self.running_var.dtype) * (n / (n - 1)), self.momentum)
            self.num_batches_tracked += 1
        shape = [1, -1] + [1] * (x.dim() - 2)
        return (y * ((v + self.eps).rsqrt() * self.weight.view(shape)) + self.bias.view(shape)).to(x.dtype)


def share_batch_norm(module: nn.Module) -> nn.Module:
    """The module with batch norms over the global batch: torch's on GPUs, ours on CPUs (torch's refuses them).

    On XLA they are global anyway, but torch_xla's running variance lacks the factor n / (n - 1): ours there, too.
    """
    if size() == 1 and not uses_xla():
        return module
    if next(module.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.__class__ = BatchNorm  # same parameters, same buffers, another forward
    return module


# ---- XLA: one program, its rows spread over all devices (SPMD) ------------------------------------------------------


def start_xla() -> torch.device:
    """One program over all XLA devices of this host: batches are cut by rows, all else is replicated.

    ValueError: there are several hosts, whose rows of a batch would have to be fed apart.
    """
    import torch_xla.distributed.spmd as spmd
    import torch_xla.runtime as runtime

    global _mesh
    runtime.use_spmd()
    if (hosts := runtime.process_count()) > 1:
        raise ValueError(f"{hosts} hosts share these XLA devices and one is supported; take a slice of one host.")
    n = runtime.global_runtime_device_count()
    _mesh = spmd.Mesh(list(range(n)), (n,), ("rows",))
    return torch.device("xla")


def uses_xla() -> bool:
    return _mesh is not None


def place(x: Tensor, device: torch.device) -> Tensor:
    """Rows of a batch, from the CPU to where this process computes; on XLA cut over the devices."""
    if device.type != "xla":
        return x.to(device, non_blocking=True)
    import torch_xla.core.xla_model as xm
    import torch_xla.distributed.spmd as spmd

    cut = spmd.ShardingSpec(_mesh, ("rows",) + (None,) * (x.dim() - 1))
    return xm.send_cpu_data_to_device([x], device, input_sharding=cut)[0]


def run_pending(device: torch.device) -> None:
    """XLA collects operations; run them now, as one graph. Elsewhere they have run."""
    if device.type == "xla":
        import torch_xla

        torch_xla.sync()


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        run_pending(x.device)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        run_pending(gradient.device)
        return gradient


def cut(x: Tensor) -> Tensor:
    """x; on XLA a graph ends here, and another one where its gradient passes back. Elsewhere nothing happens.

    The networks' passes over a step's views then share a few graphs: six passes of a ResNet-50 and their gradients
    compile in one minute, a whole step as two graphs not within 37.
    """
    return _Cut.apply(x) if uses_xla() else x
