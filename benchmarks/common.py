"""What several questions need: real images, a trainer with full queues, the bare networks."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from semppl_mini import Data, SemPPL, load_data, monitor
from semppl_mini.batches import Batches
from semppl_mini.files import data_dir
from semppl_mini.optim import lr_at, make_optimizer, set_lr
from semppl_mini.parallel import autocast_of, averaged, placed


@functools.cache
def real_images() -> Data:
    """CIFAR-10 if its pack is there (data/prepare.py), else the embedded digits; a tenth labelled."""
    return load_data("cifar10" if (data_dir() / "cifar10.npz").exists() else "digits", labels=0.1)


class Stepper:
    """A training whose queues are full from the start; each call of `step` is one whole step of `fit`."""

    def __init__(self, config):
        data = real_images()
        self.config, self.done = config, 0
        self.batches = Batches(config, data.train, SemPPL.draw)
        self.method = placed(SemPPL(config, len(data.classes)), self.batches.device, config)
        self.optimizer = make_optimizer(config, self.method.online)
        self.gradient = torch.randn(config.batch_size, config.embedding_dim, device=self.batches.device)
        self.gradient /= config.batch_size
        queue = self.method.queue
        queue.keys.copy_(F.normalize(torch.randn(queue.keys.shape), dim=-1))
        queue.labels.copy_(torch.arange(config.queue) % len(data.classes))
        queue.ids.copy_(torch.arange(config.queue) + len(data.train))

    def step(self, placed_step: tuple | None = None) -> None:
        """The next step; or of one that is placed already, all that follows."""
        views, batch, draws = placed_step or self.batches.place(self.batches[self.done])
        loss, seen = self.method(views, batch, draws)
        terms = monitor.terms_of(loss, seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        said = averaged(self.method.online, terms)
        set_lr(self.optimizer, lr_at(self.config, self.done / self.batches.each))
        self.optimizer.step()
        self.method.after_step(self.done / (self.batches.each * self.config.epochs))
        self.method.count(seen, batch, self.batches.truth_of)
        said()
        self.done += 1

    def views(self) -> list[Tensor]:
        return self.batches.place(self.batches[0])[0]

    def bare(self, views: list[Tensor]) -> None:
        """Forward and backward of the online networks on all views, forward of the target's on large ones.

        The gradient that enters is random: a constant one would die in the last batch norm.
        """
        online, target = self.method.online, self.method.target
        with autocast_of(self.config, self.batches.device):
            o = [online["predictor"](online["projector"](online["encoder"](x))) for x in views]
            with torch.no_grad():
                for x in views[: self.config.large_views]:
                    target["projector"](target["encoder"](x))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(o, [self.gradient.to(x.dtype) for x in o])

    def update(self) -> None:
        """Optimizer step and moving average."""
        self.optimizer.step()
        self.method.after_step(0.5)
