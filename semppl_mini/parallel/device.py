"""Where a run computes, and in which precision: networks may run in bfloat16; norms, votes and losses never do."""

import os
import sys

import torch
from torch import Tensor


def device_of(config) -> torch.device:
    """The device of a config; "auto": xla if torch_xla is in use, else cuda, mps, cpu. ValueError if unknown."""
    if config.device != "auto":
        try:
            return torch.device(config.device)
        except RuntimeError:
            raise ValueError(f"device = {config.device!r} is unknown to torch; give auto, cpu, cuda or mps.") from None
    if "torch_xla" in sys.modules:
        return torch.device("xla")
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def uses_bf16(config, device: torch.device) -> bool:
    """Whether networks run in bf16: where asked for, or with "auto" where the hardware computes in bf16."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xla":
        fast = os.environ.get("PJRT_DEVICE") == "TPU"
    if device.type == "cpu":
        fast = bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return config.precision == "bf16" or (config.precision == "auto" and fast)


def autocast_of(config, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device))


def at_least_float(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- XLA: one program, its rows spread over all devices (SPMD); elsewhere all of this does nothing

_mesh = None  # of devices, once `start_xla` has been called


def start_xla() -> torch.device:
    """One program over all XLA devices: batches are cut by rows, all else is replicated. ValueError: several hosts."""
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
    """x; on XLA a graph ends here, and another one where its gradient passes back, so that a step's views share graphs.

    Six passes of a ResNet-50 and their gradients compile in one minute, a whole step as two graphs not within 37.
    """
    return _Cut.apply(x) if uses_xla() else x
