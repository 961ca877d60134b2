"""Batched arithmetic on images x (B, 3, H, W) in [0, 1], a row of parameters an image; each as torchvision's own.

No bit of an image's result depends on the images beside it."""

import functools

import torch
from torch import Tensor

from .device import far

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision


@functools.cache
def constant(values: tuple, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of these numbers, made once: an accelerator would wait for each copy. Not to be changed in place."""
    return torch.tensor(values, device=device, dtype=dtype)


def cubic(t: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2 (PIL, torchvision) at t >= 0: 1 at 0, 0 at 1 and from 2 on, below 0 between."""
    near, far = (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


def resize_matrix(start: Tensor, length: Tensor, size: int, inner: int, flip=None, interpolation="bilinear") -> Tensor:
    """Weights (B, size, inner) that take [start, start + length) of an axis to `size` pixels; `flip` (B,) mirrors.

    The filter is a triangle of half-width max(length / size, 1) ("bilinear"), or a cubic of twice that ("bicubic",
    BYOL's), around each output's centre, cut at the box and normalised: PIL's and torchvision's antialias=True."""
    scale = (length / size).view(-1, 1, 1)  # (B, 1, 1)
    out = torch.arange(size, device=start.device).view(1, -1, 1)
    if flip is not None:
        out = torch.where(flip.view(-1, 1, 1), size - 1 - out, out)
    j = torch.arange(inner, device=start.device) - start.view(-1, 1, 1)  # position inside the box, (B, 1, inner)
    inside = ((j >= 0) & (j < length.view(-1, 1, 1))).to(scale.dtype)
    distance = ((j + 0.5) - (out + 0.5) * scale).abs_().div_(scale.clamp(min=1))  # (B, size, inner)
    weight = (cubic(distance) if interpolation == "bicubic" else distance.neg_().add_(1).clamp_(min=0)).mul_(inside)
    return weight.div_(weight.sum(-1, keepdim=True))


def crop_resize(x: Tensor, box: Tensor, size: int, flip: Tensor | None = None, interpolation="bilinear") -> Tensor:
    """box (B, 4) = top, left, height, width in whole pixels -> (B, 3, size, size); flip (B,) mirrors left-right."""
    top, left, height, width = box.to(x.dtype).unbind(1)
    rows = resize_matrix(top, height, size, x.shape[2], None, interpolation)  # (B, size, H)
    columns = resize_matrix(left, width, size, x.shape[3], flip, interpolation)  # (B, size, W)
    wide = (x.flatten(1, 2) @ columns.mT).unflatten(1, x.shape[1:3])  # (B, 3, H, size)
    return rows[:, None] @ wide


def some(apply: Tensor) -> bool:
    """Whether a row asks for an operation; far away always true, as asking would wait."""
    return far(apply.device) or bool(apply.any())


def luma(colour: Tensor) -> Tensor:
    """(B, 3) -> (B,). Written out: a matrix product's last bit may depend on its number of rows."""
    r, g, b = colour.unbind(1)
    return _GREY[0] * r + _GREY[1] * g + _GREY[2] * b


def blend(x: Tensor, f: Tensor, to_mean: Tensor, to_luma: Tensor) -> Tensor:
    """f x + (1 - f) other: x's mean luma in rows `to_mean` (B,), the luma in rows `to_luma` (B,), else black."""
    weights = constant(_GREY, x.device, x.dtype)
    matrix = f.view(-1, 1, 1) * torch.eye(3, device=x.device, dtype=x.dtype)
    matrix = matrix + ((1 - f) * to_luma).view(-1, 1, 1) * weights  # luma = weights . colour
    offset = (1 - f) * to_mean * (luma(x.mean((2, 3))) if some(to_mean) else 0)  # (B,)
    return torch.baddbmm(offset.view(-1, 1, 1), matrix, x.flatten(2)).clamp_(0, 1).view_as(x)  # M c + b of each colour


def hue(x: Tensor, f: Tensor) -> Tensor:
    """Turn the hue by f (B,) of a full circle, in HSV: V the largest channel, C = V - the smallest.

    On the colour circle a hue is |h| = (2 + (g + b - r - V) / C) / 6 away from red, on green's side where g > b;
    and a channel whose own hue (0, 1/3, 2/3) is at distance d has the value V - C clamp(6 d - 1, 0, 1)."""
    r, g, b = x.unbind(1)  # (B, H, W)
    top = r.maximum(g).maximum(b)
    chroma = top - r.minimum(g).minimum(b)
    h = (g + b).sub_(r).sub_(top).div_(chroma.clamp(min=1e-12)).add_(2)  # >= 0
    h = torch.where(g < b, -h, h).div_(6).add_(f.view(-1, 1, 1))  # (B, H, W), in circles
    own = constant((0, 1 / 3, 2 / 3), x.device, x.dtype).view(1, 3, 1, 1)
    d = h.unsqueeze(1) - own  # (B, 3, H, W)
    d = d.sub_(d.round()).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul((top + chroma).unsqueeze(1), chroma.unsqueeze(1), d, value=-6)


def blur(x: Tensor, sigma: Tensor, apply: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with odd kernel size and sigma (B,) in pixels, reflecting at the border, as two matrix products."""
    d = torch.arange(-(kernel // 2), kernel // 2 + 1, device=x.device)
    weight = (-0.5 * (d / sigma[:, None]) ** 2).exp()
    weight = torch.where(apply[:, None], weight / weight.sum(1, keepdim=True), (d == 0).to(x.dtype))  # (B, kernel)

    def along(size: int) -> Tensor:  # (B, 1, size, size)
        source = torch.arange(size, device=x.device)[:, None] + d  # (size, kernel)
        source = (size - 1) - ((size - 1) - source.abs()).abs()
        matrix = torch.zeros(len(x), size, size, device=x.device, dtype=x.dtype)
        matrix.scatter_add_(2, source.expand(len(x), -1, -1), weight[:, None].expand(-1, size, -1).to(x.dtype))
        return matrix[:, None]

    def product(matrix: Tensor, x: Tensor) -> Tensor:  # banded: blocks of 64 rows leave most zeros out
        spans = [(i, i + 64, max(i - kernel // 2, 0), i + 64 + kernel // 2) for i in range(0, x.shape[2], 64)]
        return torch.cat([matrix[:, :, i:j, low:high] @ x[:, :, low:high] for i, j, low, high in spans], 2)

    rows = along(x.shape[2])
    columns = rows if x.shape[2] == x.shape[3] else along(x.shape[3])
    return product(columns, product(rows, x).mT).mT
