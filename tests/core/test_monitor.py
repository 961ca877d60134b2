"""What a run reports about itself, counted in loops over images."""

import core_checks
import pytest
import torch
from core_checks import random

from semppl_mini import monitor


def ints(*shape, high, seed):
    return (random(*shape, seed=seed) * high).long()


def step(seed, device, empty=False):
    """What a step might see of 12 images, 4 of them labelled: 9 votes, 5 negatives, 3 positives each."""
    truth = ints(12, high=3, seed=seed)
    labels = torch.where(torch.arange(12) < 4, truth, -1)
    votes = ints(12, 9, high=4, seed=seed + 1) - 1
    voted = torch.full((12,), -1) if empty else ints(12, high=4, seed=seed + 2) - 1
    seen = {
        "voted": voted, "votes": votes, "y_bar": torch.where(labels >= 0, labels, voted),
        "negatives": ints(12, 5, high=12, seed=seed + 3), "z_labels": ints(12, 3, high=3, seed=seed + 4),
        "valid": torch.zeros(12, dtype=torch.bool) if empty else random(12, seed=seed + 5) < 0.7,
        "own": random(12, 5, seed=seed + 6) < 0.2,
    }  # fmt: skip
    return {name: x.to(device) for name, x in seen.items()}, labels.to(device), truth.to(device)


def tally(seen, labels, truth):
    """The five measures as lists of single answers, image by image; unknown classes (-1) give none."""
    names = "pseudo_label_accuracy", "coverage", "vote_agreement", "purity", "false_negatives"
    seen, lists = {name: x.tolist() for name, x in seen.items()}, {name: [] for name in names}
    for m, (y, c) in enumerate(zip(labels.tolist(), truth.tolist(), strict=True)):
        voted = seen["voted"][m]
        if y < 0:
            lists["coverage"].append(voted >= 0)
        if y < 0 and voted >= 0:
            lists["pseudo_label_accuracy"] += [voted == c] if c >= 0 else []
            lists["vote_agreement"].append(sum(v == voted for v in seen["votes"][m]) / 9)
        if seen["valid"][m] and c >= 0:
            lists["purity"] += [z == c for z in seen["z_labels"][m]]
        drawn = zip(seen["negatives"][m], seen["own"][m], strict=True)
        lists["false_negatives"] += [truth.tolist()[n] == c for n, own in drawn if not own and min(c, truth[n]) >= 0]
    return lists


@pytest.mark.parametrize("unknown", [0, 5])
def test_counts_over_two_steps_equal_a_loop(unknown, device):
    counts, lists = [], {}
    for seed in (0, 10):
        given = step(seed, device)
        given[2][3 : 3 + unknown] = -1
        counts.append(monitor.count(*given))
        for name, answers in tally(*given).items():
            lists[name] = lists.get(name, []) + answers
    wanted = {name: sum(answers) / len(answers) for name, answers in lists.items()}
    assert monitor.shares(counts) == pytest.approx(wanted, abs=1e-6)


def test_nothing_counted_is_none_not_nan(device):
    shares = monitor.shares([monitor.count(*step(0, device, empty=True))])
    assert shares["coverage"] == 0
    nothing = {name for name, x in shares.items() if x is None}
    assert nothing == {"pseudo_label_accuracy", "vote_agreement", "purity"}


def test_augmentation_only_has_no_purity(device):
    seen, labels, truth = step(0, device)
    del seen["valid"], seen["z_labels"]
    assert "purity" not in monitor.count(seen, labels, truth)


def test_it_gives_no_gradient_and_changes_nothing(device):
    seen, labels, truth = step(0, device)
    before = {name: x.clone() for name, x in seen.items()}
    for value in monitor.count(seen, labels, truth).values():
        assert not any(x.requires_grad for x in value)
    assert not core_checks.differing(before, seen)
