"""CARP: partitions, losses, prototypes and whole steps against loops; who gets gradients; one process or two."""

import json
import math

import carp_checks
import pytest
import torch
from carp_checks import config_of, inputs, moved, one_hots
from core_checks import differing, hidden_permuted, random, tiny_data, units, weights
from processes import by_two, step_of
from torch.testing import assert_close

from semppl_mini import fit, load_run, monitor
from semppl_mini.keeping import class_of
from semppl_mini.method import encode
from semppl_mini.readout import fine_tune
from semppl_mini.relatives import carp
from semppl_mini.relatives.carp import CARP

# ---- the partition --------------------------------------------------------------------------------


def test_carp_draws_a_partition_anew_each_step():
    carp_checks.check_draws()


def test_carp_blocks_are_an_exact_partition_where_they_can_be():
    (blocks,) = carp.draw_step(config_of(prototypes=24), 3)
    assert sorted(blocks.flatten().tolist()) == list(range(24))


def test_carp_softmax_within_blocks_equals_a_loop(device):
    carp_checks.check_partition(device)


# ---- the losses -----------------------------------------------------------------------------------


def test_carp_losses_equal_loops(device):
    carp_checks.check_losses(device)


def test_carp_losses_at_their_extremes(device):
    carp_checks.check_extremes(device)


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


def test_carp_step_equals_loops(device):
    carp_checks.check_step(device)


def test_carp_only_the_student_learns(device):
    carp_checks.check_gradients(device)


def test_carp_teacher_moves_before_the_step_by_the_ema():
    carp_checks.check_ema_before_step()


def test_carp_prototypes_are_unit_vectors(device):
    carp_checks.check_unit_prototypes(device)


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


@pytest.mark.parametrize("used, loss, epoch, words", [
    (3 / 256, 1.0, 1, "collapse of prototypes in epoch 1: a step chooses 1.2% of those it could"),
    (0.5, 2.75, 2, "after the last epoch loss = 2.750, and of even choices, log(block), it is 2.773"),
    (0.5, 2.75, 1, ""),  # an epoch is left
    (0.5, 2.3, 2, ""),
    (0.06, 2.3, 1, ""),
    (0.04, 1.0, 1, "collapse of prototypes in epoch 1: a step chooses 4.0% of those it could"),
    (0.5, 2.6, 2, ""),
])  # fmt: skip
def test_carp_warns_of_few_prototypes_and_of_nothing_learned(used, loss, epoch, words):
    method = CARP(config_of(prototypes=1024, block=16, epochs=2), 3)
    doubt = method.doubt({"epoch": epoch, "loss": loss, "prototypes_chosen": used})
    assert doubt.partition(";")[0] == words and bool(doubt) == doubt.endswith(".")


def test_carp_that_learns_nothing_says_so_in_its_log(tmp_path):
    with pytest.warns(UserWarning, match=r"after the last epoch loss = .* it is 2.079; nothing is learned: try more"):
        fit(config_of(labels=20, lr=0.0), tiny_data(), tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["warning"][:20] for line in lines if "warning" in line] == ["after the last epoch"]


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
        config = config_of(**changes)
        class_of(config)(config, 3, 40)


def test_carp_encoder_and_head_are_drawn_from_streams_of_their_own():
    config = config_of()
    torch.manual_seed(carp.generator(config.seed, 1, carp.INIT).initial_seed())
    method = CARP(config, 3)
    g = carp.projector(method.encoder.dim, config.projector_hidden, config.embedding_dim)
    assert torch.equal(method.online["projector"][0].weight, g[0].weight)


def test_carp_prototypes_start_as_they_should():
    weight = carp.Prototypes(16, 1000).weight.detach()
    assert weight.abs().max() <= 0.25 and abs(float(weight.std()) - 0.25 / 3**0.5) < 0.005
