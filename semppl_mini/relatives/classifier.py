"""A classifier on an encoder, trained by the same `fit` as what made the encoder: at any scale, resumable.

    logits = W f(x) + b        loss = mean cross-entropy over views and images, labelled images alone

method="finetune" trains all weights (few labels); method="linear" trains W and b on a frozen f whose batch norms keep
their running statistics (linear evaluation). Both start from a run, `fit(config, data, weights=RUN)`, of which they
take the encoder; without `weights`, "finetune" trains from scratch on the labels alone. On small data `evaluate` reads
out in one call, with choices of its own: a linear probe without augmented views, and fine-tuning. W and b start at 0
[ours].
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import networks
from ..parallel.device import at_least_float, autocast_of
from ..parallel.memory import in_parts
from ..rng import INIT, generator
from ..semppl import Batch


class Draws(NamedTuple):
    """A step's random choices beside the views: none."""


def draw_step(config, step: int) -> Draws:
    return Draws()


class Classifier(nn.Module):
    """Encoder and linear layer; no target, no queue. Its trainer gives it the labelled images only."""

    starts = "online.encoder."  # what it takes of another run's weights

    def __init__(self, config, num_classes: int):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        f = networks(config, generator(config.seed, 0, INIT))["encoder"]
        head = nn.utils.skip_init(nn.Linear, f.dim, num_classes)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        self.online, self.target = nn.ModuleDict({"encoder": f, "head": head}), nn.ModuleDict()
        f.requires_grad_(config.method == "finetune")
        self.train()

    @property
    def encoder(self) -> nn.Module:
        return self.online["encoder"]

    @property
    def model(self) -> nn.Sequential:
        """Images (B, 3, H, W), normalised -> logits (B, C)."""
        return nn.Sequential(self.online["encoder"], self.online["head"])

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        self.encoder.train(mode and self.config.method == "finetune")
        return self

    def forward(self, views: list[Tensor], batch: Batch, draws: Draws) -> tuple[Tensor, dict]:
        """Views (B, 3, S, S), labels (B,), all known -> the loss, and what the step saw, for the monitor."""
        with autocast_of(self.config, views[0].device):
            f = [in_parts(self.encoder, x, self.config.microbatches) for x in views]  # each (B, dim)
            logits = torch.stack([at_least_float(self.online["head"](x)) for x in f])  # (views, B, C)
        loss = torch.stack([F.cross_entropy(of_view, batch.labels) for of_view in logits]).mean()
        o = F.normalize(at_least_float(torch.stack(f).detach()), dim=2)
        return loss, {"terms": {"L_ce": loss.detach()}, "o": o, "predicted": logits.argmax(2)}

    def before_step(self, progress: float) -> None:
        """Nothing: there is no target."""

    def after_step(self, progress: float) -> None:
        """Nothing: there is no target."""
