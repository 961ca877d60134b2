"""Contrastive loss with N sampled negatives, and the invariance penalty: pure functions of tensors.

For an online view i and a target view j, image m is compared with its own target and with N other images
(SemPPL, section 3; ReLICv2, section 3 and its listing):

    p_ij(m)  = softmax( [ o_i[m].t_j[m],   { o_i[m].t_j[n] : n in N(m) } ] / tau )          L_augm   = -log p_ij[0]
    q_ij^r(m) = softmax( [ o_i[m].z_j^r[m], { o_i[m].t_j[n] : n in N(m) } ] / tau )         L_sempos = -log q_ij^r[0]
    I_augm = KL( p_ij || p_ji ),  i != j, both large;  I_sempos: the same of q

The candidates N(m) are drawn once per step and shared by all pairs: otherwise the KL would compare distributions over
different images. m itself, if drawn (few labels: a batch often has an image twice), is no negative. L_augm and L_sempos
are means over all (L + V) x L pairs (i = j kept, as in the listing), the latter also over the R draws of the rows that
have any; I_augm and I_sempos are means over ordered pairs of different large views (small views have no target, so no
p_ji; both our reading). Everything is float32 at least. Shapes: I online views, J = L target views, B batch,
D embedding width, N negatives, R semantic positives."""

import torch
from torch import Tensor

from . import parallel


def draw_negatives(batch: int, n: int, generator: torch.Generator) -> Tensor:
    """N(m) for every row m: n distinct other rows of the batch, (B, N).

    N(m) = { m + s mod B : s in S }, S being n distinct shifts out of 1..B-1, drawn anew each step. So each row's set
    is uniform over all n-subsets of the other rows, at O(B n) cost; rows share the shifts (our choice)."""
    if not 1 <= n < batch:
        raise ValueError(f"{n} negatives cannot be drawn from a batch of {batch}; choose 1 to {batch - 1}.")
    shifts = 1 + torch.randperm(batch - 1, generator=generator)[:n]
    return (torch.arange(batch)[:, None] + shifts) % batch


def logits(o: Tensor, t: Tensor, negatives: Tensor, tau: float, ids: Tensor | None = None, first: int = 0) -> Tensor:
    """o (I, b, D), t (J, B, D), negatives (b, N), ids (B,) of the images -> (I, J, b, 1 + N), the positive first.

    The b rows of o and negatives are rows first, first + 1, ... of the B in t and ids (of several processes each has
    its own; alone b = B). A negative with the row's own id gets a logit that weighs nothing."""
    row = torch.arange(first, first + len(negatives), device=negatives.device)[:, None]
    candidates = torch.cat([row, negatives], 1)  # (b, 1 + N)
    similarity = torch.einsum("ibd,jnd->ijbn", o, t)  # (I, J, b, B)
    a = similarity.gather(-1, candidates.expand(*similarity.shape[:3], -1)) / tau
    if ids is None:
        return a
    own = (ids[candidates] == ids[row]) & (candidates != row)  # (b, 1 + N)
    return a.masked_fill(own, -1e4)  # finite: 0 log 0 must be 0 in the KL


def semantic_logits(o: Tensor, z: Tensor, a: Tensor, tau: float) -> Tensor:
    """The positive of `a` = logits(...) exchanged for each semantic positive: z (J, B, R, D) -> (I, J, B, R, 1 + N)."""
    positive = torch.einsum("ibd,jbrd->ijbr", o, z) / tau
    negative = a[..., None, 1:].expand(*positive.shape, -1)
    return torch.cat([positive.unsqueeze(-1), negative], -1)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of x over the entries where valid (broadcast to x) is true; exactly zero, never NaN, where none is.

    Of several processes, each gets its entries' part of the mean over all entries, times the number of processes."""
    if valid is None:
        return x.mean()
    w = valid.expand_as(x).to(x.dtype)
    return (torch.where(w > 0, x, 0) * w).sum() / parallel.mean(w.sum()).clamp(min=1 / parallel.size())


def nce(a: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of -log softmax(a)[..., 0]: a (..., 1 + N), valid broadcastable to (...)."""
    return masked_mean(a.logsumexp(-1) - a[..., 0], valid)


def invariance(a: Tensor, valid: Tensor | None = None, detach: str = "argument") -> Tensor:
    """Mean KL(p_ij || p_ji) over ordered pairs i != j of the large views: a (L, L, ..., 1 + N) -> scalar >= 0.

    detach="argument" stops the gradient of p_ij altogether; detach="entropy" stops only E_p log p, ReLIC's literal
    form. valid is broadcastable to (L, L, ...). One large view has no pair: exactly zero."""
    log_p = a.log_softmax(-1)
    log_p_ji = log_p.transpose(0, 1)
    p = (log_p.detach() if detach == "argument" else log_p).exp()
    entropy = (p.detach() * log_p.detach()).sum(-1)  # E_p log p, no gradient in either form
    kl = entropy - (p * log_p_ji).sum(-1)  # (L, L, ...)
    pairs = ~torch.eye(len(a), dtype=torch.bool, device=a.device).view(len(a), len(a), *[1] * (kl.dim() - 2))
    return masked_mean(kl, pairs if valid is None else pairs & valid)
