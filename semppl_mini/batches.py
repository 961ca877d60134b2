"""Item i is step i: which images the step sees, their views, its random choices; a function of (config, images, i).

An epoch is floor(n / B) batches. With `labelled_share` s each batch is
round(s B) labelled and B - round(s B) unlabelled images, each kind in its own endless shuffle; else one shuffle of all.
All draws are made for the global batch B; of several processes each takes its own b rows."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from . import parallel
from .data import ImageSet
from .method import Batch
from .rng import ORDER, VIEWS, generator
from .views import Draw, draw_views


def steps_per_epoch(config, n: int) -> int:
    """floor(n / B); a training set smaller than one batch raises ValueError."""
    if n < config.batch_size:
        raise ValueError(f"batch_size = {config.batch_size} exceeds the {n} training images; choose {n} or less.")
    return n // config.batch_size


def endless(rows: Tensor, epoch: int, need: int, seed: int) -> Tensor:
    """Entries [epoch * need, (epoch + 1) * need) of an endless sequence of fresh shuffles of `rows`."""
    n, chosen, at = len(rows), [], epoch * need
    while at < (epoch + 1) * need:
        shuffle, offset = divmod(at, n)
        part = torch.randperm(n, generator=generator(seed, shuffle, ORDER))[offset : offset + (epoch + 1) * need - at]
        chosen.append(rows[part])
        at += len(part)
    return torch.cat(chosen)


def epoch_order(config, labels: Tensor, epoch: int) -> Tensor:
    """Which training images each step of an epoch sees: indices (steps, B); with a share the labelled first."""
    n, B = len(labels), config.batch_size
    steps, share = steps_per_epoch(config, n), config.labelled_share
    if share is None:
        order = torch.randperm(n, generator=generator(config.seed, epoch, ORDER))
        return order[: steps * B].view(steps, B)
    parts = []
    for labelled, count in ((True, round(share * B)), (False, B - round(share * B))):
        rows = ((labels >= 0) == labelled).nonzero().squeeze(1)
        if count and not len(rows):
            kind = "labelled" if labelled else "unlabelled"
            raise ValueError(f"labelled_share = {share} asks for {kind} images: there are none; change `labels`, or "
                             "give labelled_share=None.")  # fmt: skip
        if count:
            stream = 2 * config.seed + labelled  # of shuffles, one for each kind
            parts.append(endless(rows, epoch, steps * count, stream).view(steps, count))
    return torch.cat(parts, 1)


class Prepared(NamedTuple):
    """This process's b rows of a step, on the CPU: labels, ids (b,), the parameters of its views, the method's draws.

    pixels: what `ImageSet.prepare` makes of the images, for `finish` to make the views of."""

    pixels: list[Tensor]
    labels: Tensor
    ids: Tensor
    view_draws: list[Draw]
    draws: NamedTuple


class Batches:
    """The steps of a run on `train`; `draw` makes a method's draws. What stands in `truth_of`, the true class by image
    id (-1: no such image), is for the monitor, and for runs named oracle."""

    def __init__(self, config, train: ImageSet, draw):
        self.config, self.train, self.draw = config, train, draw
        self.each = steps_per_epoch(config, len(train))  # steps an epoch
        self.own, self.device = parallel.rows(config.batch_size), parallel.device_of(config)
        truth_of = torch.full((int(train.ids.max()) + 1,), -1)
        self.truth_of = truth_of.index_put_((train.ids,), train.truth).to(self.device)
        self.epoch = None

    def __getstate__(self) -> dict:  # for workers that are spawned, not forked: they have no use for a device
        return {**vars(self), "truth_of": self.truth_of.cpu()}

    def __getitem__(self, step: int) -> Prepared:
        epoch, i = divmod(step, self.each)
        if self.epoch != epoch:
            self.epoch, self.order = epoch, epoch_order(self.config, self.train.labels, epoch)
        return self.prepare(step, self.order[i])

    def prepare(self, step: int, index: Tensor) -> Prepared:
        """The images `index` (B,) of the global batch, cut to our rows."""
        rng = generator(self.config.seed, step, VIEWS)
        views = draw_views(self.config, len(index), rng, *self.train.size)
        for draw in views if getattr(self.train, "seeded", False) else ():  # for a function of one's own
            draw["seed"] = torch.randint(2**62, (len(index),), generator=rng)
        views = [{name: value[self.own].clone() for name, value in draw.items()} for draw in views]  # no others' rows
        draws, mine = self.draw(self.config, step), index[self.own]
        rows = {name: x[self.own].clone() for name, x in draws._asdict().items() if name not in draws.shared}
        pixels = self.train.prepare(mine, views, self.config)
        return Prepared(pixels, self.train.labels[mine], self.train.ids[mine], views, draws._replace(**rows))

    def ahead(self, first: int, last: int, workers: int = 0) -> Iterable[Prepared]:
        """Steps first to last - 1 in order, prepared ahead in so many worker processes; 0: here, when asked for."""
        items = parallel.ahead(self.__getitem__, first, last, workers)
        return parallel.one_early(map(parallel.device.pinned, items)) if self.device.type == "cuda" else items

    def place(self, ready: Prepared) -> tuple[list[Tensor], Batch, NamedTuple]:
        """Views, batch and draws of a step, on the device: rows cut over XLA's devices, what is shared on each."""
        there = parallel.place(ready, self.device)
        views = self.train.finish(there.pixels, there.view_draws, self.config)
        batch = Batch(there.labels, there.ids, self.truth_of[there.ids] if self.config.oracle else None)
        whole = {name: getattr(ready.draws, name).to(self.device) for name in there.draws.shared if parallel.uses_xla()}
        parallel.run_pending(self.device)
        return views, batch, there.draws._replace(**whole)
