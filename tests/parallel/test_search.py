"""The two searches that are written out equal torch's own."""

import pytest
import torch
from core_checks import random

from semppl_mini.parallel import first_at_least, largest


@pytest.mark.parametrize("k, n", [(1, 640), (1, 65), (1, 1), (3, 640), (9, 5)])
def test_largest_equals_topk(k, n, device):
    x = random(50, n).to(device)
    ours, wanted = largest(x, k), x.topk(min(k, n))
    assert torch.equal(ours[0], wanted.values) and torch.equal(ours[1], wanted.indices)


def test_the_first_of_equals_is_the_largest(device):
    x = torch.zeros(2, 128, device=device)
    x[0, [70, 71, 127]] = 1
    assert largest(x, 1)[1].tolist() == [[70], [0]]


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_first_at_least_equals_searchsorted(n, device):
    key, value = ((random(m, seed=seed) * 20).long().to(device) for m, seed in ((n, 0), (100, 1)))
    key = key.sort().values
    assert torch.equal(first_at_least(key, value), torch.searchsorted(key, value))
