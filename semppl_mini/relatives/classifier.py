"""A classifier on an encoder, trained by the same `fit` as what made the encoder: at any scale, resumable.

    logits = W f(x) + b        loss = mean cross-entropy over views and images, labelled images alone

method="finetune" trains all weights; method="linear" trains W and b, which start at 0 [ours], on a frozen f whose
batch norms keep their running statistics. f is the encoder of a run, `fit(config, data, weights=RUN)`, or is new."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel
from ..method import Batch, Method
from ..networks import networks
from ..rng import INIT, generator


class FineTuning(Method):
    """Encoder and linear layer; no target, no queue. `frozen`: the encoder, with its batch norms' statistics."""

    title, starts, labelled_only, frozen = "fine-tuning", "online.encoder.", True, False

    def __init__(self, config, num_classes: int, num_images: int = 0):
        super().__init__(config, num_classes)
        f = networks(config, generator(config.seed, 0, INIT))["encoder"]
        head = nn.utils.skip_init(nn.Linear, f.dim, num_classes)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        self.online, self.target = nn.ModuleDict({"encoder": f, "head": head}), nn.ModuleDict()
        f.requires_grad_(not self.frozen)
        self.train()

    @property
    def model(self) -> nn.Sequential:
        """Images (B, 3, H, W), normalised -> logits (B, C)."""
        return nn.Sequential(self.online["encoder"], self.online["head"])

    def train(self, mode: bool = True) -> "FineTuning":
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def forward(self, views: list[Tensor], batch: Batch, draws) -> tuple[Tensor, dict]:
        with parallel.autocast_of(self.config, views[0].device):
            encode = partial(parallel.in_parts, self.encoder, n=self.config.microbatches)
            f = parallel.apart(encode, views, self.config)  # (views, B, dim)
            logits = torch.stack([parallel.at_least_float(self.online["head"](x)) for x in f])  # (views, B, C)
        loss = torch.stack([F.cross_entropy(of_view, batch.labels) for of_view in logits]).mean()
        o = F.normalize(parallel.at_least_float(f.detach()), dim=2)
        return loss, {"terms": {"L_ce": loss.detach()}, "o": o, "predicted": logits.argmax(2)}

    def count(self, seen: dict, batch: Batch, truth_of: Tensor) -> dict:
        """accuracy: the share of its views (of training images) that it puts in the right class, over all processes."""
        right = seen["predicted"] == batch.labels
        parallel.total(both := [right.sum(), torch.ones_like(right, dtype=torch.long).sum()])
        return {"accuracy": tuple(both)}


class LinearEvaluation(FineTuning):
    title, frozen = "linear evaluation", True
