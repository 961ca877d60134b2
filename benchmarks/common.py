"""What several questions need: real images, a trainer with full queues, the bare networks."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from semppl_mini import Data, SemPPL, load_data
from semppl_mini.files import data_dir
from semppl_mini.parallel.device import autocast_of
from semppl_mini.train import Trainer


@functools.cache
def real_images() -> Data:
    """CIFAR-10 if its pack is there (data/prepare.py), else the embedded digits; a tenth labelled."""
    return load_data("cifar10" if (data_dir() / "cifar10.npz").exists() else "digits", labels=0.1)


class Stepper:
    """A trainer whose queues are full from the start; each call of `step` is one whole `Trainer.step`."""

    def __init__(self, config):
        data = real_images()
        self.config, self.done = config, 0
        self.trainer = Trainer(config, data.train, SemPPL(config, len(data.classes)))
        self.method = self.trainer.method.train()
        self.gradient = torch.randn(config.batch_size, config.embedding_dim) / config.batch_size
        queue = self.method.queue
        queue.keys.copy_(F.normalize(torch.randn(queue.keys.shape), dim=-1))
        queue.labels.copy_(torch.arange(config.queue) % len(data.classes))
        queue.ids.copy_(torch.arange(config.queue) + len(data.train))

    def step(self) -> None:
        self.trainer.step(self.done, self.trainer.source[self.done])
        self.done += 1

    def views(self) -> list[Tensor]:
        return self.trainer.load(self.trainer.source[0])[0]

    def bare(self, views: list[Tensor]) -> None:
        """Forward and backward of the online networks on all views, forward of the target's on large ones.

        The gradient that enters is random: a constant one would die in the last batch norm.
        """
        online, target = self.method.online, self.method.target
        with autocast_of(self.config, self.trainer.device):
            o = [online["predictor"](online["projector"](online["encoder"](x))) for x in views]
            with torch.no_grad():
                for x in views[: self.config.large_views]:
                    target["projector"](target["encoder"](x))
        self.trainer.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(o, [self.gradient.to(x.dtype) for x in o])

    def update(self) -> None:
        """Optimizer step and moving average."""
        self.trainer.optimizer.step()
        self.method.after_step(0.5)
