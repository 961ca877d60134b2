"""Where a run computes, and in which precision: networks may run in bfloat16; norms, votes and losses never do."""

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_leaves, tree_map_only


def device_of(config) -> torch.device:
    """The device of a config; "auto": xla if torch_xla is in use, else `accelerator()`. ValueError: it is not here."""
    xla = "torch_xla" in sys.modules
    auto = "xla" if xla else accelerator()
    try:
        device = torch.device(auto if config.device == "auto" else config.device)
    except RuntimeError:
        missing = "finds no chip" if "torch_tpu" in sys.modules else "is not installed"  # torch loads it, if it is
        why = f" (torch_tpu {missing})" if config.device.startswith("tpu") else ""
        raise ValueError(f"device = {config.device!r} is unknown to torch{why}; give auto, cpu, cuda or mps.") from None
    here = {accelerator(): torch.accelerator.device_count(), "cpu": 1}.get(device.type, 0)
    if config.device != "auto" and not (xla if device.type == "xla" else (device.index or 0) < here):
        has = f"of these this machine has {here}, and auto is {auto}"
        raise ValueError(f"device = {config.device!r} is not there: {has}; give auto, or a device that is.")
    return device


def accelerator() -> str:
    """What torch finds on this machine: cuda, mps, tpu (where torch_tpu is installed), or else cpu."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found and found.type in ("cuda", "mps", "tpu") else "cpu"


def uses_bf16(config, device: torch.device) -> bool:
    """Whether networks run in bf16: where asked for, or with "auto" where the hardware computes in bf16."""
    fast = device.type == "tpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
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


def far(device: torch.device) -> bool:
    """Whether operations are started from elsewhere: few large ones are best then, and asking for a value waits."""
    return device.type != "cpu"


# ---- XLA: one program, its rows spread over all devices (SPMD); elsewhere all of this does nothing

_mesh = None  # of devices, once `start_xla` has been called


def start_xla() -> None:
    """One program over all XLA devices: batches are cut by rows, all else is replicated. ValueError: several hosts."""
    import torch_xla.distributed.spmd as spmd
    import torch_xla.runtime as runtime

    global _mesh
    runtime.use_spmd()
    if (hosts := runtime.process_count()) > 1:
        raise ValueError(f"{hosts} hosts share these XLA devices and one is supported; take a slice of one host.")
    _mesh = spmd.get_1d_mesh("rows")


def uses_xla() -> bool:
    return _mesh is not None


def place(tree, device: torch.device):
    """A tree of a batch's rows, from the CPU to where this process computes: on a GPU in one copy, on XLA cut."""
    if device.type == "cuda":
        return tree if all(x.is_cuda for x in tree_leaves(tree) if isinstance(x, Tensor)) else as_one(tree, device)
    if device.type != "xla":
        return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), tree)
    import torch_xla.core.xla_model as xm
    import torch_xla.distributed.spmd as spmd

    def cut_rows(x: Tensor) -> Tensor:
        rows = spmd.ShardingSpec(_mesh, ("rows",) + (None,) * (x.dim() - 1))
        return xm.send_cpu_data_to_device([x], device, input_sharding=rows)[0]

    return tree_map_only(Tensor, cut_rows, tree)


class Pinned(NamedTuple):
    """A tree, and the bytes of its tensors one after the other in pinned memory."""

    whole: Tensor
    tree: object


def pinned(tree) -> Pinned:
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    parts = [pad(x.contiguous().flatten().view(torch.uint8), (0, -x.nbytes % 16)) for x in tensors]  # aligned
    return Pinned(torch.cat(parts).pin_memory(), tree)


def as_one(tree, device: torch.device):
    """The tensors of a tree on a GPU, whose host pays by the copy: their bytes go as one, packed before or now."""
    whole, tree = tree if isinstance(tree, Pinned) else pinned(tree)
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    sent = whole.to(device, non_blocking=True).split([x.nbytes + -x.nbytes % 16 for x in tensors])
    there = (part[: x.nbytes].view(x.dtype).view(x.shape) for part, x in zip(sent, tensors, strict=True))
    return tree_map_only(Tensor, lambda _: next(there), tree)


def numbers(x: Tensor) -> Callable[[], list[float]]:
    """A function that says x's numbers; of a GPU it waits for x, and not for what was started after it."""
    if x.device.type != "cuda":
        return x.tolist
    here, done = x.to("cpu", non_blocking=True), torch.cuda.current_stream().record_event()
    return lambda: done.synchronize() or here.tolist()


def run_pending(device: torch.device) -> None:
    """XLA collects operations; run them now, as one graph. Elsewhere they have run."""
    if device.type == "xla":
        import torch_xla

        torch_xla.sync()


def cut(x: Tensor) -> Tensor:
    """x; on XLA a graph ends here, and another where its gradient passes back, so that a step's views share graphs."""
    if uses_xla():  # six passes of a ResNet-50 with gradients compile in a minute, a step as two graphs not in 37
        run_pending(x.device)
        if x.requires_grad:
            x.register_hook(lambda gradient: run_pending(gradient.device))
    return x
