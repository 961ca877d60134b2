"""XLA: one program, its rows spread over all devices (SPMD); on any other device all of this does nothing."""

import torch
from torch import Tensor

_mesh = None  # of devices, once `start_xla` has been called


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

    rows = spmd.ShardingSpec(_mesh, ("rows",) + (None,) * (x.dim() - 1))
    return xm.send_cpu_data_to_device([x], device, input_sharding=rows)[0]


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
