"""The schedules of a run, its optimizer, and the target's moving average.

    lr(e)  = lr B / 256 * e / W                                    in the first W of E epochs [paper: 10 of 300]
             m + (lr B / 256 - m) (1 + cos(pi (e - W) / (E - W))) / 2    then, to m = lr_min: 0, but in CARP
    gamma  = constant [paper: 0.996], or at step s of S
             1 - (1 - gamma) (1 + cos(pi s / S)) / 2               [BYOL, appendix J]
    xi    <- gamma xi + (1 - gamma) theta                          target's weights xi, online theta

The first step of a warm-up has rate 0. Encoder and projector are averaged, the predictor has no target. Batch-norm
running statistics are not averaged: the target sees the large views in training mode and keeps its own."""

import math

import torch
from torch import nn

from . import parallel
from .lars import LARS, param_groups
from .muon import Muon


def lr_at(config, epoch: float) -> float:
    """Learning rate at a fractional epoch."""
    peak, warm, m = config.lr * config.batch_size / 256, min(config.warmup_epochs, config.epochs), config.lr_min
    if epoch < warm:
        return peak * epoch / warm
    return m + (peak - m) * (1 + math.cos(math.pi * (epoch - warm) / max(config.epochs - warm, 1e-9))) / 2


def gamma_at(gamma: float, schedule: str, progress: float) -> float:
    """EMA rate at progress s / S in [0, 1]: schedule "constant" or "cosine"."""
    return gamma if schedule == "constant" else 1 - (1 - gamma) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(config, module: nn.Module) -> torch.optim.Optimizer:
    """LARS, Nesterov SGD, AdamW (betas: momentum, 0.99) or Muon; biases and batch norms without decay, trust ratio."""
    groups, rate = param_groups(module), dict(lr=0.0, weight_decay=config.weight_decay)
    if config.optimizer == "lars":
        return LARS(groups, momentum=config.momentum, eta=config.eta, **rate)
    groups[1]["weight_decay"] = 0.0
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(config.momentum, 0.99), **rate)
    if config.optimizer == "muon":
        bf16 = parallel.uses_bf16(config, groups[0]["params"][0].device)
        return Muon(groups, betas=(config.momentum, 0.99), bf16=bf16, **rate)
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0, **rate)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, gamma: float) -> None:
    """Move target's parameters towards online's, in place. The two modules have the same structure."""
    torch._foreach_lerp_([*target.parameters()], [*online.parameters()], 1 - gamma)
