"""What a step of training asks of the machine: its method in place, its gradients averaged and finite."""

import torch
from torch import Tensor, nn

from .batch_norm import share_batch_norm
from .world import average_
from .xla import run_pending


def placed(method: nn.Module, device: torch.device, config) -> nn.Module:
    """The method where it computes: type and memory layout of its tensors, batch norms over the global batch."""
    method.to(device, torch.float64 if config.precision == "fp64" else None)
    if device.type != "xla":  # which chooses memory layouts itself
        method.to(memory_format=torch.channels_last)
    share_batch_norm(method)
    if config.compile:
        compiled(method.online)
        compiled(method.target)
    return method


def compiled(parts: nn.ModuleDict, **options) -> None:
    """torch.compile each network in place, at its first call; state_dict keeps its names, deep copies are eager again.

    options: of torch.compile. ValueError with recompute, which it cannot trace; it need not trace microbatches.
    """
    for part in parts.values():
        if getattr(part, "recompute", False):
            raise ValueError("compile = True does not go with recompute = True; give recompute=False and microbatches.")
        part.compile(**options)


def average_and_check(online: nn.Module, terms: dict[str, Tensor]) -> None:
    """Gradients and terms become those of the global batch; FloatingPointError names the first that is not finite."""
    gradients = {name: p.grad for name, p in online.named_parameters() if p.grad is not None}
    average_([*gradients.values(), *terms.values()])
    sums = {f"the term {name}": value for name, value in terms.items()}
    sums["the term loss"] = sums.pop("the term loss")  # named only if it is alone
    sums |= {f"the gradient of {name}": g.sum() for name, g in gradients.items()}
    every = torch.stack(list(sums.values()))
    run_pending(every.device)
    if not bool(every.isfinite().all()):
        i = every.isfinite().tolist().index(False)
        raise FloatingPointError(f"{list(sums)[i]} is {float(every[i])}")
