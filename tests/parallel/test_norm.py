"""Batch norm shared by two processes: torch's own of the whole batch, for each view by itself, in few exchanges."""

import functools
import sys
from pathlib import Path

import pytest
import torch
from core_checks import random, tiny
from processes import by_two
from torch import nn
from torch.testing import assert_close

from semppl_mini import parallel, presets
from semppl_mini.semppl import SemPPL

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from two_processes import exchanges  # noqa: E402


def normalised(dtype, mean, *pixels):
    """y, dx, dw, db and running statistics of three views (12, 5, *pixels), from the processes that there are."""
    norm = nn.Sequential((nn.BatchNorm2d if pixels else nn.BatchNorm1d)(5)).to(dtype)
    with torch.no_grad():
        norm[0].weight.copy_(random(5, seed=1)), norm[0].bias.copy_(random(5, seed=2))
    parallel.share_batch_norm(norm)
    x = (mean + 3 * random(3, 12, 5, *pixels).to(dtype)).requires_grad_()
    rows, dy = parallel.rows(12), random(3, 12, 5, *pixels, seed=3).to(dtype)
    y = parallel.apart(norm, list(x[:, rows]), tiny())
    y.backward(dy[:, rows])
    parallel.total(gradients := [x.grad, norm[0].weight.grad, norm[0].bias.grad])
    return [parallel.gather(y.detach(), 1), *gradients, *norm.buffers()]


@pytest.mark.parametrize("pixels", [(), (6, 7)])
def test_views_side_by_side_are_torchs_batch_norm_of_the_whole_batch_of_each(pixels, tmp_path):
    work = functools.partial(normalised, torch.float64, 20, *pixels)
    assert_close(by_two(work, tmp_path), work(), rtol=1e-12, atol=1e-12)


def test_a_mean_far_from_zero_leaves_the_variance_its_digits(tmp_path):
    """In float32, where squares of 1,000 have none of the variance's: they are summed in float64."""
    work = functools.partial(normalised, torch.float32, 1000, 6, 7)
    assert_close(by_two(work, tmp_path)[0], work()[0], rtol=0, atol=1e-2)


def test_alone_batch_norm_stays_torchs():
    parallel.share_batch_norm(network := nn.Sequential(nn.BatchNorm2d(3)))
    assert type(network[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("name, norms", [("cifar10_cpu", 23), ("imagenet_1pct", 274)])
def test_exchanges_of_a_step(name, norms):
    """Real ones, in two processes: of each batch norm one forward and one backward for all views of a size."""
    config, found = presets.named(name), exchanges(name)
    method = SemPPL(config.replace(width=8, queue=32, negatives=1, batch_size=4), 10)
    online, target = (sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in part.modules())
                      for part in (method.online, method.target))  # fmt: skip
    online *= 1 + bool(config.small_views)
    assert (found["norm.py"], found["backward"]) == (online + target, online) and 2 * online + target == norms
    assert found["step.py"] == 1 and found["semppl.py"] == 3  # gradients with terms; targets, labels and ids
    assert found.total() - norms <= 12
