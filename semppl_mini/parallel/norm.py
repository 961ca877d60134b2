"""Batch norm over the rows of all processes: one exchange forward, one backward, and no wait for the host.

    y = (x - m) a + b'      a = w / sqrt(v + eps)      m = mean_p(m_p)      v = mean_p(v_p + m_p^2) - m^2

with mean m_p and variance v_p of a channel over the rows and pixels of process p; b' is b, m in it for the gradient.
Views that pass side by side have an m and v each. Ioffe and Szegedy (2015), arXiv 1502.03167.
Shapes: V views of b rows each, C channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import world
from .device import at_least_float, uses_xla


def fused(x: Tensor) -> bool:
    """Whether torch has kernels that go through x once. XLA and torch.compile make their own."""
    return x.device.type in ("cpu", "cuda") and not torch.compiler.is_compiling()


def affine(x: Tensor, m: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(x - m) a + b of each view and channel: x (V b, C, ...), the others (V, C)."""
    if fused(x):
        y = [F.batch_norm(*of, eps=0.0) for of in zip(x.chunk(len(m)), m, torch.ones_like(m), a, b, strict=True)]
        return y[0] if len(y) == 1 else torch.cat(y)
    m, a, b = (part.view(len(part), 1, -1, *[1] * (x.dim() - 2)) for part in (m, a, b))
    return ((x.unflatten(0, (len(m), -1)) - m) * a + b).flatten(0, 1).to(x.dtype)


def moments(x: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """m_p, v_p of x (V b, C, ...), each (V, C)."""
    if fused(x):
        return _Moments.apply(x, views)
    x = at_least_float(x).unflatten(0, (views, -1))
    return torch.var_mean(x, [d for d in range(x.dim()) if d not in (0, 2)], correction=0)[::-1]


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, views):
        running = torch.zeros(2, x.shape[1], device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        own = [torch.batch_norm_update_stats(part, *running, 0.0) for part in x.chunk(views)]
        m, v = map(torch.stack, zip(*own, strict=True))
        ctx.save_for_backward(x, m)
        return m, v

    @staticmethod
    def backward(ctx, dm, dv):
        x, m = ctx.saved_tensors
        n = x.numel() // m.numel()
        return affine(x, m, 2 * dv / n, dm / n), None


class BatchNorm(nn.SyncBatchNorm):
    """Parameters and buffers are torch's; of its forward only that of frozen statistics is left."""

    views = 1  # that pass side by side, set by `memory.apart`

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        m, v = moments(x, self.views)
        if world.size() > 1:  # in float64, as a difference of squares loses digits; TPUs have float32 alone
            m_p = m.double() if x.device.type in ("cpu", "cuda") else m
            m_p, square = world.mean(torch.stack([m_p, v + m_p.square()]))
            m, v = m_p.to(m.dtype), (square - m_p.square()).clamp(min=0).to(m.dtype)
        n = x.numel() // m.numel() * world.size()
        with torch.no_grad():
            for one in zip(m, v * (n / (n - 1)), strict=True):
                torch._foreach_lerp_([self.running_mean, self.running_var], one, self.momentum)
            self.num_batches_tracked += len(m)
        a = self.weight * (v + self.eps).rsqrt()
        return affine(x, m.detach(), a, self.bias - (m - m.detach()) * a)


def share_batch_norm(module: nn.Module) -> None:
    """Batch norms over the global batch, in place. Alone they stay torch's, but XLA's, which has no n / (n - 1)."""
    for part in module.modules() if world.size() > 1 or uses_xla() else ():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.__class__ = BatchNorm  # same parameters, same buffers, another forward
