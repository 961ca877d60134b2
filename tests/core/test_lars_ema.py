"""LARS, Muon, the EMA of the target, and the schedules of learning rate and gamma."""

import copy
import math

import core_checks
import pytest
import torch
from core_checks import tiny, units
from torch.testing import assert_close

from semppl_mini import lars, muon, optim, presets
from semppl_mini.networks import mlp

# ---- LARS


def test_lars_equals_a_loop(device):
    core_checks.check_lars(device)


def stepped(module, settings, gradients):
    """Parameters of a copy of a module after a LARS step for each list of gradients."""
    twin = mlp(5, 4, 3)
    twin.load_state_dict(module.state_dict())
    optimizer = lars.LARS(lars.param_groups(twin), **settings)
    for step in gradients:
        for p, g in zip(twin.parameters(), step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return dict(twin.named_parameters())


def test_excluded_parameters_know_neither_decay_nor_eta():
    module = mlp(5, 4, 3)
    gradients = [[units(*p.shape, seed=s) for p in module.parameters()] for s in range(3)]
    one = stepped(module, dict(lr=0.1, momentum=0.9, weight_decay=0.0, eta=1.0), gradients)
    two = stepped(module, dict(lr=0.1, momentum=0.9, weight_decay=0.5, eta=0.01), gradients)
    unaffected = {name for name in one if torch.equal(one[name], two[name])}
    assert unaffected == {"0.bias", "1.weight", "1.bias"}  # bias and batch norm
    sgd = mlp(5, 4, 3)
    sgd.load_state_dict(module.state_dict())
    optimizer = torch.optim.SGD(sgd.parameters(), lr=0.1, momentum=0.9)
    for step in gradients:
        for p, g in zip(sgd.parameters(), step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    for name in unaffected:
        assert_close(one[name], sgd.get_parameter(name))


def test_param_groups_hold_every_trainable_parameter_once():
    module = mlp(5, 4, 3)
    module[3].weight.requires_grad_(False)
    adapted, excluded = lars.param_groups(module)
    assert [p.shape for p in adapted["params"]] == [(4, 5)] and not adapted["exclude"]
    assert len(excluded["params"]) == 3 and excluded["exclude"]


def test_lars_equals_another_library():
    """timm adds the norms of gradient and decay instead of taking that of their sum: equal for a small decay."""
    timm = pytest.importorskip("timm.optim.lars", reason="the benchmarks extra is not installed")
    ours, theirs = mlp(5, 4, 3), mlp(5, 4, 3)
    theirs.load_state_dict(ours.state_dict())
    weights = [[m[0].weight, m[3].weight] for m in (ours, theirs)]
    optimizers = [
        lars.LARS(weights[0], lr=0.5, momentum=0.9, weight_decay=1e-6, eta=0.02),
        timm.Lars(weights[1], lr=0.5, momentum=0.9, weight_decay=1e-6, trust_coeff=0.02),
    ]
    for step in range(6):
        for params, optimizer in zip(weights, optimizers, strict=True):
            for p in params:
                p.grad = units(*p.shape, seed=step)
            optimizer.step()
    assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_lars_runs_its_closure_and_skips_parameters_without_gradient():
    w, unused = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = lars.LARS([w, unused], lr=0.1, momentum=0.0, weight_decay=0.0, eta=1.0)

    def closure():
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4
    assert_close(w.detach(), torch.full((2, 2), 0.9))  # u = 2 w, scaled to |w|
    assert torch.equal(unused, torch.ones(2, 2))


def test_lars_resumes_from_its_state_dict():
    def run(steps, state=None):
        w = torch.nn.Parameter(units(3, 4) if state is None else state[0].clone())
        optimizer = lars.LARS([w], lr=0.3, momentum=0.9, weight_decay=0.01, eta=0.1)
        if state:
            optimizer.load_state_dict(state[1])
        for step in steps:
            w.grad = units(3, 4, seed=step)
            optimizer.step()
        return w.detach(), optimizer.state_dict()

    assert torch.equal(run(range(4))[0], run(range(2, 4), run(range(2)))[0])


def test_all_weights_at_once_move_as_one_after_the_other(monkeypatch):
    """To the bit: how an accelerator updates them, and a CPU."""
    torch.manual_seed(0)
    module, settings = mlp(5, 4, 3), dict(lr=0.1, momentum=0.9, weight_decay=0.01, eta=0.1)
    gradients = [[units(*p.shape, seed=step) for p in module.parameters()] for step in range(3)]
    one = stepped(module, settings, gradients)
    monkeypatch.setattr(lars.parallel, "far", lambda device: True)
    other = stepped(module, settings, gradients)
    assert not torch.equal(one["0.weight"], module[0].weight)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "eta"])
def test_negative_settings_of_lars(name):
    with pytest.raises(ValueError, match=f"{name} = -0.1 is negative"):
        lars.LARS([torch.nn.Parameter(torch.ones(1))], **{"lr": 0.1, name: -0.1})


# ---- Muon


def test_muon_equals_singular_values_and_adamw(device):
    core_checks.check_muon(device)


def test_muon_in_bfloat16_is_near():
    u = units(32, 90)
    assert_close(muon.orthogonal(u, bf16=True), muon.orthogonal(u), rtol=0, atol=0.02)
    s = torch.linalg.svdvals(muon.orthogonal(u))
    assert 0.68 < s.min() and s.max() < 1.21


def test_muon_holds_the_norm_of_a_convolution():
    w = torch.nn.Parameter(5 * units(8, 4, 3, 3))
    optimizer = muon.Muon([w], lr=0.0)
    w.grad = units(8, 4, 3, 3, seed=1)
    optimizer.step()
    assert_close(w.detach().norm(), torch.tensor(8.0).sqrt())
    assert_close(w.detach() / w.detach().norm(), units(8, 4, 3, 3) / units(8, 4, 3, 3).norm())


def test_muon_takes_a_convolution_of_zeros_and_can_be_copied():
    w = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    w.grad = units(8, 4, 3, 3)
    w, optimizer = copy.deepcopy((w, muon.Muon([w], lr=0.01, mu=0.3)))
    w.grad = units(8, 4, 3, 3)
    optimizer.step()
    assert w.isfinite().all() and w.abs().max() > 0 and optimizer.defaults["mu"] == 0.3


@pytest.mark.parametrize("wrong", [{"mu": -0.1}, {"mu": 1.0}, {"mu": math.nan}, {"scale": 0.0}, {"scale": math.inf}])
def test_muon_refuses(wrong):
    with pytest.raises(ValueError, match="^Muon: mu = .*; give mu from 0 to less than 1 and a positive scale.$"):
        muon.Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1, **wrong)


def test_muon_resumes_from_its_state_dict():
    """Three steps, or two, a new optimizer with the state of the first, and one more: the same bits."""
    gradients = [[units(8, 4, 3, 3, seed=i), units(5, 6, seed=i)] for i in range(3)]

    def train(cut):
        parameters = [torch.nn.Parameter(units(8, 4, 3, 3)), torch.nn.Parameter(units(5, 6))]
        optimizer = muon.Muon(parameters, lr=0.01)
        for i, step in enumerate(gradients):
            if i == cut:
                state, optimizer = optimizer.state_dict(), muon.Muon(parameters, lr=0.5)
                optimizer.load_state_dict(state)
            for w, g in zip(parameters, step, strict=True):
                w.grad = g.clone()
            optimizer.step()
        return parameters

    assert all(map(torch.equal, train(None), train(2)))


# ---- EMA


def test_ema_equals_its_formula(device):
    core_checks.check_ema(device)


def test_gamma_one_freezes_the_target(device):
    target, online = mlp(3, 4, 2).to(device), mlp(3, 4, 2).to(device)
    before = [p.clone() for p in target.parameters()]
    optim.ema_update(target, online, 1.0)
    assert all(torch.equal(*pair) for pair in zip(before, target.parameters(), strict=True))


def test_the_online_network_does_not_move(device):
    target, online = mlp(3, 4, 2).to(device), mlp(3, 4, 2).to(device)
    before = [p.clone() for p in online.parameters()]
    optim.ema_update(target, online, 0.5)
    assert all(torch.equal(*pair) for pair in zip(before, online.parameters(), strict=True))


def test_the_target_moves_after_the_step_and_towards_its_result(device):
    core_checks.check_target_follows_step(device)


def test_gamma_schedule():
    assert [optim.gamma_at(0.99, "constant", p) for p in (0, 0.3, 1)] == [0.99] * 3
    assert [optim.gamma_at(0.99, "cosine", p) for p in (0, 0.5, 1)] == pytest.approx([0.99, 0.995, 1.0])


# ---- learning rate


def test_learning_rate_warms_up_and_anneals():
    core_checks.check_schedule()


def test_no_warm_up_starts_at_the_peak():
    config = tiny(epochs=4, warmup_epochs=0, lr=0.3, batch_size=256)
    assert [optim.lr_at(config, epoch) for epoch in (0, 2, 4)] == pytest.approx([0.3, 0.15, 0.0])


def test_rate_of_carp_ends_at_its_minimum():
    """utils.cosine_scheduler of CARP's official code: m + (base - m) (1 + cos) / 2, m not scaled with the batch."""
    config = presets.imagenet_carp()
    base, low = 0.45 * 4096 / 256, 0.0048
    for epoch in (0, 100, 399.9, 400):
        share = (1 + math.cos(math.pi * epoch / 400)) / 2
        assert optim.lr_at(config, epoch) == pytest.approx(low + (base - low) * share)
    assert optim.lr_at(config, 400) == low


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw", "muon"])
def test_every_optimizer_spares_biases_and_batch_norm_from_decay(optimizer):
    """With zero gradients, decay alone moves weights; biases and batch norm stay."""
    module = mlp(5, 4, 3)
    torch.nn.init.ones_(module[0].bias)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    built = optim.make_optimizer(tiny(optimizer=optimizer, weight_decay=0.1), module)
    for group in built.param_groups:
        group["lr"] = 0.5
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    built.step()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0.weight", "3.weight"}


# ---- what a config asks for


def test_a_run_shorter_than_its_warm_up_reaches_the_peak():
    config = tiny(epochs=2, warmup_epochs=10, lr=0.3, batch_size=256)
    assert [optim.lr_at(config, epoch) for epoch in (0, 1, 2)] == pytest.approx([0, 0.15, 0.3])


@pytest.mark.parametrize("optimizer, wanted", [
    ("lars", {"momentum": 0.8, "eta": 0.02}), ("sgd", {"momentum": 0.8, "nesterov": True}),
    ("adamw", {"betas": (0.8, 0.99)}), ("muon", {"betas": (0.8, 0.99)}),
])  # fmt: skip
def test_every_optimizer_has_the_settings_of_the_config(optimizer, wanted):
    built = optim.make_optimizer(tiny(optimizer=optimizer, momentum=0.8, eta=0.02), mlp(5, 4, 3))
    assert [{name: group[name] for name in wanted} for group in built.param_groups] == [wanted] * 2


def test_muon_leaves_gradients_as_they_were():
    w = torch.nn.Parameter(units(8, 4, 3, 3))
    w.grad = units(8, 4, 3, 3, seed=1)
    muon.Muon([w], lr=0.01).step()
    assert torch.equal(w.grad, units(8, 4, 3, 3, seed=1))
