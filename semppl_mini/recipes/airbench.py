"""airbench: an encoder after the plain network of the CIFAR speedruns (Jordan, 2024, arXiv 2404.00498).

    p = a 2x2 patch of a normalised image, a column of 12     W = (S + 5e-4 I)^(-1/2) V^T, where mean p p^T = V S V^T
    stem     GELU([W; -W] p + b)                              24 channels, whitened; W is computed, b is trained
    stage    conv 3x3, max-pool 2x2, BN, GELU, conv 3x3, BN, GELU

with `width`, 2 width and 4 width channels in three stages; the mean of the last map ends it, as in our ResNets. The
original has widths 64, 256, 256, norms whose weights stay 1, a b that trains for three epochs only, torch's start of
convolutions below the identity (ours He's), and ends in a max-pool and a scaled linear layer."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import conv3x3

from ..networks import ENCODERS, Encoder
from ..rng import INIT, generator
from ..views import normalise


def filters(images, config, most: int = 50_000) -> Tensor:
    """[W; -W], (24, 3, 2, 2), of at most so many of the images, drawn by the config's seed [airbench: 5,000]."""
    rows, moment = torch.randperm(len(images), generator=generator(config.seed, 2, INIT))[:most], 0
    for part in rows.split(100):
        x = normalise(images.whole(part, config.large_size).float() / 255, config.mean, config.std)
        p = nn.functional.unfold(x, 2).double()  # (b, 12, patches); flat images have almost one direction
        moment = moment + (p @ p.mT / p.shape[2]).sum(0)
    S, V = torch.linalg.eigh(moment / len(rows))
    W = (V / (S.clamp(min=0) + 5e-4).sqrt()).flip(1).T.view(12, 3, 2, 2)  # the strongest first
    return torch.cat([W, -W])


class Whitening(nn.Conv2d):
    """The first layer of airbench: (B, 3, H, W) -> (B, 24, H - 1, W - 1), decorrelated 2x2 patches and their negatives.

    Its bias is trained, its weights are not: they are `filters` of images, and random until `networks.begin`."""

    def __init__(self):
        super().__init__(3, 24, 2)
        nn.init.zeros_(self.bias)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if (small := min(x.shape[2:])) < 9:
            raise ValueError(f"airbench halves an image thrice, and one has {small} pixels a side; give 9 or more.")
        return super().forward(x)

    weight_from = staticmethod(filters)


def group(inner: int, outer: int) -> nn.Sequential:
    """(B, inner, H, W) -> (B, outer, H // 2, W // 2). As many channels as can be begin as they came [airbench]."""
    first, second = conv3x3(inner, outer), conv3x3(outer, outer)
    for convolution in (first, second):
        nn.init.kaiming_normal_(convolution.weight)
        nn.init.dirac_(convolution.weight.data[: convolution.in_channels])
    norms = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
    return nn.Sequential(first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU())


def airbench(width: int, recompute: bool = False) -> Encoder:
    """An encoder of any H, W >= 9, with 4 width features."""
    stem, sizes = nn.Sequential(Whitening(), nn.GELU()), (24, width, 2 * width, 4 * width)
    return Encoder(stem, list(map(group, sizes, sizes[1:])), 4 * width, recompute)


def _of(config) -> Encoder:
    if config.sk:
        raise ValueError("sk = True needs bottlenecks; give backbone resnet50 or resnet200, or sk=False.")
    return airbench(config.width, config.recompute)


ENCODERS["airbench"] = _of
