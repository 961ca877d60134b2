"""Recomputed activations and batches in parts: the same numbers, fewer saved bytes."""

import copy

import core_checks
import pytest
import torch
from core_checks import learn, random, tiny, two_networks
from torch import nn
from torch.testing import assert_close

from semppl_mini.networks import ResNet, networks
from semppl_mini.parallel.memory import buffers_kept, in_parts, recomputed
from semppl_mini.recipes.resnets import bottleneck, sk_bottleneck


def test_parts_are_grad_caches_with_their_own_batch_norm():
    core_checks.check_memory("cpu")


def test_recomputed_blocks_change_nothing():
    """Loss, gradients and running statistics, for 3 steps of all the networks."""
    results = []
    for recompute in (False, True):
        parts = nn.Sequential(*networks(tiny(recompute=recompute), torch.Generator()).values()).double()
        steps = [learn(parts, random(16, 3, 16, 16, seed=step).double(), 1) for step in range(3)]
        results.append(copy.deepcopy(steps))
    assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("recompute", [False, True])
def test_parts_with_frozen_batch_norm_are_the_whole_batch(n, recompute):
    one, other = two_networks(recompute, training=False)
    x = random(12, 3, 12, 12).double()
    assert_close(learn(other, x, n), learn(one, x, 1), rtol=1e-10, atol=1e-13)


def saved_bytes(network, x, n=1):
    """Bytes that autograd keeps for the backward pass beside the parameters, each memory counted once."""
    kept, own = {}, {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(saved):
        memory = saved.untyped_storage()
        kept[memory.data_ptr()] = memory  # held, so that no other takes its place
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        z = in_parts(network, x, n)
    assert z.requires_grad
    return sum(memory.nbytes() for pointer, memory in kept.items() if pointer not in own)


def test_fewer_bytes_are_saved():
    x = random(16, 3, 32, 32)
    for kind in (dict(block=bottleneck), dict(block=sk_bottleneck)):
        plain = ResNet((2, 2), 16, **kind)
        blocks = ResNet((2, 2), 16, recompute=True, **kind)
        whole, by_block, by_part = saved_bytes(plain, x), saved_bytes(blocks, x), saved_bytes(plain, x, 4)
        stem = saved_bytes(plain.stem, x)
        inputs = 4 * 16 * (16 * 32**2 + 2 * 64 * 32**2 + 128 * 16**2)  # of the four blocks, float32
        assert by_block <= stem + inputs < whole / 3
        assert by_part == x.nbytes


class Counter(nn.Module):
    """Notes the rows it sees and the type it computes in."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.seen = nn.Linear(3, 2), nn.BatchNorm1d(2), []

    def forward(self, x):
        y = self.norm(self.linear(x))
        self.seen.append((len(x), y.dtype))
        return y.square()  # saves y: there is something to compute again after the last count


def test_each_part_is_computed_twice_in_the_autocast_of_the_first_time():
    network = Counter()
    with torch.autocast("cpu", torch.bfloat16):
        z = in_parts(network, random(12, 3), 3)
    assert network.seen == 3 * [(4, torch.bfloat16)]
    z.float().sum().backward()  # outside autocast, as in a training step
    assert network.seen == 6 * [(4, torch.bfloat16)]


def test_autocast_changes_no_gradient_by_parts_or_blocks():
    """bf16 by parts, with and without recomputed blocks, against bf16 by parts that keep their activations."""
    results, start = [], two_networks(False)[0].state_dict()
    for recompute in (None, False, True):
        network, x = two_networks(bool(recompute))[1].float(), random(12, 3, 12, 12)
        network.load_state_dict(start)
        with torch.autocast("cpu", torch.bfloat16):
            parts = x.chunk(3) if recompute is None else [x]
            z = torch.cat([in_parts(network, part, 3 // len(parts)) for part in parts])
        core_checks.whole_loss(z.float()).backward()
        results.append([z, *(p.grad for p in network.parameters()), *network.buffers()])
    for kept, *others in zip(*results, strict=True):
        assert all(torch.equal(kept, other) for other in others)


@pytest.mark.parametrize("B, rows", [(12, [4, 4, 4]), (11, [4, 4, 3]), (5, [3, 2]), (3, [3])])
def test_without_gradients_parts_are_computed_once_and_any_batch_will_do(B, rows):
    network = Counter()
    with torch.no_grad():
        z = in_parts(network, random(B, 3), 3)
    assert [seen for seen, _ in network.seen] == rows and z.shape == (B, 2)
    assert int(network.norm.num_batches_tracked) == len(rows)


@pytest.mark.parametrize("B, n", [(10, 3), (6, 4), (4, 4), (2, 5)])
def test_unequal_parts_and_parts_of_one_are_refused(B, n):
    with pytest.raises(ValueError, match=f"^microbatches = {n} does not part {B} images into equal parts of 2 or more"):
        in_parts(nn.Linear(3, 2), random(B, 3), n)


def test_one_part_is_the_network_itself():
    """No checkpoint, no copies: the bits of a run without parts."""
    network, x = Counter(), random(7, 3)
    in_parts(network, x, 1).sum().backward()
    assert len(network.seen) == 1


def test_buffers_come_back_whatever_happens():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = [(name, buffer, buffer.clone()) for name, buffer in network.named_buffers()]
    for error in (None, KeyError("x")):
        try:
            with buffers_kept(network):
                network(random(2, 3, 8, 8))
                assert int(network[1].num_batches_tracked) == 1
                if error:
                    raise error
        except KeyError:
            pass
        for name, buffer, value in before:
            assert network.get_buffer(name) is buffer and torch.equal(buffer, value)


def test_an_error_in_the_second_computation_leaves_the_statistics():
    class Breaks(Counter):
        def forward(self, x):
            if self.seen:
                self.norm(x[:, :2])
                raise KeyError("the second time")
            return super().forward(x)

    network = Breaks()
    z = recomputed(network, random(4, 3))
    before = {name: (buffer, buffer.clone()) for name, buffer in network.named_buffers()}
    with pytest.raises(KeyError, match="the second time"):
        z.sum().backward()
    for name, (buffer, value) in before.items():
        assert network.get_buffer(name) is buffer and torch.equal(buffer, value)


class Twice(nn.Module):
    """One batch norm under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm1d(4)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_a_norm_of_two_names_moves_its_statistics_once():
    kept = []
    for pass_ in (lambda network, x: network(x), recomputed):
        network, x = Twice(), random(8, 4)
        pass_(network, x.requires_grad_()).sum().backward()
        kept.append(network.state_dict())
    assert int(kept[0]["first.num_batches_tracked"]) == 2
    assert_close(*kept, rtol=0, atol=0)
