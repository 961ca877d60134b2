"""The queue of labelled embeddings: a FIFO of any capacity, against a loop that writes row by row."""

import core_checks
import torch
from core_checks import units

from semppl_mini.queue import LabelledQueue


def test_fifo_equals_a_loop_for_any_capacity_and_batch(device):
    core_checks.check_queue(device)


def test_more_labelled_rows_than_capacity_keep_the_last(device):
    queue, t = LabelledQueue(1, 3, 4).to(device), units(1, 8, 4)
    y = torch.tensor([0, 1, -1, 2, 3, -1, 4, -1])
    queue.enqueue(t.to(device), y.to(device), torch.arange(8, device=device))
    assert sorted(queue.ids.tolist()) == [3, 4, 6] and sorted(queue.labels.tolist()) == [2, 3, 4]
    for slot, image in enumerate(queue.ids.tolist()):
        assert torch.equal(queue.keys[0, slot].cpu(), t[0, image])


def test_the_queues_move_in_lockstep(device):
    queue, t, y = LabelledQueue(3, 5, 4).to(device), units(3, 7, 4), torch.tensor([1, -1, 0, 1, -1, 2, 2])
    queue.enqueue(t.to(device), y.to(device), torch.arange(7, device=device))
    assert queue.ids.tolist() == [0, 2, 3, 5, 6]
    assert torch.equal(queue.keys.cpu(), t[:, [0, 2, 3, 5, 6]])


def test_an_empty_queue_says_so(device):
    queue = LabelledQueue(2, 4, 3).to(device)
    assert int(queue.filled) == 0 and queue.labels.tolist() == [-1] * 4
    unlabelled = torch.full((5,), -1, device=device)
    queue.enqueue(units(2, 5, 3).to(device), unlabelled, torch.arange(5, device=device))
    assert int(queue.filled) == 0 and not queue.keys.any()


def test_entries_carry_no_gradient(device):
    queue, t = LabelledQueue(1, 4, 3).to(device), units(1, 2, 3).to(device).requires_grad_()
    queue.enqueue(t * 1, torch.tensor([0, 1], device=device), torch.arange(2, device=device))
    assert not queue.keys.requires_grad and not list(queue.parameters())


def test_a_state_dict_carries_everything(device):
    queue, other = (LabelledQueue(2, 5, 4).to(device) for _ in range(2))
    rows = torch.arange(4, device=device)
    queue.enqueue(units(2, 3, 4).to(device), torch.tensor([2, 0, -1], device=device), rows[:3])
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.enqueue(units(2, 4, 4, seed=1).to(device), rows, rows)
    assert all(torch.equal(*pair) for pair in zip(queue.buffers(), other.buffers(), strict=True))
    assert queue.ids.tolist() == [3, 1, 0, 1, 2]  # 0, 1, then 0 to 3, of which the last wraps
