"""Batch norm over the global batch: y = (x - m) / sqrt(v + eps) w + b, m and v of the rows of all processes."""

import torch
from torch import Tensor, nn

from . import world
from .device import at_least_float
from .xla import uses_xla


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """y = (x - m) / sqrt(v + eps) w + b with mean m and variance v of each channel over the rows of all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, but_channels = at_least_float(x), [d for d in range(x.dim()) if d != 1]
        m = world.mean(y.mean(but_channels, keepdim=True))
        y = y - m
        v = world.mean(y.square().mean(but_channels, keepdim=True))
        with torch.no_grad():
            n = x.numel() // x.shape[1] * world.size()
            self.running_mean.lerp_(m.flatten().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(v.flatten().to(self.running_var.dtype) * (n / (n - 1)), self.momentum)
            self.num_batches_tracked += 1
        shape = [1, -1] + [1] * (x.dim() - 2)
        return (y * ((v + self.eps).rsqrt() * self.weight.view(shape)) + self.bias.view(shape)).to(x.dtype)


def share_batch_norm(module: nn.Module) -> nn.Module:
    """The module with batch norms over the global batch: torch's on GPUs, ours on CPUs (torch's refuses them).

    On XLA they are global anyway, but torch_xla's running variance lacks the factor n / (n - 1): ours there, too.
    """
    if world.size() == 1 and not uses_xla():
        return module
    if next(module.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.__class__ = BatchNorm  # same parameters, same buffers, another forward
    return module
