"""Two ways to need less memory for more time: activations are thrown away and computed again for the gradient.

`recomputed` keeps a network's input alone (config.recompute: each block's of a ResNet) and changes no number.
`in_parts` (config.microbatches) holds the activations of one part of a batch at a time; negatives, votes, queue, loss
are of all B embeddings, and the gradient is exact, as in GradCache (Gao et al., 2021). But each part is normalised by
its own statistics (in all processes, where batch norms are synchronised), so n times a batch the running ones move."""

import contextlib
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import world
from .device import cut
from .norm import BatchNorm


@contextlib.contextmanager
def buffers_kept(network: nn.Module):
    """Inside, all buffers are copies, then thrown away: the first computation has updated the running statistics."""
    kept = [(m, name, buffer) for m in network.modules() for name, buffer in m.named_buffers(recurse=False)]
    try:
        for m, name, buffer in kept:
            setattr(m, name, buffer.clone())
        yield
    finally:
        for m, name, buffer in kept:
            setattr(m, name, buffer)


def recomputed(network: nn.Module, x: Tensor) -> Tensor:
    """network(x), computed again for its gradient, if any, in the same autocast; network draws no random numbers."""
    contexts = lambda: (contextlib.nullcontext(), buffers_kept(network))  # noqa: E731
    return checkpoint(network, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def in_parts(network: nn.Module, x: Tensor, n: int) -> Tensor:
    """network(x), (B, ...) -> (B, D), in n equal parts of 2 or more (or ValueError), each recomputed, or whole."""
    if n == 1:
        return cut(network(x))
    B = len(x)
    if torch.is_grad_enabled() and (B % n or B < 2 * n):
        raise ValueError(f"microbatches = {n} does not part {B} images into equal parts of 2 or more; give a divisor.")
    parts = x.tensor_split(max(1, min(n, B // 2)))  # without a gradient any B will do, as equal as can be
    return torch.cat([cut(recomputed(network, part)) for part in parts])


def of_one_size(views: list[Tensor]) -> list[list[Tensor]]:
    return [list(same) for _, same in itertools.groupby(views, lambda x: x.shape)]


def apart(embed: Callable, views: list[Tensor], config) -> Tensor:
    """embed(x) of views (B, 3, S, S) -> (V, B, D), batch statistics of each view by itself.

    In several processes those of one size pass side by side, in one batch: batch norms share their exchanges."""
    if world.size() == 1 or config.microbatches > 1 or config.recompute:
        return torch.stack([embed(x) for x in views])
    embedded = []
    for same in of_one_size(views):
        BatchNorm.views = len(same)
        embedded.append(embed(torch.cat(same)))
    BatchNorm.views = 1
    return torch.cat(embedded).unflatten(0, (len(views), -1))


def together(encoder: nn.Module, head: nn.Module, views: list[Tensor], n: int) -> Tensor:
    """head(encoder(x)) of views (B, 3, S, S), those of one size side by side -> (V, B, D), batch statistics joint."""
    # the encoder takes those of one size in one batch, the head all: as the official codes of SimCLR, DINO and CARP
    features = torch.cat([in_parts(encoder, torch.cat(same), n) for same in of_one_size(views)])
    return in_parts(head, features, n).unflatten(0, (len(views), -1))
