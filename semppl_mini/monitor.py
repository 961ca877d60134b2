"""What a run reports about its own labels. The only part of training that sees hidden labels, and it returns numbers.

pseudo_label_accuracy   share of right votes, over unlabelled images voted on with a non-empty queue
coverage                share of unlabelled images voted on with a non-empty queue
vote_agreement          mean share of an image's L x L votes that agree with their majority, over the same images
purity                  share of drawn semantic positives of the image's true class, over all rows with a draw
                        (labelled ones, always right, included)
embedding_std           sqrt(D) times the standard deviation of a coordinate of o over the batch: 1 if the images lie
                        evenly on the sphere, 0 if all embed alike (collapse)
false_negatives         share of negatives that are of the image's true class (the image itself, drawn, is none)

of IFND, `false_negatives` being those that are left, and of CARP:
false_negatives_before  the same share before any was found
acceptance              share of images whose pseudo-label is accepted, over levels
pair_precision          share of found pairs that are of one true class, over levels
pair_recall             share of pairs of one true class that are found, over levels
prototype_usage         perplexity of the teacher's mean choice among all K prototypes, over K: 1 if all are used alike
prototypes_chosen       prototypes that are some image's first choice, over as many as a step's images could choose

and of a classifier, accuracy: the share of its views (of training images) that it puts in the right class.

The shares are kept as (numerator, denominator), so that an epoch's figure is over its images, not a mean of means.
"""

import torch
from torch import Tensor

from .parallel import world

COLLAPSED = 0.05  # embedding_std below which a warning is logged [ours]
Counts = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def embedding_std(o: Tensor) -> Tensor:
    """Online predictions o (views, B, D), normalised -> root mean variance over B, times sqrt(D), a 0-d tensor."""
    variance = (o - world.mean(o.mean(1, keepdim=True))).square().mean(1)  # (views, D)
    return (world.mean(variance).mean() * o.shape[2]).sqrt()


@torch.no_grad()
def count(seen: dict, labels: Tensor, truth: Tensor) -> Counts:
    """seen from `SemPPL.forward`; visible labels and true classes (B,) -> {name: (numerator, denominator)}.

    Of several processes each gives its rows, and all get the sums.
    """
    unlabelled = labels < 0
    voted = seen["voted"]
    rows = unlabelled & (voted >= 0)
    agree = (seen["votes"] == voted[:, None]).float().mean(1)
    other = ~seen["own"]
    same = other & (world.gather(truth)[seen["negatives"]] == truth[:, None])
    counts = {
        "pseudo_label_accuracy": ((rows & (voted == truth)).sum(), rows.sum()),
        "coverage": (rows.sum(), unlabelled.sum()),
        "vote_agreement": ((agree * rows).sum(), rows.sum()),
        "false_negatives": (same.sum(), other.sum()),
    }
    if "valid" in seen:
        right = (seen["z_labels"] == truth[:, None]) & seen["valid"][:, None]
        counts["purity"] = (right.sum(), seen["valid"].sum() * right.shape[1])
    world.total([part for both in counts.values() for part in both])
    return counts


@torch.no_grad()
def count_ifnd(seen: dict, truth_of: Tensor) -> Counts:
    """seen from `IFND.forward` (this process's rows), true classes by image id (n,) -> sums over all processes."""
    other, fn = ~seen["own"], seen["fn"]  # (B, N), (M, B, N)
    same = other & (truth_of[seen["ids"]][:, None] == truth_of[seen["candidate_ids"].clamp(min=0)])
    left, found = other & ~fn, (fn & same).sum()
    counts = {
        "false_negatives_before": (same.sum(), other.sum()),
        "false_negatives": ((left & same).sum(), left.sum()),
        "acceptance": (seen["accepted"].sum(), torch.ones_like(seen["accepted"], dtype=torch.long).sum()),
        "pair_precision": (found.clone(), fn.sum()),
        "pair_recall": (found, same.sum() * len(fn)),
    }
    world.total([part for both in counts.values() for part in both])
    return counts


@torch.no_grad()
def count_carp(seen: dict) -> Counts:
    """seen from `CARP.forward` -> {name: (numerator, denominator)} of the global batch, equal on all processes."""
    usage, chosen = world.mean(seen["usage"]), world.gather(seen["chosen"], 1)  # (K,), (U, B)
    K = len(usage)
    perplexity = (-(usage * usage.clamp(min=1e-30).log()).sum()).exp()
    used = torch.zeros(K, device=usage.device).index_fill(0, chosen.flatten(), 1.0).sum()
    at_most = torch.tensor(min(K, chosen.numel()))
    return {"prototype_usage": (perplexity, torch.tensor(K)), "prototypes_chosen": (used, at_most)}


@torch.no_grad()
def count_right(seen: dict, labels: Tensor) -> Counts:
    """seen from `Classifier.forward`, labels (B,) of this process's rows -> sums over all processes."""
    right = seen["predicted"] == labels
    both = right.sum(), torch.ones_like(right, dtype=torch.long).sum()
    world.total(list(both))
    return {"accuracy": both}


def shares(steps: list[Counts]) -> dict[str, float | None]:
    """Summed numerators / summed denominators of the counts of several steps, None where nothing was counted."""
    sums = {name: [float(sum(part)) for part in zip(*(c[name] for c in steps), strict=True)] for name in steps[0]}
    return {name: a / b if b > 0 else None for name, (a, b) in sums.items()}
