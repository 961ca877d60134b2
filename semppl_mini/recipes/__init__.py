"""Presets, a function a recipe: paper values are the defaults of `Config`; here are the differences, with reasons."""

from ..config import Config
from . import resnets  # adds ImageNet's encoders to those of networks.py

# isort: off
from .imagenet import LARGER, imagenet_1pct, imagenet_10pct, imagenet_linear
from .imagenet import imagenet_finetune_1pct, imagenet_finetune_10pct
from .relatives import cifar10_ifnd, cifar100_ifnd, cifar10_cpu_ifnd, digits_ifnd, imagenet_ifnd
from .relatives import cifar10_carp, cifar10_cpu_carp, digits_carp, imagenet_carp
from .semppl import cifar10, cifar10_cpu, cifar100, digits

_PRESETS = (
    digits, cifar10, cifar10_cpu, cifar100, imagenet_1pct, imagenet_10pct, imagenet_linear, imagenet_finetune_1pct,
    imagenet_finetune_10pct, imagenet_ifnd, imagenet_carp, cifar10_ifnd, cifar100_ifnd, cifar10_carp, cifar10_cpu_ifnd,
    cifar10_cpu_carp, digits_ifnd, digits_carp,
)  # fmt: skip
NAMES = tuple(preset.__name__ for preset in _PRESETS)


def named(name: str) -> Config:
    """The preset of that name; an unknown one raises ValueError."""
    if name not in NAMES:
        raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(NAMES)}.")
    return globals()[name]()
