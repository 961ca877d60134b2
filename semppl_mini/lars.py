"""LARS: momentum SGD whose step on each weight is scaled by that weight's norm (You et al., 2017; SemPPL, section 4).

    u  = g + wd w                    weight decay enters before the norm
    u <- eta |w| / |u| u             if both norms are positive
    v <- mu v + u
    w <- w - lr v

Biases and batch-norm parameters (group key exclude=True) get neither decay nor adaptation: plain momentum SGD."""

import torch
from torch import Tensor, nn

from . import parallel


class LARS(torch.optim.Optimizer):
    """params, lr, momentum mu, weight_decay wd, eta (trust coefficient); groups with exclude=True skip wd and eta."""

    def __init__(self, params, lr: float, momentum: float = 0.9, weight_decay: float = 1e-6, eta: float = 1e-3):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta, exclude=False)
        for name in ("lr", "momentum", "weight_decay", "eta"):
            if defaults[name] < 0:
                raise ValueError(f"LARS: {name} = {defaults[name]} is negative; give a value of 0 or more.")
        super().__init__(params, defaults)

    def add_param_group(self, group: dict) -> None:
        """Momentum is there from the start, so that the first step is like every other."""
        super().add_param_group(group)
        for w in self.param_groups[-1]["params"]:
            self.state[w]["momentum"] = torch.zeros_like(w)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient. A closure is evaluated first, its loss returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            lr = torch.tensor(group["lr"], dtype=torch.float64)  # a tensor: XLA would compile anew for 0 and 1
            lr = lr.to(group["params"][0], non_blocking=True) if group["params"] else lr
            moving = [w for w in group["params"] if w.grad is not None]
            # In few operations; on a CPU large weights one after the other, each while it is in the cache.
            one_by_one = not (group["exclude"] or parallel.far(lr.device))
            for ws in zip(moving) if one_by_one else [moving] * bool(moving):
                self._update(ws, group, lr)
        return loss

    def _update(self, ws: list[Tensor], group: dict, lr: Tensor) -> None:
        gs, vs = zip(*((w.grad, self.state[w]["momentum"]) for w in ws), strict=True)
        torch._foreach_mul_(vs, group["momentum"])
        if group["exclude"]:
            torch._foreach_add_(vs, gs)
        else:
            us = torch._foreach_add(gs, ws, alpha=group["weight_decay"])
            torch._foreach_addcmul_(vs, us, trust_ratio(ws, us, group["eta"]))
        torch._foreach_addcmul_(ws, vs, [lr] * len(ws), value=-1)


def trust_ratio(ws: list[Tensor], us: list[Tensor], eta: float) -> list[Tensor]:
    """eta |w| / |u| of each pair, or 1 where either norm is zero: 0-d tensors."""
    a, b = (torch.stack(torch._foreach_norm(x)) for x in (ws, us))
    return torch.where((a > 0) & (b > 0), eta * a / b, 1.0).unbind()


def param_groups(*modules: nn.Module) -> list[dict]:
    """Two groups: weights, and biases plus batch-norm parameters (all that has one dimension or none) excluded."""
    params = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [{"params": [p for p in params if (p.dim() <= 1) == out], "exclude": out} for out in (False, True)]
