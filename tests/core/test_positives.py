"""Semantic positives: uniform over the queue entries of the (pseudo-)label, never the image itself."""

import core_checks
import torch
from core_checks import random

from semppl_mini.files.sets import IDS
from semppl_mini.positives import draw_positives


def test_draws_are_uniform_over_the_allowed_entries(device):
    core_checks.check_positives(device)


def test_draws_in_a_large_queue(device):
    """Every draw has the row's label and another id, for ids as large as ImageNet's and extreme uniforms."""
    labels, ids = (random(5000, seed=0) * 11).long() - 1, (random(5000, seed=1) * 1_300_000).long()
    ids[labels < 0] = -1
    y_bar = (random(200, seed=2) * 10).long()
    entry = [(labels == c).nonzero()[m % 5, 0] for m, c in enumerate(y_bar.tolist())]
    own = ids[torch.stack(entry)]  # each row's image is in the queue
    u = random(200, 4, seed=3)
    u[:, 0], u[:, 1] = 0, 1 - 2**-24
    given = (x.to(device) for x in (labels, ids, y_bar, own, u))
    slots, valid = (x.cpu() for x in draw_positives(*given, True))
    assert valid.all() and (labels[slots] == y_bar[:, None]).all() and (ids[slots] != own[:, None]).all()


def test_nothing_to_draw_from_an_empty_queue(device):
    empty, y_bar = torch.full((4,), -1, device=device), torch.tensor([-1, 0, 3], device=device)
    ids, u = torch.arange(3, device=device), random(3, 2).to(device)
    slots, valid = draw_positives(empty, empty, y_bar, ids, u, True)
    assert not valid.any() and slots.shape == (3, 2)
    assert (slots >= 0).all() and (slots < 4).all()  # meaningless, but safe to index with


def test_a_class_of_the_image_alone_is_not_drawn_from(device):
    queue, rows = ([2, 2, 1], [9, 9, 4]), ([2, 1], [9, 9])  # labels and ids of each
    given = [torch.tensor(x, device=device) for x in (*queue, *rows)] + [random(2, 3).to(device)]
    slots, valid = draw_positives(*given, True)
    assert valid.tolist() == [False, True] and slots[1].tolist() == [2] * 3
    assert draw_positives(*given, False)[1].tolist() == [True, True]


def test_ids_may_be_as_large_as_a_set_may_have_them(device):
    labels, ids = torch.tensor([0, 1], device=device), torch.tensor([IDS - 1, 0], device=device)
    slots, valid = draw_positives(labels, ids, labels, ids + 1, random(2, 3).to(device), True)
    assert valid.all() and slots.tolist() == [[0] * 3, [1] * 3]
