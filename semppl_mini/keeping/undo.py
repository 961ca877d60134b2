"""What a step changes, as it was before it: a step whose loss or gradient is not finite leaves nothing behind."""

import torch
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

from .. import parallel


@torch.no_grad()
def copy(tensors: list, others: list) -> None:
    """Others become tensors, those of one device and type in one operation."""
    for (xs, copies), _ in _group_tensors_by_device_and_dtype([tensors, others]).values():
        torch._foreach_copy_(copies, xs)


class Undo:
    """Buffers; and far away, where the optimizer has stepped when a bad step is found, weights and its state, too."""

    def __init__(self, method, optimizer, device: torch.device):
        self.optimizer, self.late, self.copies = optimizer, parallel.far(device), []
        self.fixed = [*method.buffers(), *(method.parameters() if self.late else ())]

    def keep(self) -> None:
        self.state = {w: dict(parts) for w, parts in self.optimizer.state.items()} if self.late else {}
        self.own = [*self.fixed, *(x for of in self.state.values() for x in of.values() if torch.is_tensor(x))]
        if len(self.copies) != len(self.own):
            self.copies = [x.detach().clone() for x in self.own]
        copy(self.own, self.copies)

    def back(self) -> None:
        copy(self.copies, self.own)
        if self.late:
            self.optimizer.state.clear()
            self.optimizer.state.update(self.state)
