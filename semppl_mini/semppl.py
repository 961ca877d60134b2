"""SemPPL: semantic positives via pseudo-labels (Bosnjak et al., ICLR 2023, arXiv 2301.05158).

    o_i = n(h(g(f(x_i))))     online prediction of view i, L large + V small        theta: f, g, h
    t_j = n(g_t(f_t(x_j)))    target projection of large view j, never a gradient   xi: f_t, g_t    n: to length 1

    loss = c (L_augm + alpha L_sempos) + lambda (I_augm + I_sempos)

`SemPPL.forward` is a training step from views to loss; read it beside the paper's listing 1. The order
"enqueue, then vote" is unspecified; it is harmless, since labelled rows keep their label and, with exclude_self, no
image draws itself. Of several processes each has its own rows of o and the global batch's t; the queues are the same on
all (`parallel`). Shapes: L, V views, B batch, D embedding width, Q capacity, R semantic positives, N negatives."""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import losses, monitor, parallel
from .files import check_classes
from .method import Batch, Method
from .networks import networks
from .positives import draw_positives
from .queue import LabelledQueue
from .rng import INIT, NEGATIVES, POSITIVES, generator
from .votes import vote


class Draws(NamedTuple):
    """A step's random choices beside the views: negatives (B, N) rows, u (B, R) uniforms for semantic positives."""

    negatives: Tensor
    u: Tensor
    shared = ()


def draw_step(config, step: int) -> Draws:
    """The draws of one step, for the global batch, as a function of (seed, step)."""
    u = torch.rand(config.batch_size, config.semantic_positives, generator=generator(config.seed, step, POSITIVES))
    rng = generator(config.seed, step, NEGATIVES)
    return Draws(losses.draw_negatives(config.batch_size, config.negatives, rng), u)


class SemPPL(Method):
    """Online and target networks, the queues, and one step of learning. num_classes is C."""

    draw = staticmethod(draw_step)

    def __init__(self, config, num_classes: int, num_images: int = 0):
        super().__init__(config, num_classes)
        self.online = networks(config, generator(config.seed, 0, INIT))  # encoder f, projector g, predictor h
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        del self.target["predictor"]
        self.queue = LabelledQueue(config.large_views, config.queue, config.embedding_dim)

    @staticmethod
    def check(config, data=None) -> None:
        L, B, voting = config.large_views, config.batch_size, config.voting_views
        limits = [("negatives", config.negatives, B - 1, "batch_size - 1"), ("k", config.k, config.queue, "queue"),
                  ("voting_views", L if voting is None else voting, L, "large_views")]  # fmt: skip
        for name, value, high, what in limits:
            if not 1 <= value <= high:
                raise ValueError(f"{name} = {value} must lie between 1 and {what} = {high}; change either.")
        if data and config.semantic_positives:  # which come of pseudo-labels, and these of labels
            check_classes(data, ", or give semantic_positives=0, which asks for none")

    @property
    def title(self) -> str:
        return "SemPPL" if self.config.semantic_positives else "augmentation-only"

    def predict(self, x: Tensor) -> Tensor:
        """o = n(h(g(f(x)))), (B, D)."""
        return self._embed(x, self.online["encoder"], self.online["projector"], self.online["predictor"])

    @torch.no_grad()
    def project(self, x: Tensor) -> Tensor:
        """t = n(g_t(f_t(x))), (B, D)."""
        return self._embed(x, self.target["encoder"], self.target["projector"])

    def _embed(self, x: Tensor, *parts: nn.Module) -> Tensor:
        with parallel.autocast_of(self.config, x.device):
            x = parallel.in_parts(nn.Sequential(*parts), x, self.config.microbatches)
        return F.normalize(parallel.at_least_float(x), dim=1)

    def forward(self, views: list[Tensor], batch: Batch, draws: Draws) -> tuple[Tensor, dict]:
        """Views (L + V) x (B, 3, S, S), large first -> the loss, and what the step saw, for the monitor."""
        cfg, L = self.config, self.config.large_views
        o = parallel.apart(self.predict, views, cfg)  # (L + V, B, D)

        # The queues take the labelled rows; every image then gets a pseudo-label, labelled ones their own.
        t, ids = self.remember(views, batch)  # (L, B, D), (B,)
        voted, votes = self.vote(o[:L])  # (B,), (B, L * L)
        y_bar = torch.where(batch.labels >= 0, batch.labels, voted if batch.oracle is None else batch.oracle)

        # Augmentation positives: the image's own target views against N other images.
        first = parallel.rows(len(ids)).start  # of this process's rows in t; alone 0
        a = losses.logits(o, t, draws.negatives, cfg.tau, ids, first)  # (L + V, L, B, 1 + N)
        terms = {"L_augm": losses.nce(a), "I_augm": losses.invariance(a[:L], detach=cfg.detach)}
        seen = {"o": o.detach(), "voted": voted, "votes": votes, "y_bar": y_bar, "negatives": draws.negatives}
        seen["own"] = ids[draws.negatives] == batch.ids[:, None]  # (B, N), these are no negatives
        if cfg.semantic_positives == 0:
            return cfg.c * terms["L_augm"] + cfg.lam * terms["I_augm"], {"terms": terms, **seen}

        # Semantic positives: queue entries with the same (pseudo-)label, slots (B, R), against the same N images.
        slot, valid = draw_positives(self.queue.labels, self.queue.ids, y_bar, batch.ids, draws.u, cfg.exclude_self)
        z = self.queue.keys[:, slot]  # (L, B, R, D)
        q = losses.semantic_logits(o, z, a, cfg.tau)  # (L + V, L, B, R, 1 + N)
        terms["L_sempos"] = losses.nce(q, valid[:, None])
        terms["I_sempos"] = losses.invariance(q[:L], valid[:, None], cfg.detach)
        loss = cfg.c * (terms["L_augm"] + cfg.alpha * terms["L_sempos"])
        loss = loss + cfg.lam * (terms["I_augm"] + terms["I_sempos"])
        return loss, {"terms": terms, **seen, "z_labels": self.queue.labels[slot], "valid": valid}

    @torch.no_grad()
    def remember(self, views: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Write the labelled images of all processes into the queues -> t (L, B, D), ids (B,) of the global batch."""
        t = parallel.apart(self.project, views[: self.config.large_views], self.config)  # (L, b, D)
        t, labels, ids = parallel.gather(t, 1), parallel.gather(batch.labels), parallel.gather(batch.ids)
        self.queue.enqueue(t, labels, ids)
        return t, ids

    def vote(self, o: Tensor) -> tuple[Tensor, Tensor]:
        """Of online predictions o (L, B, D): the majority (B,), and votes (B, L * L), or (B, voting_views ** 2)."""
        cfg, n = self.config, self.config.voting_views or self.config.large_views
        return vote(o[:n].detach(), self.queue.keys[:n], self.queue.labels, cfg.k, self.num_classes, cfg.knn_chunk_mb)

    def warm(self, views: list[Tensor], batch: Batch) -> None:
        """Fill the queues."""
        self.remember(views, batch)

    def count(self, seen: dict, batch: Batch, truth_of: Tensor) -> monitor.Counts:
        return monitor.count(seen, batch.labels, truth_of[batch.ids])
