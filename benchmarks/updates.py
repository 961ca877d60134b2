"""(e) LARS and the moving average on ResNet-50's parameters, against timm's Lars and torch's AveragedModel.

Both of a pair start from the same weights and see the same gradients; the largest difference between their
results is printed. timm divides by |g| + wd |w|, ours by |g + wd w|: with wd = 1e-6 the two nearly agree.
"""

import copy

import torch
from timing import by_turns, row
from timm.optim import Lars
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import resnet50

from semppl_mini.lars import LARS, param_groups
from semppl_mini.optim import ema_update

SETTINGS = dict(lr=0.3, momentum=0.9, weight_decay=1e-6)


def gap(one, other) -> float:
    """The largest difference between two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def lars(rounds: int) -> dict:
    ours = resnet50(weights=None)
    theirs = copy.deepcopy(ours)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.grad, q.grad = (0.01 * torch.randn_like(p)).expand(2, *p.shape).clone()
    weights, excluded = (group["params"] for group in param_groups(theirs))
    # timm adapts only groups with weight decay.
    groups = [{"params": weights}, {"params": excluded, "weight_decay": 0.0}]
    tasks = {"ours": LARS(param_groups(ours), eta=1e-3, **SETTINGS).step}
    tasks["timm"] = Lars(groups, trust_coeff=1e-3, **SETTINGS).step
    seconds = by_turns(tasks, rounds)
    notes = [f"largest difference of a weight after {rounds + 1} steps: {gap(ours, theirs):.1e}"]
    return row("LARS on ResNet-50: timm's Lars", seconds, "ours", "timm", 1.0, notes=notes)


def ema(rounds: int) -> dict:
    online, target = resnet50(weights=None), resnet50(weights=None)
    averaged = AveragedModel(target, multi_avg_fn=get_ema_multi_avg_fn(0.996))
    averaged.n_averaged += 1  # past its first call, which only copies
    tasks = {"ours": lambda: ema_update(target, online, 0.996)}
    tasks["AveragedModel"] = lambda: averaged.update_parameters(online)
    seconds = by_turns(tasks, rounds)
    notes = [f"largest difference of a weight after {rounds + 1} updates: {gap(target, averaged.module):.1e}"]
    return row("EMA on ResNet-50: torch's AveragedModel", seconds, "ours", "AveragedModel", 1.0, notes=notes)


def measure(rounds: int = 15) -> list[dict]:
    return [lars(rounds), ema(rounds)]
