"""Pseudo-labels: nearest neighbours, L x L votes, majority with its tie-break."""

import core_checks
import pytest
import torch
from core_checks import units

from semppl_mini import votes as pseudo_labels


def test_majority_equals_a_loop(device):
    core_checks.check_majority(device)


def test_votes_equal_a_loop(device):
    core_checks.check_vote(device)


def test_four_views_and_four_queues_make_sixteen_votes(device):
    o, keys, labels = units(4, 3, 6), units(4, 9, 6, seed=1), torch.arange(9)
    y_bar, votes = pseudo_labels.vote(o.to(device), keys.to(device), labels.to(device), 1, 9)
    assert votes.shape == (3, 16) and y_bar.shape == (3,)
    nearest = torch.einsum("jbd,aqd->bjaq", o, keys).argmax(-1)  # slot = label here
    assert torch.equal(votes.cpu(), nearest.flatten(1))  # column j * A + a


def test_a_tie_goes_to_the_larger_cosine_then_to_the_smaller_label(device):
    keys = torch.eye(3).expand(2, 3, 3)  # slot s holds direction s
    queries = torch.tensor([[[0.6, 0.8, 0.0]], [[0.9, 0.0, 0.436]]])  # slots 1 and 0, two votes each
    for labels, wanted in (([5, 2, 7], 5), ([2, 5, 7], 2)):
        given = queries.to(device), keys.to(device), torch.tensor(labels, device=device)
        y_bar, votes = pseudo_labels.vote(*given, 1, 8)
        assert votes.tolist() == [[labels[1]] * 2 + [labels[0]] * 2] and y_bar.tolist() == [wanted]
    equal = torch.tensor([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    for labels in ([5, 2, 7], [2, 5, 7]):
        given = equal.to(device), keys.to(device), torch.tensor(labels, device=device)
        assert pseudo_labels.vote(*given, 1, 8)[0].tolist() == [2]


def test_an_empty_queue_gives_no_pseudo_label(device):
    o, keys, empty = units(2, 4, 3), torch.zeros(2, 6, 3), torch.full((6,), -1)
    y_bar, votes = pseudo_labels.vote(o.to(device), keys.to(device), empty.to(device), 3, 5)
    assert (y_bar == -1).all() and (votes == -1).all()


def test_an_empty_slot_never_votes_even_if_it_is_nearest(device):
    o = units(1, 4, 3).to(device)
    keys = torch.cat([o[0], -o[0, :1]])[None]  # four empty slots hold the queries; the one entry is far away
    labels = torch.tensor([-1, -1, -1, -1, 2], device=device)
    for k in (1, 3):
        assert pseudo_labels.vote(o, keys, labels, k, 3)[0].tolist() == [2] * 4


def test_votes_have_no_gradient(device):
    o, keys = units(1, 4, 3).to(device).requires_grad_(), units(1, 5, 3, seed=1).to(device)
    cosine, _ = pseudo_labels.neighbours(o[0], keys[0], torch.zeros(5, device=device), 2)
    assert not cosine.requires_grad


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_the_capacity(k):
    with pytest.raises(ValueError, match=f"k = {k} .*queue of 5"):
        pseudo_labels.vote(units(1, 2, 3), units(1, 5, 3), torch.zeros(5).long(), k, 2)


def test_a_tie_of_far_neighbours_goes_to_the_less_far(device):
    queries, keys = torch.tensor([[[-0.1, -0.995, 0.0]], [[-0.866, -0.5, 0.0]]]), torch.eye(3)[:2].expand(2, 2, 3)
    given = queries.to(device), keys.to(device), torch.tensor([5, 2], device=device)
    y_bar, votes = pseudo_labels.vote(*given, 1, 8)
    assert votes.tolist() == [[5, 5, 2, 2]] and y_bar.tolist() == [5]  # cosines -0.1 and -0.5
