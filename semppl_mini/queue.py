"""The queue of labelled embeddings: L FIFOs, one per large view (SemPPL, section 3; capacity Q = 20 B).

An entry of queue a is (t_a = n(g_t(f_t(x_a))), y, id): the *target* network's projection, of length 1, of large
view a of a *labelled* image. The L queues move in lockstep, so they share labels, ids and the pointer, and slot s holds
the same image in every queue. Shapes: L views, B batch, D embedding width, Q capacity.

All shapes are static (no boolean compaction): rows that must not enter are written to a trash slot, index Q,
whose label stays -1 and which no reader ever sees (`keys`, `labels` and `ids` below stop before it)."""

import torch
from torch import Tensor, nn


class LabelledQueue(nn.Module):
    """FIFO of labelled target projections, kept in buffers so that a checkpoint carries it.

    Any capacity works with any batch size: writes wrap around, and of a batch with more than Q labelled rows
    only the last Q are kept. Empty slots have label -1."""

    def __init__(self, views: int, capacity: int, dim: int):
        super().__init__()
        self.capacity = capacity
        self.register_buffer("all_keys", torch.zeros(views, capacity + 1, dim))  # (L, Q + 1, D)
        self.register_buffer("all_labels", torch.full((capacity + 1,), -1))  # (Q + 1,)
        self.register_buffer("all_ids", torch.full((capacity + 1,), -1))  # (Q + 1,)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))  # the next slot to write

    @property
    def keys(self) -> Tensor:
        return self.all_keys[:, : self.capacity]  # (L, Q, D)

    @property
    def labels(self) -> Tensor:
        return self.all_labels[: self.capacity]  # (Q,)

    @property
    def ids(self) -> Tensor:
        return self.all_ids[: self.capacity]  # (Q,)

    @property
    def filled(self) -> Tensor:
        """How many slots hold an entry, a 0-d tensor."""
        return (self.labels >= 0).sum()

    @torch.no_grad()
    def enqueue(self, t: Tensor, y: Tensor, ids: Tensor) -> None:
        """Write the labelled rows (y >= 0) of t (L, B, D), y (B,), ids (B,) over the oldest entries."""
        labelled = y >= 0
        rank = labelled.long().cumsum(0) - 1  # 0, 1, 2, ... along the labelled rows
        n = labelled.sum()
        kept = labelled & (rank >= n - self.capacity)
        slot = torch.where(kept, (self.pointer + rank) % self.capacity, self.capacity)
        # The trash slot may be written by many rows: they all write the same values, so order is harmless.
        self.all_keys[:, slot] = torch.where(kept[:, None], t, 0).to(self.all_keys.dtype)
        self.all_labels[slot] = torch.where(kept, y, -1)
        self.all_ids[slot] = torch.where(kept, ids, -1)
        self.pointer.copy_((self.pointer + n) % self.capacity)
