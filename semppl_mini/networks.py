"""Encoder f, projector g, predictor h.

Encoders are ResNets of torchvision's blocks: a stem, then stages, each after the first halving the resolution and
doubling the width. All channels grow with the first stage's: width 64 is "1x", 128 "2x" and 256 "4x", as in the
official repositories of BYOL and SemPPL.

    backbone    blocks a stage    block              features
    narrow      1, 1, 1           3x3, 3x3           4 width    for CPUs
    resnet18    2, 2, 2, 2        3x3, 3x3           8 width    with the cifar stem, what peers report on CIFAR
    resnet50    3, 4, 6, 3        1x1, 3x3, 1x1     32 width    [paper]
    resnet200   3, 24, 36, 3      1x1, 3x3, 1x1     32 width    [paper]

Bottlenecks (1x1, 3x3, 1x1) have their stride in the 3x3 convolution ("v1.5"), as the official repositories do.
Heads are BYOL's MLP, Linear-BN-ReLU-Linear (the official repository keeps it; sizes are unspecified in the paper).
Convolutions start by He's rule, batch norms at one, but for the last one of each bottleneck, which starts at zero: the
block is then its shortcut (the official repositories take this from Haiku, which has it for bottlenecks alone). In
basic blocks it was slow here: those of a three-block network have to take part from the first step.

Selective kernels (SK; Li et al., 2019, as in SimCLRv2) take the place of each bottleneck's 3x3 convolution, C channels:

    u_1, u_2 = ReLU(BN(conv3x3(x)))                     2C channels, halved
    a = softmax over the two of W_2 ReLU(BN(W_1 s))     s = mean of u_1 + u_2 over the pixels, in max(C/16, 32) channels
    y = a_1 u_1 + a_2 u_2                               C channels

and come with ResNet-D (He et al., 2019): an imagenet stem of three 3x3, and mean pooling before 1x1 shortcuts.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1, conv3x3

from .parallel import recomputed

BLOCKS = {"narrow": (1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet200": (3, 24, 36, 3)}
BOTTLENECKS = ("resnet50", "resnet200")  # the others are of basic blocks


class SelectiveKernel(nn.Module):
    """The two-branch convolution above: (B, C, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(self, C: int, stride: int):
        super().__init__()
        inner = max(C // 16, 32)
        self.branches = _conv(C, 2 * C, stride)
        self.mix = nn.Sequential(
            conv1x1(C, inner), nn.BatchNorm2d(inner), nn.ReLU(inplace=True), conv1x1(inner, 2 * C)
        )

    def forward(self, x: Tensor) -> Tensor:
        u = self.branches(x).chunk(2, 1)  # 2 x (B, C, H, W)
        s = (u[0] + u[1]).mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        a = self.mix(s).unflatten(1, (2, -1)).softmax(1)  # (B, 2, C, 1, 1)
        return a[:, 0] * u[0] + a[:, 1] * u[1]


class ResNet(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, dim), the globally averaged last stage; any H, W >= 8.

    stem: "cifar", one 3x3 convolution of stride `stem_stride`, or "imagenet", 7x7 of stride 2 (with sk, three 3x3) and
    3x3 max-pooling of stride 2. sk: selective kernels; the cifar stem stays as it is then, as in SimCLRv2's code.
    ValueError with basic blocks. recompute: keep the inputs of the blocks alone for the gradient, see memory.py.
    """

    def __init__(
        self, blocks: tuple[int, ...], width: int, stem_stride: int = 1, stem: str = "cifar",
        bottleneck: bool = False, sk: bool = False, recompute: bool = False,
    ):  # fmt: skip
        super().__init__()
        if sk and not bottleneck:
            raise ValueError(f"sk = True needs bottlenecks; give backbone {' or '.join(BOTTLENECKS)}, or sk=False.")
        self.recompute, self.stem = recompute, _stem(width, stem_stride, stem, sk)
        layers, inner = [], width
        for stage, n in enumerate(blocks):
            for block in range(n):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_block(inner, width << stage, stride, bottleneck, sk))
                inner = (width << stage) * (4 if bottleneck else 1)
        self.stages = nn.Sequential(*layers)
        self.dim = inner
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.stages:
            x = recomputed(block, x) if self.recompute else block(x)
        return x.mean((2, 3))  # (B, dim)


def _conv(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv3x3(inner, outer, stride), nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


def _stem(width: int, stride: int, kind: str, sk: bool) -> nn.Sequential:
    """(B, 3, H, W) -> (B, width, H / stride, W / stride), or with "imagenet" (B, width, H / 4, W / 4)."""
    if kind == "cifar":
        return _conv(3, width, stride)
    if sk:  # ResNet-D
        convolutions = [*_conv(3, width // 2, 2), *_conv(width // 2, width // 2), *_conv(width // 2, width)]
    else:
        convolutions = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*convolutions, nn.MaxPool2d(3, 2, 1))


def _block(inner: int, width: int, stride: int, bottleneck: bool, sk: bool) -> nn.Module:
    """One residual block, `inner` channels to `width`, or 4 `width` with a bottleneck."""
    kind = Bottleneck if bottleneck else BasicBlock
    outer, shortcut = width * kind.expansion, None
    if stride > 1 or inner != outer:
        convolution = [_pool(stride), conv1x1(inner, outer)] if sk else [conv1x1(inner, outer, stride)]
        shortcut = nn.Sequential(*convolution, nn.BatchNorm2d(outer))
    block = kind(inner, width, stride, shortcut)
    if sk:  # no batch norm after it; the ReLU after it changes nothing, a mix of two ReLUs is not negative
        block.conv2, block.bn2 = SelectiveKernel(width, stride), nn.Identity()
    return block


def _pool(stride: int) -> nn.Module:
    """2x2 means of stride 1 or 2; windows that cross the right or lower edge average what they see."""
    if stride == 2:  # [ours] SimCLRv2 counts zeros beyond the edge of odd sizes; none are met at 224 and 96 pixels
        return nn.AvgPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.ZeroPad2d((-1, 0, -1, 0)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, Bottleneck):
        nn.init.zeros_(module.bn3.weight)


def mlp(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear without bias: (B, inner) -> (B, outer)."""
    return nn.Sequential(
        nn.Linear(inner, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outer, bias=False),
    )


def networks(config, generator: torch.Generator) -> nn.ModuleDict:
    """Encoder, projector and predictor of a config, initialised from `generator` alone. ValueError: see ResNet."""
    kind = dict(bottleneck=config.backbone in BOTTLENECKS, sk=config.sk, recompute=config.recompute)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        f = ResNet(BLOCKS[config.backbone], config.width, config.stem_stride, config.stem, **kind)
        g = mlp(f.dim, config.projector_hidden, config.embedding_dim)
        h = mlp(config.embedding_dim, config.predictor_hidden, config.embedding_dim)
    return nn.ModuleDict({"encoder": f, "projector": g, "predictor": h})


def compiled(parts: nn.ModuleDict, **options) -> None:
    """torch.compile each network in place, at its first call; state_dict keeps its names, deep copies are eager again.

    options: of torch.compile. ValueError with recompute, which it cannot trace; it need not trace microbatches.
    """
    for part in parts.values():
        if getattr(part, "recompute", False):
            raise ValueError("compile = True does not go with recompute = True; give recompute=False and microbatches.")
        part.compile(**options)
