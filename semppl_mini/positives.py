"""Semantic positives: queue entries that carry the image's (pseudo-)label (SemPPL, section 3; R = 3 of them).

    z_r(m) ~ Uniform{ e in Q_j : label(e) = y_bar(m) },   r = 1..R

The draws are with replacement (unspecified in the paper; our choice), and since the queues move in lockstep one
slot serves all of them. Cost O(Q log Q + B log Q): sort the queue by (label, id) once; the entries of a class are
then one run, those of one image a run inside it, and a draw is an offset. Shapes: B batch, Q capacity."""

import torch
from torch import Tensor

from .parallel import first_at_least

_IDS = 1 << 40  # ids stay below this, so label * _IDS + id sorts by label, then id


@torch.no_grad()
def draw_positives(
    queue_labels: Tensor, queue_ids: Tensor, y_bar: Tensor, ids: Tensor, u: Tensor, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    """Queue slots (B, R) of the semantic positives, and which rows have any (B,).

    queue_labels, queue_ids (Q,) with -1 in empty slots; y_bar, ids (B,); u (B, R) uniform in [0, 1). With
    `exclude_self`, entries of the row's own image are never drawn. Rows with y_bar = -1 or no entry to draw
    are invalid; their slots are meaningless."""
    key, order = (queue_labels * _IDS + queue_ids).sort(stable=True)  # (Q,), empty slots first
    c = y_bar.clamp(min=0)

    mine = c * _IDS + ids if exclude_self else c * _IDS  # the own image's run; an empty run at the start if not
    ends = torch.stack([c * _IDS, (c + 1) * _IDS, mine, mine + 1 if exclude_self else mine])
    start, end, own, own_end = first_at_least(key, ends)  # each (B,)
    n_own = own_end - own
    n = end - start - n_own
    draw = torch.minimum((u * n[:, None]).long(), (n - 1).clamp(min=0)[:, None])  # (B, R) in [0, n)
    position = start[:, None] + draw
    position = torch.where(position >= own[:, None], position + n_own[:, None], position)  # skip the own run
    valid = (y_bar >= 0) & (n > 0)
    return order[position.clamp(max=len(order) - 1)], valid
