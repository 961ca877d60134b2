"""Searches, written out: nearest keys by chunks, the largest of a row (fast on CPUs), searchsorted (XLA lacks it)."""

import torch
from torch import Tensor

from .device import at_least_float


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of x (M, n) and their indices, both (M, k); for k = 1 the first of equals wins."""
    if k > 1 or x.shape[1] % 64:
        return x.topk(min(k, x.shape[1])) if k > 1 else x.max(1, keepdim=True)
    blocks = x.unflatten(1, (-1, 64))  # (M, n / 64, 64); on CPUs `max` with indices is several times slower than `amax`
    best, block = blocks.amax(2).max(1, keepdim=True)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, 1, 64)).argmax(2)
    return best, 64 * block + inside


def first_at_least(key: Tensor, value: Tensor) -> Tensor:
    """torch.searchsorted(key, value), written out, since XLA does not have it: binary search, all values at once."""
    low, high = torch.zeros_like(value), torch.full_like(value, len(key))
    for _ in range(len(key).bit_length()):
        middle = (low + high) // 2
        right = (low < high) & (key[middle.clamp(max=len(key) - 1)] < value)
        low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
    return low


@torch.no_grad()
def neighbours(o: Tensor, keys: Tensor, labels: Tensor, k: int, chunk_mb: float = 256) -> tuple[Tensor, Tensor]:
    """The k keys nearest to each query: o (M, D), keys (Q, D), labels (Q,) -> cosine (M, k), index (M, k).

    Rows are unit vectors. Empty slots (label -1) have cosine -inf. Queries and keys go in chunks, so that a float32
    similarity matrix stays under `chunk_mb` MB, and under 16 (a processor cache); then the best of each compare."""
    o = at_least_float(o)
    empty = torch.where(labels >= 0, 0.0, -torch.inf).to(o.dtype)  # (Q,)
    rows, width, found = 1024, max(k, int(256 * min(chunk_mb, 16))), []
    for queries in o.split(rows):
        parts = zip(empty.split(width), keys.split(width), strict=True)
        near = [largest(torch.addmm(bias, queries, part.to(o.dtype).T), k) for bias, part in parts]  # of (rows, width)
        index = torch.cat([i + width * chunk for chunk, (_, i) in enumerate(near)], 1)
        best, chosen = torch.cat([cosine for cosine, _ in near], 1).topk(k)  # (rows, k)
        found.append((best, index.gather(1, chosen)))
    return tuple(torch.cat(x) for x in zip(*found, strict=True))
