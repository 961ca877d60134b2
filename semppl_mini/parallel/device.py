"""Where a run computes, and in which precision. Networks may run in bfloat16; norms, votes and losses never do."""

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
