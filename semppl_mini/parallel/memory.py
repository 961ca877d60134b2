"""Two ways to need less memory for more time: activations are thrown away and computed again for the gradient.

    recomputed(network, x)     network(x); of its activations only x is kept. Everything equals network(x): loss,
                               gradients, running statistics. ResNet does so block by block (config.recompute).
    in_parts(network, x, n)    network(x) by n equal parts of the batch, each recomputed: the embeddings (B, D) of the
                               whole batch are held, the activations of one part at a time (config.microbatches).

With parts, what is made of the embeddings is of the whole batch: negatives, votes, queue and loss; and the gradient is
exact, the sum over the parts of (d loss / d embeddings)(d embeddings / d weights), as in GradCache (Gao et al., 2021).
What is *not* that of the large batch: each part is normalised by its own batch statistics, which enter the running
statistics part by part, n times a batch. With several processes a batch is the rows of this process, and where batch
norms are synchronised a part's statistics are those of this part in all processes.

A recomputation updates no running statistics: the first computation did.
"""

import contextlib
import itertools

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .xla import cut


@contextlib.contextmanager
def buffers_kept(network: nn.Module):
    """Inside, all buffers of `network` are copies, which are then thrown away, whatever happens."""
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
    """network(x), (B, ...) -> (B, D), by n equal parts, each recomputed for its gradient; n = 1 is network(x).

    ValueError: B is not n times 2 or more images. Where no gradient is asked for, nothing is recomputed and any B will
    do: n or fewer parts of 2 or more images, as equal as can be.
    """
    B = len(x)
    if n == 1:
        return cut(network(x))
    if torch.is_grad_enabled() and (B % n or B < 2 * n):
        raise ValueError(f"microbatches = {n} does not part {B} images into equal parts of 2 or more; give a divisor.")
    parts = x.tensor_split(max(1, min(n, B // 2)))
    return torch.cat([cut(recomputed(network, part)) for part in parts])


def together(encoder: nn.Module, head: nn.Module, views: list[Tensor], n: int) -> Tensor:
    """head(encoder(x)) of views (B, 3, S, S), those of one size side by side -> (V, B, D), batch statistics joint.

    The encoder takes all views of one size in one batch, the head all views, each in n parts as above: so do the
    official codes of SimCLR and CARP (DINO's multi-crop wrapper). SemPPL's views pass one by one, as in BYOL's code.
    """
    sizes = (torch.cat(list(same)) for _, same in itertools.groupby(views, lambda x: x.shape))
    features = torch.cat([in_parts(encoder, x, n) for x in sizes])
    return in_parts(head, features, n).unflatten(0, (len(views), -1))
