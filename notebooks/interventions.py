"""What an arm of the board changes of a method or of its images: a few lines each, and none of them in the package.

    Relabelled, of it Flipped and Frozen    unlabelled images learn from other labels than their votes
    OneView                                 one view asks the queues
    OtherLoss, of it BYOLLike, SimCLRLike   another loss, with or without semantic positives
    FixedPartitions                         CARP with the partition of step 0 in every step
    textured, merged                        other images, other classes

Votes are counted as always, before they are changed. No class here sees a hidden label; `textured` and `merged` make
data of the true classes, as every data set is. Arms that train with true labels set config.oracle, and say so in
their names. Shapes: L views, B batch, D embedding width, R semantic positives, C classes, n images.
"""

import math
from dataclasses import replace

import sweep
import torch

import semppl_mini as s
from semppl_mini import losses
from semppl_mini.positives import draw_positives
from semppl_mini.relatives import CARP
from semppl_mini.rng import generator

FLIPS, TEXTURES = 100, 101  # purposes of draws, beside those of semppl_mini/rng.py


def with_(kind: type, **settings) -> type:
    """The class with other values of its settings, which its name tells."""
    words = ", ".join(f"{name}={value}" for name, value in settings.items())
    return type(f"{kind.__name__}({words})", (kind,), settings)


# ---- pseudo-labels --------------------------------------------------------------------------------------------------


class Relabelled(s.SemPPL):
    """SemPPL whose unlabelled images learn from `relabel(votes' majority (B,), ids (B,))`; -1 is no label."""

    def relabel(self, voted: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return voted

    def forward(self, views, batch, draws):
        self.ids = batch.ids
        loss, seen = super().forward(views, batch, draws)
        return loss, seen | {"voted": self.voted}  # what the monitor counts: the votes

    def vote(self, o):
        self.voted, votes = super().vote(o)
        return self.relabel(self.voted, self.ids), votes


class Flipped(Relabelled):
    """For a `share` of all images, drawn once, another class than the one voted: always the same so many further on."""

    share = 0.0

    def __init__(self, config, num_classes: int, num_images: int):
        super().__init__(config, num_classes, num_images)
        rng = generator(config.seed, 0, FLIPS)
        hit = torch.randperm(num_images, generator=rng)[: round(self.share * num_images)]
        by = torch.randint(1, num_classes, (len(hit),), generator=rng)
        self.register_buffer("shift", torch.zeros(num_images, dtype=torch.long).index_copy(0, hit, by))  # (n,)

    def relabel(self, voted, ids):
        return torch.where(voted >= 0, (voted + self.shift[ids]) % self.num_classes, voted)


class Frozen(Relabelled):
    """After a `part` of the epochs an image keeps its latest pseudo-label; one not seen before keeps its first."""

    part, live = 1 / 3, True

    def __init__(self, config, num_classes: int, num_images: int):
        super().__init__(config, num_classes, num_images)
        self.register_buffer("kept", torch.full((num_images,), -1))  # (n,)

    def before_epoch(self, epoch: int, epochs: int, embed) -> None:
        self.live = epoch < self.part * epochs

    def relabel(self, voted, ids):
        old = self.kept[ids]
        new = torch.where((old < 0) | self.live, voted, old)
        self.kept[ids] = new
        return new


class OneView(s.SemPPL):
    """The first view asks all L queues: L votes instead of L * L."""

    def vote(self, o):
        return super().vote(o[:1])


# ---- losses ---------------------------------------------------------------------------------------------------------


class OtherLoss(s.SemPPL):
    """c (L_augm + alpha L_sempos), both by `compare`, means over pairs of different views; no invariance term."""

    def compare(self, o, z, t, own):
        """Predictions o (L, B, D), positives z (L, B, R, D), targets t (L, B, D), own (B, B) -> losses (L, L, B, R)."""
        raise NotImplementedError

    def forward(self, views, batch, draws):
        cfg, eye = self.config, torch.eye(len(views), dtype=torch.bool)
        o = torch.stack([self.predict(x) for x in views])  # (L, B, D)
        t, ids = self.remember(views, batch)
        voted, votes = self.vote(o)
        y_bar = torch.where(batch.labels >= 0, batch.labels, voted)
        pairs, own = ~eye.to(o.device)[:, :, None, None], batch.ids[:, None] == ids

        L_augm = losses.masked_mean(self.compare(o, t[:, :, None], t, own), pairs)
        seen = {"o": o.detach(), "voted": voted, "votes": votes, "y_bar": y_bar, "negatives": draws.negatives}
        seen["own"] = ids[draws.negatives] == batch.ids[:, None]
        if not cfg.semantic_positives:
            return cfg.c * L_augm, {"terms": {"L_augm": L_augm}, **seen}
        slot, valid = draw_positives(self.queue.labels, self.queue.ids, y_bar, batch.ids, draws.u, cfg.exclude_self)
        z = self.queue.keys[:, slot]  # (L, B, R, D)
        L_sempos = losses.masked_mean(self.compare(o, z, t, own), pairs & valid[:, None])
        seen |= {"z_labels": self.queue.labels[slot], "valid": valid}
        return cfg.c * (L_augm + cfg.alpha * L_sempos), {"terms": {"L_augm": L_augm, "L_sempos": L_sempos}, **seen}


class BYOLLike(OtherLoss):
    """|o - z|^2, without negatives."""

    def compare(self, o, z, t, own):
        return 2 - 2 * torch.einsum("ibd,jbrd->ijbr", o, z)


class SimCLRLike(OtherLoss):
    """-log softmax of the positive against the target projections of all other images in the batch."""

    def compare(self, o, z, t, own):
        positive = torch.einsum("ibd,jbrd->ijbr", o, z) / self.config.tau
        negative = torch.einsum("ibd,jnd->ijbn", o, t).masked_fill(own, -torch.inf) / self.config.tau
        return torch.logaddexp(positive, negative.logsumexp(-1, keepdim=True)) - positive


# ---- CARP -----------------------------------------------------------------------------------------------------------


class FixedPartitions(CARP):
    """The blocks of step 0 in every step."""

    draw = staticmethod(lambda config, step: CARP.draw(config, 0))


# ---- images ---------------------------------------------------------------------------------------------------------


def stripes(classes: int, side: int) -> torch.Tensor:
    """A pattern of values in [-1, 1] a class, (C, 1, side, side): stripes of 6 pixels, each class turned further."""
    angle = torch.arange(classes)[:, None, None, None] * math.pi / classes
    y, x = torch.meshgrid(*2 * [torch.arange(side)], indexing="ij")
    return torch.sin(2 * math.pi / 6 * (x * angle.cos() + y * angle.sin()))


def painted(images: s.ImageSet, which: torch.Tensor, classes: int) -> s.ImageSet:
    """The images with pattern which (n,) behind their foreground, 35 of 255 grey levels up and down."""
    ground = stripes(classes, images.images.shape[-1])[which] * (1 - images.masks)
    return replace(images, images=(images.images + 35 * ground).round().clamp(0, 255).byte())


def textured(data: s.Data) -> s.Data:
    """Backgrounds tell the class of training images; of validation images they tell a class drawn at random."""
    C = len(data.classes)
    drawn = torch.randint(C, (len(data.val),), generator=generator(0, 0, TEXTURES))
    return replace(data, train=painted(data.train, data.train.truth, C), val=painted(data.val, drawn, C))


def five_classes(data: s.Data) -> s.Data:
    """Ten classes merged in pairs, 0 with 1, 2 with 3, ..."""
    return sweep.merged(data, tuple(c // 2 for c in range(10)), list("abcde"))


def two_classes(data: s.Data) -> s.Data:
    """Ten classes merged into two, 0 to 4 and 5 to 9."""
    return sweep.merged(data, tuple(c // 5 for c in range(10)), list("ab"))
