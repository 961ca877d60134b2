"""What `fit` trains: networks, state in buffers, and a few verbs. SemPPL and its relatives are each one such class.

    loss, seen = method(views, batch, draws)      one step's loss; seen["terms"], seen["o"], and what `count` wants
    method.online, method.target                  ModuleDicts: what the optimizer trains, and its EMA (or nothing)

A subclass writes `__init__` and `forward`; every other verb has its default here. Shapes: L large and V small views,
B images of a step, S pixels a side, n images, D embedding width."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import parallel
from .files import check_classes, check_whole, pixels_of, shown
from .optim import ema_update, gamma_at
from .views import normalise


class Batch(NamedTuple):
    """What a step may see of B images: labels and ids (B,), labels -1 where unlabelled. `oracle` is None, always, but
    with config.oracle: then it holds all true labels (B,)."""

    labels: Tensor
    ids: Tensor
    oracle: Tensor | None = None


class Draws(NamedTuple):
    """A step's random choices beside the views, a row an image, but for the fields named in `shared`: here none."""

    shared = ()


class Method(nn.Module):
    """A method of a config for C = num_classes; num_images is the largest id of a training image plus one."""

    reads = "online.encoder"  # the network that is read out and kept
    starts = ("online.", "target.")  # what it takes of another run's weights
    labelled_only = False  # does it train on the labelled images alone?

    def __init__(self, config, num_classes: int, num_images: int = 0):
        super().__init__()
        self.check(config)
        self.config, self.num_classes = config, num_classes

    @classmethod
    def check(cls, config, data=None) -> None:
        """ValueError for what this method cannot do, or cannot learn from the `Data` that `fit` is given."""
        if data and cls.labelled_only:
            check_classes(data)

    @staticmethod
    def draw(config, step: int) -> NamedTuple:
        """The draws of one step, for the global batch, as a function of (seed, step)."""
        return Draws()

    @staticmethod
    def images_in(tensors: dict) -> int:
        """num_images of a kept state_dict."""
        return 0

    @property
    def title(self) -> str:
        return type(self).__name__

    @property
    def encoder(self) -> nn.Module:
        return self.get_submodule(self.reads)

    def forward(self, views: list[Tensor], batch: Batch, draws: NamedTuple) -> tuple[Tensor, dict]:
        """Views (L + V) x (B, 3, S, S), large first -> the loss, and what the step saw, for the monitor."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(views, batch, draws); write one.")

    def warm(self, views: list[Tensor], batch: Batch) -> None:
        """Before the untrained network is measured: take in a batch of labelled images. Nothing to do."""

    def before_epoch(self, epoch: int, epochs: int, embed) -> None:
        """Epoch 0, 1, ... begins. embed() -> keys (n, D) of all training images, by an `embed` of the method's own, as
        IFND has, and their ids (n,)."""

    def before_step(self, progress: float) -> None:
        """The gradient is there (CARP's teacher moves here); progress = steps done / all steps, this one included."""

    def after_step(self, progress: float) -> None:
        """The optimizer has stepped: the target follows."""
        self.move_target(progress)

    def doubt(self, record: dict) -> str:
        """What of an epoch's record to warn of ("what; what to try."), beside a collapse of all embeddings."""
        return ""

    def move_target(self, progress: float) -> None:
        """xi <- gamma xi + (1 - gamma) theta."""
        gamma = gamma_at(self.config.gamma, self.config.gamma_schedule, progress)
        for part in self.target:
            ema_update(self.target[part], self.online[part], gamma)

    def count(self, seen: dict, batch: Batch, truth_of: Tensor) -> dict:
        """What the monitor adds up over an epoch, {name: (numerator, denominator)}: true classes (n,) by image id."""
        return {}

    @torch.no_grad()
    def encode(self, images, batch: int = 500) -> Tensor:
        """Images (n, 3, H, W), uint8 or float in [0, 1] -> frozen features f(x) (n, dim) on the CPU."""
        return encode(self.encoder, images, self.config, batch)


@torch.no_grad()
def encode(encoder: nn.Module, images, config, batch: int = 500, workers: int = 0, together: bool = False) -> Tensor:
    """Features (n, dim) of whole, un-augmented images, batch norm frozen, in float32 on the CPU.

    images: uint8 or float in [0, 1], (n, 3, H, W), or a set; of files the centre is taken, config.large_size a side.
    workers: processes that read images ahead. together: each of several processes, all of which must call it, sees its
    share, and all get all rows."""
    if not isinstance(encoder, nn.Module) or isinstance(encoder, Method) or not [*encoder.parameters()]:
        raise ValueError(f"encoder = {shown(encoder)} is no network of images with weights; give run.method.encoder.")
    was, parameter = encoder.training, next(encoder.parameters())
    encoder.eval()
    features, n = [], len(images)
    parts = (parallel.share(n) if together else torch.arange(n)).split(check_whole("batch", batch, 1))
    read = partial(_pixels, images, parts, config.large_size)
    for part in parallel.ahead(read, 0, len(parts), check_whole("workers", workers, 0)):
        x = part.to(parameter.device, torch.float32) / (255 if part.dtype == torch.uint8 else 1)
        features.append(encoder(normalise(x, config.mean, config.std).to(parameter.dtype)).float().cpu())
    encoder.train(was)
    found = torch.cat(features)
    return parallel.gather(found.to(parameter.device))[:n].cpu() if together else found


def _pixels(images, parts: tuple[Tensor, ...], size: int, i: int) -> Tensor:  # by itself, for workers that are spawned
    return pixels_of(images, parts[i], size)
