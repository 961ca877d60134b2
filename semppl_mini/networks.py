"""Encoder f, projector g, predictor h.

    backbone    blocks a stage    block       features
    narrow      1, 1, 1           3x3, 3x3    4 width     for CPUs
    resnet18    2, 2, 2, 2        3x3, 3x3    8 width     with the cifar stem, what peers report on CIFAR

Encoders are ResNets of torchvision's blocks: a stem, then stages, each after the first halving the resolution and
doubling the channels, which are `width` in the first. Convolutions start by He's rule, batch norms at one. Heads are
BYOL's MLP, Linear-BN-ReLU-Linear (the official repository keeps it; sizes are unspecified in the paper).

A faster encoder for CIFAR is in recipes/airbench.py, ImageNet's encoders and stems in recipes/resnets.py: they add
themselves to ENCODERS and STEMS below; `ENCODERS["mine"] = function`, config -> module with `dim`, adds your own."""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

from . import parallel

BLOCKS = {"narrow": (1, 1, 1), "resnet18": (2, 2, 2, 2)}


def cifar_stem(width: int, stride: int = 1) -> nn.Sequential:
    """One 3x3 convolution: (B, 3, H, W) -> (B, width, H / stride, W / stride)."""
    return nn.Sequential(conv3x3(3, width, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def basic_block(inner: int, width: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions beside their shortcut: (B, inner, H, W) -> (B, width, H / stride, W / stride)."""
    same = stride == 1 and inner == width
    shortcut = None if same else nn.Sequential(conv1x1(inner, width, stride), nn.BatchNorm2d(width))
    return BasicBlock(inner, width, stride, shortcut)


class Encoder(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, dim), the mean of the last map.

    recompute: keep the inputs of the stages' blocks alone, see parallel/memory.py."""

    def __init__(self, stem: nn.Module, stages: list[nn.Module], dim: int, recompute: bool = False):
        super().__init__()
        self.stem, self.stages, self.dim, self.recompute = stem, nn.Sequential(*stages), dim, recompute

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.stages:
            x = parallel.recomputed(block, x) if self.recompute else block(x)
        return x.mean((2, 3))  # (B, dim)


def pad_same(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Before a strided convolution or max-pool, TensorFlow's SAME: as much as its windows lack, half in front."""
    pads = []
    for n, k, stride in zip(inputs[0].shape[2:], layer.kernel_size, layer.stride, strict=True):
        lacks = max((-(-n // stride) - 1) * stride + k - n, 0)  # of ceil(n / stride) windows
        pads = [lacks // 2, lacks - lacks // 2, *pads]  # the last axis comes first
    return nn.functional.pad(inputs[0], pads, value=-torch.inf if isinstance(layer, nn.MaxPool2d) else 0.0)


def pad_single(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """A column of zeros beside a single one, where oneDNN 3.12 adds stray memory to strided weights' bf16 gradients."""
    return nn.functional.pad(inputs[0], (0, 1)) if layer.training and inputs[0].shape[3] == 1 else inputs[0]


class ResNet(Encoder):
    """An encoder of any H, W >= 8. stem, block: functions such as those above; padding: see Config."""

    def __init__(self, blocks, width: int, stem_stride: int = 1, stem=cifar_stem, block=basic_block, recompute=False,
                 padding: str = "symmetric"):  # fmt: skip
        first, stages, dim = stem(width, stem_stride), [], width
        for stage, n in enumerate(blocks):
            for stride in [2 if stage else 1] + (n - 1) * [1]:
                stages.append(block(dim, width << stage, stride))
                dim = (width << stage) * stages[-1].expansion
        super().__init__(first, stages, dim, recompute)
        for convolution in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        for layer in (x for x in self.modules() if isinstance(x, (nn.Conv2d, nn.MaxPool2d)) and x.stride != (1, 1)):
            layer.register_forward_pre_hook(pad_same if padding == "same" else pad_single)
            layer.padding = (0, 0) if padding == "same" else layer.padding


def _basic(blocks: tuple[int, ...], config) -> ResNet:
    if config.sk:
        raise ValueError("sk = True needs bottlenecks; give backbone resnet50 or resnet200, or sk=False.")
    more = {"recompute": config.recompute, "padding": config.padding}
    return ResNet(blocks, config.width, config.stem_stride, STEMS[config.stem], **more)


STEMS = {"cifar": cifar_stem}  # of config.stem: width, stride -> module
ENCODERS = {name: partial(_basic, blocks) for name, blocks in BLOCKS.items()}  # of config.backbone: config -> encoder


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


@torch.no_grad()
def begin(network: nn.Module, images, config) -> None:
    """Before a training from scratch: weights of layers that have a `weight_from(images, config)`, as airbench's first.

    They are alike in all such layers of a network, so it is asked once, on process 0, and told to all."""
    if layers := [layer for layer in network.modules() if hasattr(layer, "weight_from")]:
        weight = parallel.tell(layers[0].weight_from(images, config) if parallel.rank() == 0 else None)
        for layer in layers:
            layer.weight.copy_(weight)
