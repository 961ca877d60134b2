"""Encoder f, projector g, predictor h.

Encoders are ResNets for small images: a 3x3 stem, no max-pool, then stages of torchvision's basic block, each
stage after the first halving the resolution and doubling the width. `resnet18` is the CIFAR ResNet-18 that peers
report (stride-1 stem, 4 stages of 2 blocks, width 64); `narrow` is one for CPUs (3 stages of 1 block, any width).
Heads are BYOL's MLP, Linear-BN-ReLU-Linear (the official repository keeps it; sizes are unspecified in the paper).
Convolutions start by He's rule and batch norms at one. (Starting the last batch norm of each block at zero, as large
ResNets do, was slow here: the blocks of a three-block network have to take part from the first step.)
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

BLOCKS = {"resnet18": (2, 2, 2, 2), "narrow": (1, 1, 1)}  # basic blocks a stage


class ResNet(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, dim), the globally averaged last stage; any H, W >= 8."""

    def __init__(self, blocks: tuple[int, ...], width: int, stem_stride: int = 1):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        layers, inner = [], width
        for stage, n in enumerate(blocks):
            outer = width << stage
            for block in range(n):
                stride = 2 if stage > 0 and block == 0 else 1
                change = stride > 1 or inner != outer
                shortcut = nn.Sequential(conv1x1(inner, outer, stride), nn.BatchNorm2d(outer)) if change else None
                layers.append(BasicBlock(inner, outer, stride, shortcut))
                inner = outer
        self.stages = nn.Sequential(*layers)
        self.dim = inner
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean((2, 3))  # (B, dim)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def mlp(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear without bias: (B, inner) -> (B, outer)."""
    return nn.Sequential(
        nn.Linear(inner, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outer, bias=False),
    )


def networks(config, generator: torch.Generator) -> nn.ModuleDict:
    """Encoder, projector and predictor of a config, initialised from `generator` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        f = ResNet(BLOCKS[config.backbone], config.width, config.stem_stride)
        g = mlp(f.dim, config.projector_hidden, config.embedding_dim)
        h = mlp(config.embedding_dim, config.predictor_hidden, config.embedding_dim)
    return nn.ModuleDict({"encoder": f, "projector": g, "predictor": h})
