"""CARP: consistent assignment of views over random partitions (Silva and Rivera, NeurIPS 2023, arXiv 2310.12692).

    s_v = W g(f(x_v))      logits of view v over K prototypes, student            theta: f, g, prototypes W, unit rows
    t_u = the same of large view u by the teacher, never a gradient               xi: their EMA, prototypes too

Each step cuts the K prototypes at random into N_P = K / N_B blocks of N_B; a softmax within each block gives P_v and
Q_u, (N_P, N_B) a row. One partition a step, the same for student and teacher, all views and all processes.

    L_c = mean_{v != u, blocks, images} -log( P_v . Q_u )        the same confident choice, in every block
    L_h = mean_blocks( log N_B + sum_c p_c log p_c )             p = mean of P, Q over images and views: no collapse

    loss = L_c + L_h

L_c is no cross-entropy: it is small only if both are the same one-hot. g(f(x)) is not normalised, and there is no
temperature. As in the official code, the teacher moves before the optimizer's step, its batch norms keep their own
statistics, each view of either counts alike in p, and the *teacher* is read out. W z is float32 at least [ours].
Shapes: V views (large first), U large ones, B batch, D embedding width, K prototypes."""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel
from ..method import Batch, Method
from ..networks import networks
from ..rng import INIT, PARTITION, generator
from .ifnd import different_views, embed_together

FEW, UNSURE = 0.05, 0.98  # parts of the prototypes and of log N_B at which a run is warned of [ours]


class Draws(NamedTuple):
    blocks: Tensor  # of prototypes, (N_P, N_B)
    shared = ("blocks",)  # one for all rows and processes


def draw_step(config, step: int) -> Draws:
    """The partition of one step as a function of (seed, step): K - N_P N_B prototypes, drawn anew, sit it out."""
    order = torch.randperm(config.prototypes, generator=generator(config.seed, step, PARTITION))
    blocks = config.prototypes // config.block
    return Draws(order[: blocks * config.block].view(blocks, config.block))


# ---- losses: pure functions of tensors ------------------------------------------------------------------------------


def partition(logits: Tensor, blocks: Tensor) -> Tensor:
    """Logits (V, B, K), blocks (N_P, N_B) -> probabilities within each block, (V, B, N_P, N_B)."""
    return logits[..., blocks.flatten()].unflatten(-1, blocks.shape).softmax(-1)


def consistency(p: Tensor, q: Tensor) -> Tensor:
    """L_c of student p (V, B, N_P, N_B) and teacher q (U, B, N_P, N_B): views v < U are those of the teacher."""
    eps = torch.finfo(p.dtype).eps
    pairs = [(p[v] * q[u]).sum(-1) for v in range(len(p)) for u in range(len(q)) if v != u]  # each (B, N_P)
    return -torch.stack(pairs).clamp(eps, 1 - eps).log().mean()


def mean_choice(p: Tensor, q: Tensor) -> Tensor:
    """Mean over images of all processes and over all views, student's and teacher's: (N_P, N_B)."""
    return parallel.mean(torch.cat([p.mean(1), q.mean(1)]).mean(0))


def entropy_gap(p: Tensor) -> Tensor:
    """L_h = KL(p || uniform), mean over blocks: p (N_P, N_B) -> between 0 and log N_B."""
    eps = torch.finfo(p.dtype).eps
    return (math.log(p.shape[1]) + (p * p.clamp(eps, 1 - eps).log()).sum(1)).mean()


class Prototypes(nn.Module):
    """z (..., D) -> logits (..., K): products with unit vectors (weight norm with its gain fixed at 1)."""

    def __init__(self, dim: int, prototypes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(prototypes, dim).uniform_(-(dim**-0.5), dim**-0.5))

    @property
    def rows(self) -> Tensor:
        return F.normalize(self.weight, dim=1)

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, self.rows)


def projector(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """Linear, batch norm, GELU, twice, and linear: (B, inner) -> (B, outer). Weights start with spread 0.02."""
    first, second = ([nn.Linear(n, hidden), nn.BatchNorm1d(hidden), nn.GELU()] for n in (inner, hidden))
    head = nn.Sequential(*first, *second, nn.Linear(hidden, outer))
    for linear in head[::3]:
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    return head


class CARP(Method):
    """Student and teacher, each with its prototypes, and one step of learning."""

    reads = "target.encoder"
    draw = staticmethod(draw_step)

    def __init__(self, config, num_classes: int, num_images: int = 0):
        super().__init__(config, num_classes)
        f = networks(config, generator(config.seed, 0, INIT))["encoder"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(config.seed, 1, INIT).initial_seed())
            g = projector(f.dim, config.projector_hidden, config.embedding_dim)
            prototypes = Prototypes(config.embedding_dim, config.prototypes)
        self.online = nn.ModuleDict({"encoder": f, "projector": g, "prototypes": prototypes})
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    @staticmethod
    def check(config, data=None) -> None:
        if not 2 <= (N_B := config.block) <= (K := config.prototypes):
            raise ValueError(f"block = {N_B} must lie between 2 and prototypes = {K}; change either.")
        different_views(config)

    def forward(self, views: list[Tensor], batch: Batch, draws: Draws) -> tuple[Tensor, dict]:
        cfg = self.config
        z = embed_together(views, self.online, cfg)  # (V, B, D)
        p = partition(self.online["prototypes"](z), draws.blocks)  # (V, B, N_P, N_B)
        with torch.no_grad():
            t = self.target["prototypes"](embed_together(views[: cfg.large_views], self.target, cfg))  # (U, B, K)
            q = partition(t, draws.blocks)  # (U, B, N_P, N_B)
        L_c, L_h = consistency(p, q), entropy_gap(mean_choice(p, q))
        seen = {"o": F.normalize(z.detach(), dim=2), "chosen": t.argmax(2), "usage": t.softmax(2).mean((0, 1))}
        return L_c + L_h, {"terms": {"L_c": L_c, "L_h": L_h}, **seen}

    def before_step(self, progress: float) -> None:
        """The teacher moves, before the student's step."""
        self.move_target(progress)

    def after_step(self, progress: float) -> None:
        """Nothing: it has moved."""

    def count(self, seen: dict, batch: Batch, truth_of: Tensor) -> dict:
        """How many of the K prototypes the teacher chooses, over the global batch, equal on all processes."""
        usage, chosen = parallel.mean(seen["usage"]), parallel.gather(seen["chosen"], 1)  # (K,), (U, B)
        perplexity = (-(usage * usage.clamp(min=1e-30).log()).sum()).exp()  # of the mean choice: K if used alike
        used = torch.zeros_like(usage).index_fill(0, chosen.flatten(), 1.0).sum()  # some image's first choice
        K, most = (torch.tensor(n) for n in (len(usage), min(len(usage), chosen.numel())))  # as many as can be chosen
        return {"prototype_usage": (perplexity, K), "prototypes_chosen": (used, most)}

    def doubt(self, record: dict) -> str:
        """Few prototypes are in use; or, at the end, the loss is that of choices that are all even, or all the same."""
        used, loss, even = record["prototypes_chosen"], record["loss"], math.log(self.config.block)
        if used < FEW:
            words = f"collapse of prototypes in epoch {record['epoch']}: a step chooses {used:.1%} of those it could"
            return f"{words}; nearly all images choose alike: try a smaller block, or a lower lr."
        words = f"after the last epoch loss = {loss:.3f}, and of even choices, log(block), it is {even:.3f}"
        learnt = record["epoch"] < self.config.epochs or loss < UNSURE * even
        return "" if learnt else f"{words}; nothing is learned: try more epochs, or another lr."
