"""Nine corruptions after CIFAR-C (Hendrycks and Dietterich, 2019; in CARP), made here: they compare our runs only."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from ..method import encode
from ..rng import EVALUATION, generator


def jpeg(x: Tensor, quality: int) -> Tensor:
    """A uint8 image (3, H, W) as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    tv.to_pil_image(x).save(buffer, "JPEG", quality=quality)
    return tv.pil_to_tensor(Image.open(buffer))


def _impulse(x: Tensor, share: float, rng) -> Tensor:
    hit, salt = torch.rand(2, *x.shape, generator=rng)
    return torch.where(hit < share, (salt < 0.5).to(x.dtype), x)


def _pixelate(x: Tensor, share: float, rng) -> Tensor:
    small = [max(1, round(side * share)) for side in x.shape[1:]]
    return F.interpolate(F.interpolate(x[None], small, mode="area"), x.shape[1:], mode="nearest")[0]


def _contrast(x: Tensor, factor: float, rng) -> Tensor:
    mean = x.mean((1, 2), keepdim=True)
    return (x - mean) * factor + mean


CORRUPTIONS = {  # name: (function of an image in [0, 1], its strength by severity)
    "gaussian_noise": (lambda x, s, rng: x + s * torch.randn(x.shape, generator=rng), (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (lambda x, n, rng: torch.poisson(x * n, generator=rng) / n, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "blur": (lambda x, s, rng: tv.gaussian_blur(x, [2 * round(3 * s) + 1] * 2, [s, s]), (0.4, 0.6, 0.7, 0.8, 1.0)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "brightness": (lambda x, by, rng: x + by, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": (lambda x, factor, rng: tv.adjust_saturation(x, factor), (0.7, 0.5, 1.7, 2.2, 2.7)),
    "jpeg": (lambda x, quality, rng: jpeg((x * 255).round().byte(), quality) / 255, (80, 65, 58, 50, 40)),
}


def corrupted(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """uint8 images (n, 3, H, W) -> the same, corrupted; severity 1 to 5; equal for equal seeds."""
    corrupt, strengths = CORRUPTIONS[name]
    strength, rng = strengths[severity - 1], generator(seed, severity, EVALUATION)
    return torch.stack([(corrupt(x.float() / 255, strength, rng) * 255).round().clamp(0, 255).byte() for x in images])


def robustness(encoder: nn.Module, config, probe, images: Tensor, truth: Tensor) -> dict:
    """Accuracy of a fitted probe on corrupted uint8 images (n, 3, H, W): {corruption: mean over severities, "mean"}."""
    result = {}
    for name in CORRUPTIONS:
        seen = (encode(encoder, corrupted(images, name, severity), config) for severity in range(1, 6))
        result[name] = float(np.mean([probe.score(x, truth) for x in seen]))
    return result | {"mean": float(np.mean(list(result.values())))}
