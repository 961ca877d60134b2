"""The target network: xi <- gamma xi + (1 - gamma) theta, after the optimizer step (SemPPL, gamma = 0.996).

The encoder and the projector are averaged, the predictor has no target. Batch-norm running statistics are not
averaged: the target sees the same views in training mode and keeps its own.
"""

import math

import torch
from torch import nn


def gamma_at(gamma: float, schedule: str, progress: float) -> float:
    """The rate at progress s/S in [0, 1]: constant, or "cosine" from gamma to 1 (BYOL, appendix J):

    gamma_s = 1 - (1 - gamma) (1 + cos(pi s / S)) / 2.
    """
    if schedule == "constant":
        return gamma
    return 1 - (1 - gamma) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, gamma: float) -> None:
    """Move target's parameters towards online's, in place. The two modules have the same structure."""
    weight = torch.tensor(1 - gamma, dtype=torch.float64)  # a tensor: XLA would compile anew for 0 and 1
    weight = weight.to(next(target.parameters()))
    for xi, theta in zip(target.parameters(), online.parameters(), strict=True):
        xi.lerp_(theta, weight)
