"""The method as a whole: the objective against loops, who gets gradients, and the corners of a step."""

import copy
import dataclasses

import core_checks
import pytest
import torch
import torch.nn.functional as F
from core_checks import array, random, step_inputs, tiny, units
from torch.testing import assert_close

from semppl_mini import SemPPL, losses
from semppl_mini.networks import networks
from semppl_mini.rng import INIT, generator


def test_objective_equals_loops_over_all_24_pairs(device):
    core_checks.check_objective(device)


def test_without_alpha_lambda_and_small_views_it_is_plain_infonce(device):
    config = tiny(large_views=2, small_views=0, batch_size=16, negatives=10, c=1.0, alpha=0.0, lam=0.0)
    method = SemPPL(config, 3).to(device)
    x, batch, draws = step_inputs(config, 3, 0, device)
    batch = batch._replace(ids=torch.arange(16, device=device))  # 16 different images
    twin = copy.deepcopy(method)
    o, t = [twin.predict(v) for v in x], [twin.project(v) for v in x]
    rows, wanted = torch.cat([torch.arange(16, device=device)[:, None], draws.negatives], 1), []
    for i in range(2):
        for j in range(2):
            eleven = (o[i] @ t[j].T / config.tau).gather(1, rows)
            wanted.append(F.cross_entropy(eleven, torch.zeros(16, dtype=torch.long, device=device)))
    assert_close(method(x, batch, draws)[0], torch.stack(wanted).mean())


# ---- labels


def test_labelled_rows_keep_their_label_and_the_others_take_the_vote(device):
    config = tiny()
    method = SemPPL(config, 4).to(device)
    for step in range(3):
        x, batch, draws = step_inputs(config, 4, step, device)
        _, seen = method(x, batch, draws)
    labelled = batch.labels >= 0
    assert torch.equal(seen["y_bar"][labelled], batch.labels[labelled])
    assert torch.equal(seen["y_bar"][~labelled], seen["voted"][~labelled])
    assert (seen["voted"] != batch.labels)[labelled].any() and labelled.any() and not labelled.all()


def test_oracle_labels_replace_the_votes(device):
    config = tiny()
    method = SemPPL(config, 4).to(device)
    x, batch, draws = step_inputs(config, 4, 0, device)
    truth = torch.where(batch.labels >= 0, batch.labels, (random(16, seed=9) * 4).long().to(device))
    _, seen = method(x, batch._replace(oracle=truth), draws)
    assert torch.equal(seen["y_bar"], truth) and not torch.equal(seen["voted"], truth)


def test_the_queue_takes_the_targets_of_labelled_images_only(device):
    config = tiny()
    method = SemPPL(config, 4).to(device)
    x, batch, draws = step_inputs(config, 4, 0, device)
    t = torch.stack([copy.deepcopy(method).project(v) for v in x[:2]])
    method(x, batch, draws)
    labelled = (batch.labels >= 0).nonzero().squeeze(1)
    n = int(method.queue.filled)
    assert torch.equal(method.queue.ids[:n], batch.ids[labelled])
    assert torch.equal(method.queue.labels[:n], batch.labels[labelled])
    assert_close(method.queue.keys[:, :n], t[:, labelled])
    assert_close(method.queue.keys[:, :n].norm(dim=-1), torch.ones(2, n, device=device))


def test_fewer_voting_views_make_fewer_votes(device):
    config = tiny(large_views=3, voting_views=2)
    method = SemPPL(config, 4).to(device)
    _, seen = method(*step_inputs(config, 4, 0, device))
    assert seen["votes"].shape == (16, 4)
    o, keys = units(3, 16, 8).to(device), method.queue.keys
    votes = core_checks.vote_loop(array(o[:2]), array(keys[:2]), array(method.queue.labels), 1)
    assert method.vote(o)[1].tolist() == votes[1].tolist()


def test_semantic_positives_carry_the_pseudo_label(device):
    config = tiny()
    method = SemPPL(config, 3).to(device)
    for step in range(2):
        _, seen = method(*step_inputs(config, 3, step, device))
    wanted = seen["y_bar"][:, None].expand(-1, 3)
    assert seen["valid"].any() and torch.equal(seen["z_labels"][seen["valid"]], wanted[seen["valid"]])


# ---- gradients


def test_only_the_online_network_learns(device):
    config = tiny()
    method = SemPPL(config, 3).to(device)
    before = {name: value.clone() for name, value in method.target.named_parameters()}
    loss, _ = method(*step_inputs(config, 3, 0, device))
    loss.backward()
    assert {name for name, p in method.named_parameters() if p.requires_grad} == {
        f"online.{name}" for name, _ in method.online.named_parameters()
    }
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.online.parameters())
    assert all(p.grad is None for p in method.target.parameters())
    assert all(torch.equal(before[name], p) for name, p in method.target.named_parameters())  # EMA comes later
    assert not any(buffer.requires_grad for buffer in method.buffers())


def test_the_target_starts_as_the_online_network_without_predictor():
    method = SemPPL(tiny(), 3)
    assert sorted(method.target) == ["encoder", "projector"]
    for name, value in method.target.state_dict().items():
        assert torch.equal(value, method.online.state_dict()[name])
    online, target = ({p.data_ptr() for p in part.parameters()} for part in (method.online, method.target))
    assert not online & target


@pytest.mark.parametrize("gamma, schedule, progress, rate", [
    (0.9, "constant", 0.5, 0.9),
    (1.0, "constant", 0.5, 1.0),
    (0.9, "cosine", 0.5, 0.95),
    (0.9, "cosine", 1.0, 1.0),
])  # fmt: skip
def test_after_step_moves_encoder_and_projector_by_the_ema(gamma, schedule, progress, rate):
    method = SemPPL(tiny(gamma=gamma, gamma_schedule=schedule), 3)
    with torch.no_grad():
        for p in method.online.parameters():
            p.add_(1)
    before = {name: array(p) for name, p in method.target.named_parameters()}
    method.before_step(progress)
    assert all((array(p) == before[name]).all() for name, p in method.target.named_parameters())
    method.after_step(progress)
    for name, p in method.target.named_parameters():
        assert array(p) == pytest.approx(before[name] + (1 - rate), abs=1e-6)


# ---- corners


@pytest.mark.parametrize("labelled, classes, queue", [
    (0, 3, 24),  # no labels
    (1, 3, 24),  # nothing but labels
    (0.5, 2, 24),  # two classes
    (0.5, 3, 1),  # a queue of one
    (1, 3, 5),  # more labelled rows than the queue takes
])  # fmt: skip
def test_no_nan_in_any_corner(labelled, classes, queue, device):
    config = tiny(queue=queue)
    method = SemPPL(config, classes).to(device)
    for step in range(2):
        method.zero_grad()
        loss, seen = method(*step_inputs(config, classes, step, device, labelled=labelled))
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in method.online.parameters())
    if labelled == 0:
        assert (seen["y_bar"] == -1).all() and (seen["votes"] == -1).all() and not seen["valid"].any()
        assert float(seen["terms"]["L_sempos"].detach()) == float(seen["terms"]["I_sempos"].detach()) == 0
    if classes == 1:
        assert (seen["y_bar"] == 0).all()


def test_no_labelled_row_in_a_batch_still_draws_from_the_queue(device):
    config = tiny()
    method = SemPPL(config, 3).to(device)
    method(*step_inputs(config, 3, 0, device))
    _, seen = method(*step_inputs(config, 3, 1, device, labelled=0))
    assert seen["valid"].any() and float(seen["terms"]["L_sempos"].detach()) > 0


def test_one_large_view(device):
    config = tiny(large_views=1, small_views=0)
    loss, seen = SemPPL(config, 3).to(device)(*step_inputs(config, 3, 0, device))
    assert loss.isfinite() and seen["votes"].shape == (16, 1) and float(seen["terms"]["I_augm"].detach()) == 0


def test_augmentation_only_drops_both_semantic_terms(device):
    config = tiny(semantic_positives=0)
    loss, seen = SemPPL(config, 3).to(device)(*step_inputs(config, 3, 0, device))
    assert set(seen["terms"]) == {"L_augm", "I_augm"}
    assert_close(loss, 0.3 * seen["terms"]["L_augm"] + 5 * seen["terms"]["I_augm"])


# ---- precision


def test_networks_run_in_bfloat16_where_asked(device):
    method, dtypes = SemPPL(tiny(precision="bf16"), 3).to(device), []
    method.encoder.stem[0].register_forward_hook(lambda module, given, out: dtypes.append(out.dtype))
    o = method.predict(units(4, 3, 16, 16).to(device))
    assert dtypes == [torch.bfloat16] and o.dtype == torch.float32


def test_votes_and_losses_stay_in_float32_when_networks_do_not(device):
    """With networks that change nothing, bf16 changes nothing: embeddings here are exact in bfloat16."""
    results = []
    for precision in ("fp32", "bf16"):
        method = SemPPL(tiny(small_views=0, precision=precision), 3).to(device)
        for part in ("online", "target"):
            identity = {name: torch.nn.Identity() for name in getattr(method, part)}
            setattr(method, part, torch.nn.ModuleDict(identity))
        _, batch, draws = step_inputs(method.config, 3, 0, device)
        x = [units(16, 8, seed=v).bfloat16().float().to(device) for v in range(2)]
        results.append(method(x, batch, draws))
    (loss, seen), (loss16, seen16) = results
    assert torch.equal(seen["votes"], seen16["votes"])
    assert_close(loss16, loss, rtol=1e-6, atol=0)


def test_float64_is_float64_throughout():
    config = tiny(precision="fp64")
    method = SemPPL(config, 3).double()
    x, batch, draws = step_inputs(config, 3, 0, torch.device("cpu"))
    loss, seen = method([v.double() for v in x], batch, draws)
    assert {loss.dtype, *(term.dtype for term in seen["terms"].values())} == {torch.float64}
    norms = method.queue.keys[:, : int(method.queue.filled)].norm(dim=-1)
    assert_close(norms, torch.ones_like(norms), rtol=1e-14, atol=0)


# ---- encode


def test_encode_is_frozen_and_whole_and_restores_the_mode(device):
    method = SemPPL(tiny(), 3).to(device)
    images = (random(7, 3, 16, 16) * 255).byte()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    for mode in (True, False):
        method.train(mode)
        features = method.encode(images)
        assert method.encoder.training == mode
    assert features.shape == (7, method.encoder.dim) and features.device.type == "cpu"
    assert not features.requires_grad
    assert all(torch.equal(value, method.state_dict()[name]) for name, value in state.items())
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (method.config.mean, method.config.std))
    wanted = method.encoder.eval()(((images / 255 - mean) / std).to(device))
    assert_close(features, wanted.detach().cpu(), rtol=1e-4, atol=1e-5)


def test_encode_does_not_depend_on_chunks_or_on_uint8(device):
    method = SemPPL(tiny(), 3).to(device)
    images = (random(7, 3, 16, 16) * 255).byte()
    for other in (method.encode(images, batch=3), method.encode(images / 255, batch=500)):
        assert_close(other, method.encode(images), rtol=1e-4, atol=1e-5)


def test_same_seed_same_networks_whatever_came_before():
    one = networks(tiny(), generator(0, 0, INIT)).state_dict()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    other = networks(tiny(), generator(0, 0, INIT)).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(state, torch.get_rng_state())  # and drawing them leaves the global generator alone
    third = networks(tiny(), generator(1, 0, INIT)).state_dict()
    assert not torch.equal(one["encoder.stem.0.weight"], third["encoder.stem.0.weight"])


def test_negatives_are_shared_by_all_pairs(device, monkeypatch):
    """p_ij and p_ji speak of the same images: one call of `logits`, with the step's negatives, serves all pairs."""
    given, right = [], losses.logits
    monkeypatch.setattr(losses, "logits", lambda *args: given.append(args) or right(*args))
    config = tiny()
    x, batch, draws = step_inputs(config, 3, 0, device)
    SemPPL(config, 3).to(device)(x, batch, draws)
    assert len(given) == 1 and torch.equal(given[0][2], draws.negatives)
    assert dataclasses.asdict(config)["negatives"] == draws.negatives.shape[1]
