"""Encoder f, projector g, predictor h.

    backbone    blocks a stage    block       features
    airbench    1, 1, 1           below       4 width     for CIFAR in minutes, on CPUs too
    narrow      1, 1, 1           3x3, 3x3    4 width     a small ResNet
    resnet18    2, 2, 2, 2        3x3, 3x3    8 width     with the cifar stem, what peers report on CIFAR

ResNets are of torchvision's blocks: a stem, then stages, each after the first halving the resolution and doubling the
channels, which are `width` in the first. Convolutions start by He's rule, batch norms at one.

airbench is the plain network of the CIFAR speedruns (Jordan, 2024, arXiv 2404.00498): 2x2 patches, whitened, then
groups of width, 2 width and 4 width channels, each of 3x3, max-pooling, batch norm, GELU, 3x3, batch norm, GELU. So
most of its work is wide convolutions of few pixels, what processors do best.
 Heads are BYOL's MLP, Linear-BN-ReLU-Linear (the official
repository keeps it; sizes are unspecified in the paper). ImageNet's encoders and stem are in recipes/resnets.py, which
adds them to STEMS and ENCODERS below; `ENCODERS["mine"] = function`, config -> module with `dim`, adds one of yours.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

from . import parallel
from .rng import INIT, generator
from .views import normalise

BLOCKS = {"narrow": (1, 1, 1), "resnet18": (2, 2, 2, 2)}


def cifar_stem(width: int, stride: int = 1) -> nn.Sequential:
    """One 3x3 convolution: (B, 3, H, W) -> (B, width, H / stride, W / stride)."""
    return nn.Sequential(conv3x3(3, width, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def basic_block(inner: int, width: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions beside their shortcut: (B, inner, H, W) -> (B, width, H / stride, W / stride)."""
    same = stride == 1 and inner == width
    shortcut = None if same else nn.Sequential(conv1x1(inner, width, stride), nn.BatchNorm2d(width))
    return BasicBlock(inner, width, stride, shortcut)


class ResNet(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, dim), the globally averaged last stage; any H, W >= 8.

    stem, block: functions such as those above. recompute: keep the inputs of the blocks alone, see parallel/memory.py.
    """

    def __init__(self, blocks, width: int, stem_stride: int = 1, stem=cifar_stem, block=basic_block, recompute=False):
        super().__init__()
        self.recompute, self.dim = recompute, width
        self.stem, self.stages = stem(width, stem_stride), nn.Sequential()
        for stage, n in enumerate(blocks):
            for stride in [2 if stage else 1] + (n - 1) * [1]:
                self.stages.append(block(self.dim, width << stage, stride))
                self.dim = (width << stage) * self.stages[-1].expansion
        for convolution in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.stages:
            x = parallel.recomputed(block, x) if self.recompute else block(x)
        return x.mean((2, 3))  # (B, dim)


class Whitening(nn.Conv2d):
    """The first layer of airbench: (B, 3, H, W) -> (B, 24, H - 1, W - 1), decorrelated 2x2 patches and their negatives.

    Its weights are not trained, `whiten` computes them from images; until then they are random. The bias is trained.
    """

    def __init__(self):
        super().__init__(3, 24, 2)
        nn.init.zeros_(self.bias)
        self.weight.requires_grad_(False)


class Airbench(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, 4 width), the mean of the last map; H, W >= 9."""

    def __init__(self, width: int, recompute: bool = False):
        super().__init__()
        self.recompute, self.dim = recompute, 4 * width
        self.stem, sizes = nn.Sequential(Whitening(), nn.GELU()), (24, width, 2 * width, 4 * width)
        self.groups = nn.Sequential(*map(group, sizes, sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.groups:
            x = parallel.recomputed(block, x) if self.recompute else block(x)
        return x.mean((2, 3))  # (B, dim)


def group(inner: int, outer: int) -> nn.Sequential:
    """(B, inner, H, W) -> (B, outer, H // 2, W // 2). As many channels as can be begin as they came [airbench]."""
    first, second = conv3x3(inner, outer), conv3x3(outer, outer)
    for convolution in (first, second):
        nn.init.kaiming_normal_(convolution.weight)
        nn.init.dirac_(convolution.weight.data[: convolution.in_channels])
    norms = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
    return nn.Sequential(first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU())


@torch.no_grad()
def whiten(method: nn.Module, images, most: int = 50_000) -> None:
    """Give each `Whitening` of a method the 12 eigenvectors of the images' 2x2 patches, each over its spread.

    images: an ImageSet, of which at most so many are drawn by the method's seed. W^T W = (mean p p^T + 5e-4)^-1 of
    normalised patches p [airbench]. Process 0 computes, the others are told. No label is read.
    """
    stems, config, moment = [m for m in method.modules() if isinstance(m, Whitening)], method.config, 0
    if stems and parallel.rank() == 0:
        rows = torch.randperm(len(images), generator=generator(config.seed, 2, INIT))[:most]
        for part in rows.split(500):
            x = normalise(images.whole(part, config.large_size).float() / 255, config.mean, config.std)
            p = nn.functional.unfold(x, 2)  # (b, 12, patches)
            moment = moment + (p @ p.mT / p.shape[2]).double().sum(0)
        values, vectors = torch.linalg.eigh(moment / len(rows))
        W = (vectors / (values + 5e-4).sqrt()).flip(1).T.view(12, 3, 2, 2)  # the largest first
    for weight in (stem.weight for stem in stems):
        weight.copy_(parallel.tell(torch.cat([W, -W]) if parallel.rank() == 0 else None))


def _airbench(config) -> Airbench:
    small = min(config.large_size, config.small_size if config.small_views else config.large_size)
    if small < 9:
        raise ValueError(f"backbone = 'airbench' halves a view thrice, and one has {small} pixels; give 9 or more.")
    return Airbench(config.width, config.recompute)


def _basic(blocks: tuple[int, ...], config) -> ResNet:
    if config.sk:
        raise ValueError("sk = True needs bottlenecks; give backbone resnet50 or resnet200, or sk=False.")
    return ResNet(blocks, config.width, config.stem_stride, STEMS[config.stem], recompute=config.recompute)


STEMS = {"cifar": cifar_stem}  # of config.stem: width, stride -> module
ENCODERS = {name: partial(_basic, blocks) for name, blocks in BLOCKS.items()}  # of config.backbone: config -> encoder
ENCODERS["airbench"] = _airbench


def mlp(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear without bias: (B, inner) -> (B, outer)."""
    first, last = nn.Linear(inner, hidden), nn.Linear(hidden, outer, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), last)


def networks(config, generator: torch.Generator) -> nn.ModuleDict:
    """Encoder, projector and predictor of a config, initialised from `generator` alone. ValueError: backbone, sk."""
    if config.backbone not in ENCODERS:
        raise ValueError(f"backbone = {config.backbone!r} is not known; choose one of {', '.join(ENCODERS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        f = ENCODERS[config.backbone](config)
        g = mlp(f.dim, config.projector_hidden, config.embedding_dim)
        h = mlp(config.embedding_dim, config.predictor_hidden, config.embedding_dim)
    return nn.ModuleDict({"encoder": f, "projector": g, "predictor": h})
