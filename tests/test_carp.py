"""CARP: partitions, losses, prototypes and whole steps against loops; who gets gradients; one process or two."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import array, differing, hidden_permuted, joint, random, step_inputs, tiny, tiny_data, units, weights
from test_ifnd import by_two, step_of
from torch.testing import assert_close

from semppl_mini import fit, load_run, monitor
from semppl_mini.lars import LARS, param_groups
from semppl_mini.method import Batch, encode
from semppl_mini.readout import fine_tune
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


def test_carp_draws_a_partition_anew_each_step():
    check_draws()


def test_carp_blocks_are_an_exact_partition_where_they_can_be():
    (blocks,) = carp.draw_step(config_of(prototypes=24), 3)
    assert sorted(blocks.flatten().tolist()) == list(range(24))


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


def test_carp_softmax_within_blocks_equals_a_loop(device):
    check_partition(device)


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


def test_carp_losses_equal_loops(device):
    check_losses(device)


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


def test_carp_losses_at_their_extremes(device):
    check_extremes(device)


def test_carp_losses_have_finite_gradients_at_their_extremes(device):
    """A softmax that underflows to 0, in the dot product and in the mean."""
    logits = torch.zeros(2, 4, 8, device=device)
    logits[..., 0], logits[1, :, 1] = 500, 1000
    logits.requires_grad_()
    p = carp.partition(logits, torch.arange(8, device=device)[None])
    (carp.consistency(p, p.detach()) + carp.entropy_gap(carp.mean_choice(p, p.detach()))).backward()
    assert logits.grad.isfinite().all()


def test_carp_one_block_is_the_loss_without_partition_whatever_the_order(device):
    s, t = 5 * units(3, 6, 16, seed=0).to(device), 5 * units(2, 6, 16, seed=1).to(device)
    p, q = s.softmax(-1)[:, :, None], t.softmax(-1)[:, :, None]
    wanted = carp.consistency(p, q), carp.entropy_gap(carp.mean_choice(p, q))
    for step in range(3):
        (blocks,) = carp.draw_step(config_of(prototypes=16, block=16), step)
        p, q = (carp.partition(x, blocks.to(device)) for x in (s, t))
        assert_close((carp.consistency(p, q), carp.entropy_gap(carp.mean_choice(p, q))), wanted)


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


def test_carp_step_equals_loops(device):
    check_step(device)


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


def test_carp_only_the_student_learns(device):
    check_gradients(device)


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


def test_carp_teacher_moves_before_the_step_by_the_ema():
    check_ema_before_step()


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


def test_carp_prototypes_are_unit_vectors(device):
    check_unit_prototypes(device)


def test_carp_starts_alike_and_as_its_seed_says():
    method = CARP(config_of(), 3)
    assert not differing(method.online.state_dict(), method.target.state_dict())
    online, target = ({p.data_ptr() for p in part.parameters()} for part in (method.online, method.target))
    assert not online & target
    torch.manual_seed(7)
    assert not differing(method.state_dict(), CARP(config_of(), 3).state_dict())
    assert "online.prototypes.weight" in differing(method.state_dict(), CARP(config_of(seed=1), 3).state_dict())
    assert [type(layer).__name__ for layer in method.online["projector"]] == [
        "Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]  # fmt: skip
    wide = carp.projector(64, 512, 256)
    assert abs(float(wide[3].weight.detach().std()) - 0.02) < 2e-4 and (wide[6].bias == 0).all()


def test_carp_softmax_and_losses_stay_in_float32_when_networks_do_not(device):
    """With networks that change nothing, bf16 changes nothing: embeddings here are exact in bfloat16."""
    results = []
    for precision in ("fp32", "bf16"):
        method = CARP(config_of(small_views=0, precision=precision), 3).to(device)
        for part in (method.online, method.target):
            part["encoder"] = part["projector"] = torch.nn.Identity()
        _, batch, draws = inputs(method.config, 0, device)
        x = [units(16, 8, seed=v).bfloat16().float().to(device) for v in range(2)]
        results.append(method(x, batch, draws)[0])
    assert results[0].dtype == torch.float32
    assert_close(*results, rtol=1e-6, atol=0)


def test_carp_float64_is_float64_throughout():
    method = CARP(config_of(precision="fp64"), 3).double()
    x, batch, draws = inputs(method.config, 0, torch.device("cpu"))
    loss, seen = method([v.double() for v in x], batch, draws)
    assert {loss.dtype, seen["o"].dtype, *(term.dtype for term in seen["terms"].values())} == {torch.float64}


# ---- what a run reports and keeps -----------------------------------------------------------------


def test_carp_monitor_counts_equal_a_loop(device):
    usage = (3 * random(26, seed=1)).softmax(0)
    chosen = (random(2, 16, seed=2) * 9).long()
    perplexity = math.exp(-sum(c * math.log(c) for c in usage.tolist()))
    wanted = {"prototype_usage": perplexity / 26, "prototypes_chosen": len(set(chosen.flatten().tolist())) / 26}
    counts = CARP.count(None, {"usage": usage.to(device), "chosen": chosen.to(device)}, None, None)
    assert monitor.shares([counts]) == pytest.approx(wanted, abs=1e-6)
    few = CARP.count(None, {"usage": one_hots(torch.tensor(3), 26), "chosen": torch.full((2, 2), 3)}, None, None)
    assert monitor.shares([few]) == pytest.approx({"prototype_usage": 1 / 26, "prototypes_chosen": 1 / 4})


def test_carp_hidden_labels_change_nothing_at_all():
    config = config_of(labels=20)
    runs = [fit(config, data, progress=False) for data in (tiny_data(), hidden_permuted(tiny_data()))]
    assert not differing(*map(weights, runs))
    assert {"loss", "L_c", "L_h", "embedding_std", "prototype_usage", "prototypes_chosen"} < set(runs[0].history[-1])


def test_carp_resumes_to_the_bit(tmp_path):
    config = config_of(labels=20)
    whole = fit(config, tiny_data(), tmp_path / "whole", progress=False, save_every=1, keep_last=100)
    (tmp_path / "part").mkdir()
    for name in ("log.jsonl", "checkpoint-%s.pt"):
        path = tmp_path / "whole" / name if "%" not in name else sorted((tmp_path / "whole").glob("checkpoint-*"))[3]
        (tmp_path / "part" / path.name).write_bytes(path.read_bytes())
    assert not differing(weights(whole), weights(fit(config, tiny_data(), tmp_path / "part", progress=False)))
    assert not differing(weights(whole), weights(load_run(tmp_path / "whole")))


def test_carp_is_read_out_from_the_teacher(tmp_path):
    """`encode`, encoder.pt, and what a classifier starts from; fine-tuning moves its weights, too."""
    config, data = config_of(labels=20), tiny_data()
    run = fit(config, data, tmp_path, progress=False)
    teacher, images = run.method.target["encoder"], data.test.images
    assert run.method.encoder is teacher
    assert differing(teacher.state_dict(), run.method.online["encoder"].state_dict())
    assert not differing(torch.load(tmp_path / "encoder.pt", weights_only=True), teacher.state_dict())
    assert torch.equal(run.method.encode(images), encode(teacher, images, config))
    linear = config.replace(method="linear", large_views=1, small_views=0)
    probe = fit(linear, data, weights=tmp_path, progress=False).method
    assert not differing(probe.encoder.state_dict(), teacher.state_dict())
    tuned = fine_tune(teacher, config, data, 2)[0]
    assert not set(dict(teacher.named_parameters())) - set(differing(teacher.state_dict(), tuned.state_dict()))


# ---- two processes --------------------------------------------------------------------------------


def carp_work():
    method = moved(CARP(config_of(precision="fp64"), 3))
    return step_of(method, *inputs(method.config, 0, torch.device("cpu")))


def test_carp_two_processes_are_one(tmp_path):
    for ours, wanted in zip(by_two(carp_work, tmp_path), carp_work(), strict=True):
        assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


# ---- config ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, words", [
    ({"block": 27}, "block = 27 must lie between 2 and prototypes = 26; change either"),
    ({"block": 1}, r"block = 1 lies outside \[2, 16777216\]"),
    ({"prototypes": 1}, r"prototypes = 1 lies outside \[2, 16777216\]"),
    ({"large_views": 1, "small_views": 0}, "method = 'carp' compares different views and there is 1"),
])  # fmt: skip
def test_carp_bad_config_stops_with_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        config_of(**changes)
