"""ImageNet's encoders, ResNets of bottlenecks (1x1, 3x3, 1x1) with selective kernels or without, and its stems.

Features are 32 width; width 64 is "1x", 128 "2x", 256 "4x". As in BYOL's and SemPPL's official repositories, the stride
is in the 3x3 ("v1.5"), and the last batch norm starts at zero: the block is its shortcut (basic ones were slow so).

Selective kernels (SK; Li et al., 2019, as in SimCLRv2) take the place of each bottleneck's 3x3 convolution, C channels:

    u_1, u_2 = ReLU(BN(conv3x3(x)))                     2C channels, halved
    a = softmax over the two of W_2 ReLU(BN(W_1 s))     s = mean of u_1 + u_2 over the pixels, in max(C/16, 32) channels
    y = a_1 u_1 + a_2 u_2                               C channels

and come with ResNet-D (He et al., 2019): a stem of three 3x3, mean pooling before 1x1 shortcuts [SimCLRv2]."""

import re
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, conv1x1
from torchvision.ops import Conv2dNormActivation as Conv  # 3x3 unless said, batch norm, ReLU

from ..networks import ENCODERS, STEMS, ResNet

MAX_POOL = partial(nn.MaxPool2d, (3, 3), (2, 2), (1, 1))
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet200": (3, 24, 36, 3)}  # a stage [paper]


def imagenet_stem(width: int, _=None) -> nn.Sequential:
    """7x7 and max-pooling, both of stride 2: (B, 3, H, W) -> (B, width, H / 4, W / 4)."""
    return nn.Sequential(*Conv(3, width, 7, stride=2), MAX_POOL())


def deep_stem(width: int, _=None) -> nn.Sequential:
    """ResNet-D's, three 3x3 and max-pooling: (B, 3, H, W) -> (B, width, H / 4, W / 4)."""
    half = width // 2
    return nn.Sequential(*Conv(3, half, stride=2), *Conv(half, half), *Conv(half, width), MAX_POOL())


class SelectiveKernel(nn.Module):
    """The two-branch convolution above: (B, C, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(self, C: int, stride: int):
        super().__init__()
        inner = max(C // 16, 32)
        self.branches = Conv(C, 2 * C, stride=stride)
        self.mix = nn.Sequential(*Conv(C, inner, 1), conv1x1(inner, 2 * C))

    def forward(self, x: Tensor) -> Tensor:
        u = self.branches(x).chunk(2, 1)  # 2 x (B, C, H, W)
        s = (u[0] + u[1]).mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        a = self.mix(s).unflatten(1, (2, -1)).softmax(1)  # (B, 2, C, 1, 1)
        return a[:, 0] * u[0] + a[:, 1] * u[1]


def bottleneck(inner: int, width: int, stride: int, sk: bool = False) -> nn.Module:
    """One residual block: (B, inner, H, W) -> (B, 4 width, H / stride, W / stride)."""
    outer, shortcut = 4 * width, None
    if stride > 1 or inner != outer:
        convolution = [_pool(stride), conv1x1(inner, outer)] if sk else [conv1x1(inner, outer, stride)]
        shortcut = nn.Sequential(*convolution, nn.BatchNorm2d(outer))
    block = Bottleneck(inner, width, stride, shortcut)
    nn.init.zeros_(block.bn3.weight)
    if sk:  # no batch norm after it; the ReLU after it changes nothing, a mix of two ReLUs is not negative
        block.conv2, block.bn2 = SelectiveKernel(width, stride), nn.Identity()
    return block


sk_bottleneck = partial(bottleneck, sk=True)


def _pool(stride: int) -> nn.Module:
    """2x2 means of stride 1 or 2; windows that cross the right or lower edge average what they see."""
    if stride == 2:  # [ours] SimCLRv2 counts zeros beyond the edge of odd sizes; none are met at 224 and 96 pixels
        return nn.AvgPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.ZeroPad2d((-1, 0, -1, 0)))


def _encoder(blocks: tuple[int, ...], config) -> ResNet:
    stem = deep_stem if config.sk and config.stem == "imagenet" else STEMS[config.stem]
    block = sk_bottleneck if config.sk else bottleneck
    return ResNet(blocks, config.width, config.stem_stride, stem, block, config.recompute, config.padding)


def by_our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's tensors by the names of torchvision and timm -> by ours, without the classifier `fc`; others stay."""
    starts = {name: re.match(r"layer(\d{1,3})\.(\d{1,3})\.|conv1\.|bn1\.|", name) for name in tensors}
    blocks = sorted({(int(start[1]), int(start[2])) for start in starts.values() if start[1]})
    new = {f"layer{stage}.{i}.": f"stages.{place}." for place, (stage, i) in enumerate(blocks)}
    new |= {"conv1.": "stem.0.", "bn1.": "stem.1."}
    ours = {new.get(start[0], start[0]) + name[start.end() :]: tensors[name] for name, start in starts.items()}
    counts = (name.replace("running_mean", "num_batches_tracked") for name in ours if name.endswith("running_mean"))
    ours = {name: torch.tensor(0) for name in counts} | ours  # older files have none
    return {name: x for name, x in ours.items() if name not in ("fc.weight", "fc.bias")}


STEMS["imagenet"] = imagenet_stem
ENCODERS.update({name: partial(_encoder, blocks) for name, blocks in BLOCKS.items()})
