"""CARP against slow, independent computations: the inputs, the loops, and each check of a piece.

Each `check_*` raises AssertionError. The test of a piece runs it; test_planted.py runs it again on wrong versions.
"""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_checks import array, joint, step_inputs, tiny, units
from torch.testing import assert_close

from semppl_mini.lars import LARS, param_groups
from semppl_mini.method import Batch
from semppl_mini.relatives import carp
from semppl_mini.relatives.carp import CARP, Draws

EPS = float(np.finfo(np.float32).eps)


def config_of(**changes):
    return tiny(**{"method": "carp", "prototypes": 26, "block": 8, "labels": None, **changes})


def inputs(config, seed, device):
    x, batch, _ = step_inputs(config, 3, seed, device)
    draws = Draws(carp.draw_step(config, seed).blocks.to(device))
    return x, Batch(torch.full_like(batch.labels, -1), batch.ids), draws


# ---- the partition --------------------------------------------------------------------------------


def check_draws(device=None):
    """N_P N_B different prototypes; over the steps each sits out and each pair meets; seeds differ."""
    config, sat_out, met = config_of(), set(), set()
    for step in range(200):
        (blocks,) = carp.draw_step(config, step)
        assert blocks.shape == (3, 8) and len(set(blocks.flatten().tolist())) == 24
        assert blocks.min() >= 0 and blocks.max() < 26
        sat_out |= set(range(26)) - set(blocks.flatten().tolist())
        met |= {pair for block in blocks.tolist() for pair in itertools.permutations(block, 2)}
        assert torch.equal(blocks, carp.draw_step(config, step).blocks)
    assert len(sat_out) == 26 and len(met) == 26 * 25
    assert not torch.equal(carp.draw_step(config, 0).blocks, carp.draw_step(config.replace(seed=1), 0).blocks)


def softmax_loop(row, blocks):
    """Logits (K,) of one image -> probabilities within each block, (N_P, N_B)."""
    e = np.exp(row - row.max())
    return np.array([[e[c] / sum(e[k] for k in block) for c in block] for block in blocks])


def check_partition(device):
    logits = 5 * units(3, 6, 26)
    (blocks,) = carp.draw_step(config_of(), 0)
    p = carp.partition(logits.to(device), blocks.to(device))
    assert p.shape == (3, 6, 3, 8)
    for v, b in itertools.product(range(3), range(6)):
        np.testing.assert_allclose(array(p[v, b]), softmax_loop(array(logits[v, b]), blocks.tolist()), atol=1e-6)
    assert_close(p.sum(-1), torch.ones(3, 6, 3, device=device))


# ---- the losses -----------------------------------------------------------------------------------


def consistency_loop(p, q, eps=EPS):
    each = []
    for v, u in itertools.product(range(len(p)), range(len(q))):
        if v != u:
            for b, block in np.ndindex(p.shape[1:3]):
                dot = sum(p[v, b, block, c] * q[u, b, block, c] for c in range(p.shape[3]))
                each.append(-math.log(min(max(dot, eps), 1 - eps)))
    return np.mean(each)


def entropy_loop(p, q, eps=EPS):
    """log N_B minus the entropy of the mean choice, block by block; every view of either network is a vote."""
    gaps, rows = [], [row for part in (p, q) for view in part for row in view]
    for block in range(p.shape[2]):
        mean = sum(row[block] for row in rows) / len(rows)
        gaps.append(math.log(p.shape[3]) + sum(c * math.log(min(max(c, eps), 1 - eps)) for c in mean))
    return np.mean(gaps)


def probabilities(views, seed, sharp=4.0):
    return (sharp * units(views, 5, 3, 8, seed=seed)).softmax(-1)


def check_losses(device):
    for views, sharp in itertools.product((2, 4), (0.1, 4, 60)):
        p, q = probabilities(views, 0, sharp), probabilities(2, 1, sharp)
        given = array(p), array(q)
        L_c = carp.consistency(p.to(device), q.to(device))
        L_h = carp.entropy_gap(carp.mean_choice(p.to(device), q.to(device)))
        assert abs(float(L_c) - consistency_loop(*given)) < 1e-4
        assert abs(float(L_h) - entropy_loop(*given)) < 1e-5
        assert 0 <= float(L_c) <= -math.log(EPS) and -1e-6 < float(L_h) < math.log(8)


def one_hots(choice, classes=8):
    return F.one_hot(choice, classes).float()


def check_extremes(device):
    """Uniform: L_c = log N_B, L_h = 0. All the same one-hot: 0 and log N_B. Opposite one-hots: L_c = -log eps."""
    uniform = torch.full((2, 5, 3, 8), 1 / 8, device=device)
    same = one_hots(torch.full((2, 5, 3), 6, device=device))
    other = one_hots(torch.full((2, 5, 3), 1, device=device))
    spread = one_hots(torch.arange(8, device=device)[None, :, None].expand(2, -1, 3))  # eight images, each its own
    for p, q, L_c, L_h in ((uniform, uniform, math.log(8), 0), (same, same, 0, math.log(8)),
                           (same, other, -math.log(EPS), math.log(4)), (spread, spread, 0, 0)):  # fmt: skip
        assert abs(float(carp.consistency(p, q)) - L_c) < 1e-5
        assert abs(float(carp.entropy_gap(carp.mean_choice(p, q))) - L_h) < 1e-5


# ---- whole steps ----------------------------------------------------------------------------------


def forward_loop(networks, views):
    """Logits of views as NumPy, (views, B, K): projections of the network on unit prototypes."""
    z = array(joint(networks, views))
    rows = array(networks["prototypes"].weight)
    return z @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T


def moved(method):
    """The method with a teacher that is not the student."""
    with torch.no_grad():
        for i, p in enumerate(method.target.parameters()):
            p.add_(0.1 * units(*p.shape, seed=i).to(p.device) if p.dim() > 1 else 0)
        for part in (method.online, method.target):
            part["projector"][-1].weight.mul_(100)  # choices that are not near uniform
    return method


def check_step(device):
    """CARP.forward on 2 + 2 views against loops."""
    config = config_of(small_views=2)
    for step in range(3):
        method = moved(CARP(config, 3).to(device))
        x, batch, draws = inputs(config, step, device)
        twin, blocks = copy.deepcopy(method), draws.blocks.tolist()
        s, t = forward_loop(twin.online, x), forward_loop(twin.target, x[:2])
        p, q = (np.array([[softmax_loop(row, blocks) for row in view] for view in logits]) for logits in (s, t))
        loss, seen = method(x, batch, draws)
        terms = {name: float(value.detach()) for name, value in seen["terms"].items()}
        assert terms == pytest.approx({"L_c": consistency_loop(p, q), "L_h": entropy_loop(p, q)}, rel=1e-3, abs=1e-4)
        assert abs(float(loss.detach()) - sum(terms.values())) < 1e-5
        assert terms["L_h"] > 0.01 and abs(terms["L_c"] - math.log(8)) > 0.1
        assert seen["chosen"].tolist() == np.argmax(t, -1).tolist() and seen["o"].shape == (4, 16, 8)


def check_gradients(device):
    """All of the student learns but only it: the teacher has no gradient, and counts as a constant."""
    method = CARP(config_of(), 3).to(device)
    x, batch, draws = inputs(method.config, 0, device)
    before = {name: value.clone() for name, value in method.target.named_parameters()}
    loss, seen = method(x, batch, draws)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.online.parameters())
    assert sum(float(p.grad.abs().sum()) for p in method.online.parameters()) > 0
    for name, p in method.target.named_parameters():
        assert p.grad is None and torch.equal(before[name], p), name
    assert not any(seen[name].requires_grad for name in ("o", "usage", "chosen"))


def check_ema_before_step(device=None):
    """The teacher, prototypes too, takes the weights from before the optimizer's step; gamma rises by a cosine."""
    method = CARP(config_of(gamma=0.9, gamma_schedule="cosine"), 3)
    for progress, gamma in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        old = {name: array(p) for name, p in method.target.named_parameters()}
        with torch.no_grad():
            for p in method.online.parameters():
                p.add_(1)
        theta = {name: array(p) for name, p in method.online.named_parameters()}
        method.before_step(progress)
        with torch.no_grad():
            for p in method.online.parameters():
                p.add_(5)  # the optimizer's step
        method.after_step(progress)
        for name, xi in method.target.named_parameters():
            np.testing.assert_allclose(array(xi), gamma * old[name] + (1 - gamma) * theta[name], atol=1e-5)


def check_unit_prototypes(device):
    """Rows of student and teacher are unit vectors from the start and after steps of their weights."""
    method = CARP(config_of(), 3).to(device)
    optimizer = LARS(param_groups(method.online), lr=5.0, eta=0.1)
    for step in range(3):
        for part in (method.online, method.target):
            z = units(26, 8, seed=1).to(device)
            assert_close(part["prototypes"](z), z @ F.normalize(part["prototypes"].weight, dim=1).T)
            assert_close(part["prototypes"].rows.norm(dim=1), torch.ones(26, device=device))
        start = method.online["prototypes"].weight.detach().clone()
        method.before_step(0.5)
        optimizer.zero_grad()
        method(*inputs(method.config, step, device))[0].backward()
        optimizer.step()
        assert not torch.equal(start, method.online["prototypes"].weight)
