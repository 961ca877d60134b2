"""What a run reports about its own labels. It, and other methods' `count`, see hidden labels and return numbers.

pseudo_label_accuracy   share of right votes, over unlabelled images voted on with a non-empty queue
coverage                share of unlabelled images voted on with a non-empty queue
vote_agreement          mean share of an image's votes that agree with their majority, over the same images
purity                  share of drawn semantic positives of the image's true class, over all rows with a draw
                        (labelled ones, always right, included)
embedding_std           sqrt(D) times the standard deviation of a coordinate of o over the batch: 1 if the images lie
                        evenly on the sphere, 0 if all embed alike (collapse)
false_negatives         share of negatives that are of the image's true class (the image itself, drawn, is none)

Shares are kept as (numerator, denominator), so that an epoch's figure is over its images, not a mean of means. Unknown
classes (-1) are in no count; a share of nothing is None. All but embedding_std are SemPPL's; relatives have theirs."""

import torch
from torch import Tensor

from . import parallel

COLLAPSED = 0.05  # embedding_std below which a warning is logged [ours]
Counts = dict[str, tuple[Tensor, Tensor]]


def terms_of(loss: Tensor, seen: dict) -> dict[str, Tensor]:
    """The numbers of a step: its loss, the loss's terms, embedding_std; 0-d tensors of this process's rows."""
    terms = {"loss": loss, **seen["terms"], "embedding_std": embedding_std(seen["o"])}
    return {name: value.detach().clone() for name, value in terms.items()}


@torch.no_grad()
def embedding_std(o: Tensor) -> Tensor:
    """Online predictions o (views, B, D), normalised -> root mean variance over B, times sqrt(D), a 0-d tensor."""
    variance = (o - parallel.mean(o.mean(1, keepdim=True))).square().mean(1)  # (views, D)
    return (parallel.mean(variance).mean() * o.shape[2]).sqrt()


@torch.no_grad()
def count(seen: dict, labels: Tensor, truth: Tensor) -> Counts:
    """seen from `SemPPL.forward`; visible labels and true classes (B,) -> {name: (numerator, denominator)}.

    Of several processes each gives its rows, and all get the sums."""
    unlabelled, voted, known = labels < 0, seen["voted"], truth >= 0
    rows = unlabelled & (voted >= 0)
    agree = (seen["votes"] == voted[:, None]).float().mean(1)
    negatives = parallel.gather(truth)[seen["negatives"]]  # (B, N), their true classes
    other = ~seen["own"] & known[:, None] & (negatives >= 0)
    counts = {
        "pseudo_label_accuracy": ((rows & (voted == truth)).sum(), (rows & known).sum()),
        "coverage": (rows.sum(), unlabelled.sum()),
        "vote_agreement": ((agree * rows).sum(), rows.sum()),
        "false_negatives": ((other & (negatives == truth[:, None])).sum(), other.sum()),
    }
    if "valid" in seen:
        right = (seen["z_labels"] == truth[:, None]) & seen["valid"][:, None]
        counts["purity"] = (right.sum(), (seen["valid"] & known).sum() * right.shape[1])
    parallel.total([part for both in counts.values() for part in both])
    return counts


def shares(steps: list[Counts]) -> dict[str, float | None]:
    """Summed numerators / summed denominators of the counts of several steps, None where nothing was counted."""
    sums = {name: [float(sum(part)) for part in zip(*(c[name] for c in steps), strict=True)] for name in steps[0]}
    return {name: a / b if b > 0 else None for name, (a, b) in sums.items()}
