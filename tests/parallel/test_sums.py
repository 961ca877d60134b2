"""Sums and gathers of three processes: of few numbers, which CPUs gather and add up, and of more."""

import torch
from processes import by_two
from torch.testing import assert_close

from semppl_mini import losses
from semppl_mini.parallel import world


def sums():
    """Of x = 10^rank, n times: all rows, the mean, the total, and the first two's gradient, on each process."""
    told = []
    for n in (2, world.FEW):
        x = torch.full((n,), 10.0 ** world.rank(), dtype=torch.float64, requires_grad=True)
        rows, mean, total = world.gather(x), world.mean(x), [x.detach().clone()]
        world.total(total)
        gradient, = torch.autograd.grad((rows.sum() + mean.sum()) * (1 + world.rank()), x)
        assert all((y == y[0]).all() for y in (mean, total[0], gradient))
        own = [rows[::n], *(y[:1].expand(3) for y in (mean, total[0], gradient))]
        told.append(world.gather(torch.stack(own)[None]).detach())
    return told


def test_sums_of_three_processes(tmp_path):
    wanted = torch.tensor([[1.0, 10, 100], [37] * 3, [111] * 3, [6 + 6 / 3] * 3], dtype=torch.float64)
    for every in by_two(sums, tmp_path, 3):
        assert_close(every, wanted.expand(3, -1, -1))


def kinds():
    few = [torch.full((3,), 1 + world.rank()).to(dtype) for dtype in (torch.int32, torch.bfloat16)]
    return [world.summed(x) for x in (*few, torch.zeros(0), torch.ones(2, 3).T)]


def test_a_sum_keeps_type_and_shape(tmp_path):
    integers, halves, none, across = by_two(kinds, tmp_path)
    assert integers.tolist() == halves.tolist() == [3, 3, 3] and none.shape == (0,) and across.tolist() == [[2, 2]] * 3
    assert (integers.dtype, halves.dtype) == (torch.int32, torch.bfloat16)


def one_valid():
    own = world.rows(2)
    return world.mean(losses.masked_mean(torch.tensor([3.0, 5.0])[own], torch.tensor([True, False])[own]))


def test_the_mean_of_one_entry_of_two_processes_is_that_entry(tmp_path):
    assert float(by_two(one_valid, tmp_path)) == 3
