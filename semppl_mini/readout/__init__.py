"""The door to the read-outs: what trained features are worth, and what stands behind a pseudo-label."""

from .evaluation import (  # noqa: I001
    classifier_accuracy, evaluate, fine_tune, fit_probe, knn_accuracy, linear_probe, raw_pixel_accuracy, share_right,
    supervised, tuning, untrained_encoder, within_reach,
)  # fmt: skip
from .inspect import inspect
