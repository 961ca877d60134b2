"""What a run reports about its own labels. The only part of training that sees hidden labels, and it returns numbers.

pseudo_label_accuracy   share of right votes, over unlabelled images voted on with a non-empty queue
coverage                share of unlabelled images voted on with a non-empty queue
vote_agreement          mean share of an image's L x L votes that agree with their majority, over the same images
purity                  share of drawn semantic positives of the image's true class, over all rows with a draw
false_negatives         share of drawn negatives that are of the image's true class

Each is kept as (numerator, denominator), so that an epoch's figure is over its images, not a mean of means.
"""

import torch
from torch import Tensor

Counts = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def count(seen: dict, labels: Tensor, truth: Tensor) -> Counts:
    """seen from `SemPPL.forward`; visible labels and true classes (B,) -> {name: (numerator, denominator)}."""
    unlabelled = labels < 0
    voted = seen["voted"]
    rows = unlabelled & (voted >= 0)
    agree = (seen["votes"] == voted[:, None]).float().mean(1)
    same = truth[seen["negatives"]] == truth[:, None]
    counts = {
        "pseudo_label_accuracy": ((rows & (voted == truth)).sum(), rows.sum()),
        "coverage": (rows.sum(), unlabelled.sum()),
        "vote_agreement": ((agree * rows).sum(), rows.sum()),
        "false_negatives": (same.sum(), torch.tensor(same.numel(), device=truth.device)),
    }
    if "valid" in seen:
        right = (seen["z_labels"] == truth[:, None]) & seen["valid"][:, None]
        counts["purity"] = (right.sum(), seen["valid"].sum() * right.shape[1])
    return counts


def add(total: Counts, more: Counts) -> Counts:
    """The sum of two counts."""
    return {name: tuple(a + b for a, b in zip(more[name], total.get(name, (0, 0)), strict=True)) for name in more}


def shares(counts: Counts) -> dict[str, float | None]:
    """numerator / denominator, None where nothing was counted."""
    return {name: float(a) / float(b) if b > 0 else None for name, (a, b) in counts.items()}
