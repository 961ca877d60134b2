"""Pseudo-labels: k-NN in every queue for every view, then a majority vote (SemPPL, section 3, k = 1, A = 4).

Each online prediction o_j(x), j = 1..L, asks each queue Q_a, a = 1..A, for its k nearest keys by cosine. The
majority of their labels is one vote, so an image gets L x A votes (16 in the paper), and

    y_bar(x) = mode of the L x A votes.

Ties, unspecified in the paper: the label with the larger summed cosine wins, then the smallest label (our choice).
Shapes: L views, A queues, B batch, D embedding width, Q capacity, C classes."""

import torch
from torch import Tensor

from .parallel import neighbours


def majority(labels: Tensor, weights: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The most frequent label along the last axis, and the summed weight of those who chose it.

    labels (..., n) with -1 for an abstention, weights (..., n) -> label (...), weight (...). Ties go to the
    larger summed weight, then to the smallest label. Where all abstain: label -1, weight 0."""
    votes = labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)  # (..., n, C)
    count = votes.sum(-2)  # (..., C)
    weight = torch.where(votes, weights.unsqueeze(-1), 0).sum(-2)  # (..., C)
    most = count.amax(-1, keepdim=True)
    winner = torch.where(count == most, weight, -torch.inf).argmax(-1)  # argmax: the first, so smallest, label
    won = weight.gather(-1, winner.unsqueeze(-1)).squeeze(-1)
    nobody = most.squeeze(-1) == 0
    return torch.where(nobody, -1, winner), torch.where(nobody, 0, won)


@torch.no_grad()
def vote(o: Tensor, keys: Tensor, labels: Tensor, k: int, num_classes: int, chunk_mb: float = 256):
    """o (L, B, D), keys (A, Q, D), labels (Q,) -> y_bar (B,) and all votes (B, L * A), column j * A + a.

    With an empty queue every vote and y_bar are -1. Raises ValueError if k exceeds the capacity Q."""
    if not 1 <= k <= keys.shape[1]:
        raise ValueError(f"k = {k} neighbours asked of a queue of {keys.shape[1]}; choose k from 1 to its capacity.")
    L, B, D = o.shape
    ballots = []
    for queue in keys:
        cosine, index = neighbours(o.reshape(L * B, D), queue, labels, k, chunk_mb)  # (L * B, k)
        found = torch.where(cosine > -torch.inf, labels[index], -1)
        ballots.append(majority(found, cosine.clamp(min=-1), num_classes))  # (L * B,) each
    label, weight = zip(*ballots, strict=True)  # of each queue
    votes = torch.stack([x.view(L, B) for x in label], 1).flatten(0, 1).T  # (B, L * A)
    weights = torch.stack([x.view(L, B) for x in weight], 1).flatten(0, 1).T
    return majority(votes, weights, num_classes)[0], votes
