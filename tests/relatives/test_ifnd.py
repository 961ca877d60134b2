"""IFND: losses, pseudo-labels, queue and whole steps against loops; who gets gradients; one process or two."""

import contextlib
import copy
import dataclasses
import itertools
from unittest.mock import patch

import ifnd_checks
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from core_checks import array, differing, hidden_permuted, joint, random, tiny, tiny_data, units, weights
from ifnd_checks import compared, config_of, inputs, labelled, pieces
from processes import by_two, step_of
from torch.testing import assert_close

from semppl_mini import fit, load_run, monitor, parallel
from semppl_mini.files import checkpoint
from semppl_mini.keeping import class_of
from semppl_mini.method import Draws
from semppl_mini.parallel import world
from semppl_mini.relatives import ifnd
from semppl_mini.relatives.ifnd import IFND

# ---- the losses -----------------------------------------------------------------------------------


def test_ifnd_losses_equal_loops(device):
    ifnd_checks.check_losses(device)


def test_ifnd_elimination_is_never_above_infonce_and_attraction_without_pairs_is_infonce(device):
    q, key, candidates, ids, candidate_ids, y, y_c = (x.to(device) for x in pieces())
    given, none = (q, key, candidates, ids, candidate_ids), torch.full_like(y, -1)
    plain = compared([*given, none, y_c], 0.2, "eliminate")
    found = compared([*given, y, y_c], 0.2, "eliminate")
    assert (found <= plain + 1e-6).all() and (found < plain - 1e-3).any()
    assert_close(compared([*given, none, y_c], 0.2, "attract"), plain)


def test_ifnd_equal_levels_are_one_level(device):
    for kind in ("eliminate", "attract"):
        *given, y, y_c = (x.to(device) for x in pieces())
        one, three = (compared([*given, y[:1].repeat(m, 1), y_c[:1].repeat(m, 1)], 0.2, kind) for m in (1, 3))
        assert_close(one.mean(), three.mean())


def test_ifnd_mask_is_symmetric_with_empty_diagonal_and_minds_both_sides(device):
    ids = torch.arange(9, device=device)
    y = ((random(2, 9) * 3).long() - 1).to(device)
    fn = ifnd.false_negatives(y, y, ids == ids[:, None])
    assert torch.equal(fn, fn.mT) and not fn.diagonal(dim1=1, dim2=2).any() and fn.any()
    assert not fn[(y < 0)[:, None].expand_as(fn)].any() and not fn[(y < 0)[:, :, None].expand_as(fn)].any()


# ---- pseudo-labels --------------------------------------------------------------------------------


def test_ifnd_confidence_equals_a_loop(device):
    ifnd_checks.check_confidence(device)


def test_ifnd_acceptance_equals_a_loop(device):
    ifnd_checks.check_acceptance(device)


def test_ifnd_acceptance_grows_linearly_from_the_first_epoch_to_the_last():
    ifnd_checks.check_acceptance_schedule()


def test_ifnd_k_means_finds_groups_and_repeats_itself():
    centres = torch.eye(4)[:3]
    v = F.normalize(centres.repeat(20, 1) + 0.05 * units(60, 4), dim=1)
    found = ifnd.cluster(v, 3, seed=5)
    assert torch.equal(found, ifnd.cluster(v, 3, seed=5))
    assert_close(found.norm(dim=1), torch.ones(3))
    y, kappa = ifnd.confidence(v, found, 0.2, 256)
    assert y.view(20, 3).eq(y[:3]).all() and y[:3].unique().numel() == 3 and (kappa > 0.9).all()


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_ifnd_k_means_with_fewer_points_than_clusters_has_no_nan():
    v = units(2, 4).repeat(10, 1)
    y, kappa = ifnd.confidence(v, ifnd.cluster(v, 5, seed=0), 0.2, 256)
    assert kappa.isfinite().all() and set(y[::2].tolist()).isdisjoint(y[1::2].tolist())


class Embedder:
    """embed() for before_epoch: keys of the images with odd ids, and how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return units(20, 8, seed=self.calls), torch.arange(1, 40, 2)


def test_ifnd_clusters_every_e_epochs_and_accepts_more_every_epoch():
    method, embed, asked, accepted = IFND(config_of(recluster=3), 10, 40), Embedder(), [], []
    for epoch in range(10):
        method.before_epoch(epoch, 10, embed)
        asked.append(embed.calls)
        accepted.append(method.pseudo.accepted.sum(1).tolist())
    assert asked == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert accepted == [[0, 0]] * 3 + [[round(20 * epoch / 9)] * 2 for epoch in range(3, 10)]
    assert not method.pseudo.accepted[:, ::2].any() and (method.pseudo.labels[:, ::2] == -1).all()
    assert [level[1::2].unique().numel() for level in method.pseudo.labels] == [3, 5]


def test_ifnd_equal_levels_get_equal_labels():
    method = IFND(config_of(clusters=(4, 4)), 10, 40)
    method.before_epoch(1, 2, Embedder())
    assert torch.equal(*method.pseudo.labels) and torch.equal(*method.pseudo.accepted)


@pytest.mark.parametrize("changes", [{"clusters": ()}, {"acceptance": (0.0, 0.0)}, {"oracle": True}])
def test_ifnd_clusters_nothing_where_labels_are_not_used(changes):
    embed = Embedder()
    for epoch in range(3):
        IFND(config_of(**changes), 10, 40).before_epoch(epoch, 3, embed)
    assert embed.calls == 0


def test_ifnd_embeds_with_the_key_network_frozen(device):
    images = (random(7, 3, 16, 16) * 255).byte()
    for keys in ("target", "online"):
        method = IFND(config_of(keys=keys), 10, 40).to(device)
        with torch.no_grad():
            for p in method.online.parameters():
                p.add_(0.01 * torch.randn_like(p))
        state = {name: value.clone() for name, value in method.state_dict().items()}
        v = method.embed(images, batch=3)
        network = method.online if keys == "online" else method.target
        mean, std = (torch.tensor(c).view(3, 1, 1) for c in (method.config.mean, method.config.std))
        x = ((images / 255 - mean) / std).to(device)
        wanted = F.normalize(network["projector"].eval()(network["encoder"].eval()(x)), dim=1).detach().cpu()
        assert_close(v, wanted, rtol=1e-4, atol=1e-5)
        assert not v.requires_grad and not differing(state, method.state_dict())


# ---- the queue ------------------------------------------------------------------------------------


def test_ifnd_queue_equals_a_loop(device):
    ifnd_checks.check_key_queue(device)


# ---- whole steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {"keys": "target"}, {"small_views": 0}, {"key_queue": 24, "keys": "online"}, {"key_queue": 7, "keys": "target"},
])  # fmt: skip
def test_ifnd_step_equals_loops(changes, device):
    ifnd_checks.check_step(device, **changes)


def test_ifnd_step_equals_loops_with_batch_and_queue(device):
    ifnd_checks.check_batch_step(device)
    ifnd_checks.check_queue_step(device)


@pytest.mark.parametrize("changes", [{}, {"key_queue": 24, "keys": "target"}, {"false_negatives": "attract"}])
def test_ifnd_without_acceptance_is_infonce_to_the_bit(changes, device):
    results = []
    for clusters in ((3,), ()):
        method = IFND(config_of(clusters=clusters, **changes), 3, 40).to(device)
        labelled(method, 0)
        for step in range(2):
            loss, _ = method(*inputs(method.config, step, device), Draws())
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in method.online.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_ifnd_without_acceptance_is_simclr(device):
    """Its symmetric cross-entropy between two views, gradients through queries and keys included."""
    config = config_of(small_views=0, clusters=())
    method = IFND(config, 3, 40).to(device)
    twin = copy.deepcopy(method)
    x, batch = inputs(config, 0, device)
    batch = batch._replace(ids=torch.arange(16, device=device))
    loss, _ = method(x, batch, Draws())
    loss.backward()
    a, b = F.normalize(joint(twin.online, x), dim=2)  # its code has both views in one batch
    rows = torch.arange(16, device=device)
    wanted = (F.cross_entropy(a @ b.T / config.tau, rows) + F.cross_entropy(b @ a.T / config.tau, rows)) / 2
    wanted.backward()
    assert_close(loss, wanted)
    for p, wanted in zip(method.online.parameters(), twin.online.parameters(), strict=True):
        assert_close(p.grad, wanted.grad, rtol=1e-4, atol=1e-5)


def test_ifnd_everyone_in_one_cluster_leaves_no_negative_and_a_loss_of_exactly_zero(device):
    for changes in ({}, {"key_queue": 24}):
        method = IFND(config_of(clusters=(1,), **changes), 3, 40).to(device)
        labelled(method, 1, classes=1)
        for step in range(2):
            loss, _ = method(*inputs(method.config, step, device), Draws())
        loss.backward()
        assert float(loss.detach()) == 0 and all((p.grad == 0).all() for p in method.online.parameters())
        method = IFND(config_of(clusters=(1,), false_negatives="attract", **changes), 3, 40).to(device)
        labelled(method, 1, classes=1)
        loss, _ = method(*inputs(method.config, 0, device), Draws())
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in method.online.parameters())


def test_ifnd_first_step_with_an_empty_queue_is_zero_then_not(device):
    method = IFND(config_of(key_queue=24, keys="target"), 3, 40).to(device)
    losses = [float(method(*inputs(method.config, step, device), Draws())[0].detach()) for step in range(2)]
    assert losses[0] == 0 < losses[1]
    assert (method.queue.ids >= 0).all() and not method.queue.keys.requires_grad
    assert_close(method.queue.keys.norm(dim=1), torch.ones(24, device=device))


def test_ifnd_queue_entries_have_the_labels_of_today(device):
    """Labels are looked up by image id when a key is used, not when it was written."""
    method = IFND(config_of(key_queue=24, keys="target", clusters=(3,)), 3, 40).to(device)
    method(*inputs(method.config, 0, device), Draws())
    for seed in (5, 6):
        labelled(method, 1, seed)
        twin = copy.deepcopy(method)
        x, batch = inputs(method.config, seed, device)
        seen = twin(x, batch, Draws())[1]
        y = method.pseudo.labels[0]
        for i, n in itertools.product(range(16), range(16)):
            image, other = batch.ids[i], method.queue.ids[n]
            assert bool(seen["fn"][0, i, n]) == bool(image != other and y[image] == y[other])


def test_ifnd_oracle_leaves_no_negative_of_the_own_class(device):
    method = IFND(config_of(oracle=True, key_queue=24), 10, 40).to(device)
    truth = ((random(40, seed=3) * 4).long()).to(device)
    for step in range(3):
        x, batch = inputs(method.config, step, device)
        _, seen = method(x, batch._replace(oracle=truth[batch.ids]), Draws())
    counts = monitor.shares([IFND.count(None, seen, None, truth)])
    assert counts["false_negatives"] == 0 < counts["false_negatives_before"]
    assert counts["pair_precision"] == counts["pair_recall"] == counts["acceptance"] == 1


# ---- gradients, target, precision -----------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"keys": "target"}, {"keys": "target", "key_queue": 24}, {"keys": "online"}])
def test_ifnd_only_the_online_network_learns(changes, device):
    method = IFND(config_of(**changes), 3, 40).to(device)
    before = {name: value.clone() for name, value in method.target.named_parameters()}
    for step in range(2):
        loss, seen = method(*inputs(method.config, step, device), Draws())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.online.parameters())
    assert sum(float(p.grad.abs().sum()) for p in method.online.parameters()) > 0
    assert all(p.grad is None and torch.equal(before[name], p) for name, p in method.target.named_parameters())
    assert not any(buffer.requires_grad for buffer in method.buffers()) and not seen["o"].requires_grad
    assert sorted(method.online) == ["encoder", "projector"]
    assert sorted(method.target) == (sorted(method.online) if method.config.keys == "target" else [])


def test_ifnd_target_moves_after_the_step_by_the_ema():
    method = IFND(config_of(keys="target", gamma=0.9), 3, 40)
    with torch.no_grad():
        for p in method.online.parameters():
            p.add_(1)
    before = {name: array(p) for name, p in method.target.named_parameters()}
    method.before_step(0.5)
    assert all((array(p) == before[name]).all() for name, p in method.target.named_parameters())
    method.after_step(0.5)
    for name, p in method.target.named_parameters():
        np.testing.assert_allclose(array(p), before[name] + 0.1, atol=1e-6)


def test_ifnd_float64_is_float64_throughout():
    for changes in ({}, {"key_queue": 24, "keys": "target"}):
        method = IFND(config_of(precision="fp64", **changes), 3, 40).double()
        x, batch = inputs(method.config, 0, torch.device("cpu"))
        loss, seen = method([v.double() for v in x], batch, Draws())
        assert loss.dtype == seen["o"].dtype == method.queue.keys.dtype == torch.float64


# ---- what a run reports and keeps -----------------------------------------------------------------


@pytest.mark.parametrize("unknown", [0, 9])
def test_ifnd_monitor_counts_equal_a_loop(unknown, device):
    method, truth = IFND(config_of(), 10, 40).to(device), (random(40, seed=4) * 3).long().to(device)
    truth[:unknown] = -1
    labelled(method, 0.6)
    _, batch = given = inputs(method.config, 0, device)
    _, seen = method(*given, Draws())
    ids, labels, accepted = batch.ids.tolist(), method.pseudo.labels.tolist(), method.pseudo.accepted.tolist()
    names = "false_negatives_before", "false_negatives", "acceptance", "pair_precision", "pair_recall"
    lists = {name: [] for name in names}
    for m, a in itertools.product(range(2), ids):
        lists["acceptance"].append(accepted[m][a])
        for b in ids:
            if a == b or min(truth[a], truth[b]) < 0:
                continue
            same = bool(truth[a] == truth[b])
            found = accepted[m][a] and accepted[m][b] and labels[m][a] == labels[m][b]
            if m == 0:
                lists["false_negatives_before"].append(same)
            if found:
                lists["pair_precision"].append(same)
            else:
                lists["false_negatives"].append(same)
            if same:
                lists["pair_recall"].append(found)
    wanted = {name: sum(answers) / len(answers) for name, answers in lists.items()}
    assert monitor.shares([IFND.count(None, seen, None, truth)]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("changes", [{}, {"key_queue": 40, "keys": "target"}])
def test_ifnd_hidden_labels_change_no_weight_and_no_buffer(changes):
    config = config_of(labels=20, epochs=3, **changes)
    runs = [fit(config, data, progress=False) for data in (tiny_data(), hidden_permuted(tiny_data()))]
    assert not differing(*map(weights, runs))
    one, other = (run.history[-1] for run in runs)
    assert one["loss"] == other["loss"] and one["false_negatives"] != other["false_negatives"]
    assert one["acceptance"] == 1 and [run.history[0]["acceptance"] for run in runs] == [0, 0]


def test_ifnd_oracle_labels_do_reach_the_weights():
    config = config_of(labels=20, oracle=True)
    runs = [fit(config, data, progress=False) for data in (tiny_data(), hidden_permuted(tiny_data()))]
    assert any(name.startswith("online.encoder") for name in differing(*map(weights, runs)))


@pytest.mark.parametrize("step", [5, 8, 10])  # within an epoch, at an epoch's end, after a clustering
def test_ifnd_resumes_to_the_bit(step, tmp_path):
    """From a checkpoint anywhere, pseudo-labels and queue included."""
    config = config_of(labels=20, epochs=3, key_queue=40, keys="target")
    whole = fit(config, tiny_data(), tmp_path / "whole", progress=False, save_every=1, keep_last=100)
    (tmp_path / "part").mkdir()
    path = checkpoint.path_of(tmp_path / "whole", step)
    log = (tmp_path / "whole" / "log.jsonl").read_bytes()
    (tmp_path / "part" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "part" / "log.jsonl").write_bytes(log)
    assert not differing(weights(whole), weights(fit(config, tiny_data(), tmp_path / "part", progress=False)))
    assert not differing(weights(whole), weights(load_run(tmp_path / "whole")))


# ---- two processes --------------------------------------------------------------------------------


def ifnd_work():
    """Two steps of each kind after a clustering, on this process's rows; and the labels that all processes have."""
    results = []
    for changes in ({}, {"keys": "target", "false_negatives": "attract"}, {"keys": "target", "key_queue": 24}):
        method = IFND(config_of(precision="fp64", **changes), 3, 40)
        method.before_epoch(1, 2, lambda: (units(40, 8).double(), torch.arange(40)))
        for step in range(2):
            method.zero_grad()
            results += step_of(method, *inputs(method.config, step, torch.device("cpu")), Draws())
        results += [world.mean(method.pseudo.labels.double()), method.queue.keys, method.queue.ids.double()]
    return results


def test_ifnd_two_processes_are_one(tmp_path):
    for ours, wanted in zip(by_two(ifnd_work, tmp_path), ifnd_work(), strict=True):
        assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


def shared_out():
    """Which levels each process has clustered, where it waited, of how many images it has asked; and the labels."""
    right, done = {name: getattr(place, name) for place, name in PLACES}, []

    def seen(name, size_of):
        return lambda *given: done.append((name, size_of(*given))) or right[name](*given)

    patches = [patch.object(place, name, seen(name, sizes)) for (place, name), sizes in zip(PLACES, SIZES, strict=True)]
    method = IFND(config_of(clusters=(3, 5, 4)), 10, 41)
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        method.before_epoch(1, 2, lambda: (units(41, 8), torch.arange(41)))
    every = [None] * world.size()
    if world.size() > 1:
        dist.all_gather_object(every, done)
    return every if world.size() > 1 else [done], method.pseudo.labels, method.pseudo.kappa


PLACES = [(ifnd, "cluster"), (parallel, "wait"), (ifnd, "confidence")]
SIZES = [lambda v, k, seed: k, lambda: 0, lambda v, *given: len(v)]


def test_ifnd_processes_share_out_levels_and_images(tmp_path):
    """And none waits for another's clustering in a collective: they meet in between."""
    (one,), *wanted = shared_out()
    (first, second), *labels = by_two(shared_out, tmp_path)
    asked = [("confidence", 41)] * 3
    assert one == [("cluster", 3), ("cluster", 5), ("cluster", 4), ("wait", 0), *asked]
    assert first == [("cluster", 3), ("cluster", 4), ("wait", 0), *[("confidence", 21)] * 3]
    assert second == [("cluster", 5), ("wait", 0), *[("confidence", 21)] * 3]
    assert torch.equal(labels[0], wanted[0])
    assert_close(labels[1], wanted[1])


def test_ifnd_says_what_takes_minutes_and_nothing_else(monkeypatch, capsys):
    for least, lines in ((2**30, 0), (100, 2)):
        monkeypatch.setattr(ifnd, "LONG", least)
        IFND(config_of(clusters=(2, 3, 5)), 10, 40).before_epoch(1, 2, lambda: (units(40, 8), torch.arange(40)))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == lines
    assert said[1] == "IFND puts 40 images into 5 clusters, level 3 of 3."


# ---- config ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, words", [
    ({"method": "moco"}, "method = 'moco' is not known; choose one of semppl, ifnd, carp"),
    ({"clusters": (10, 0)}, r"clusters = \(10, 0\) lies outside \[1, 1048576\]"),
    ({"clusters": (10, 2.5)}, r"clusters = \(10, 2.5\) must be of whole numbers, not 2.5; give for example"),
    ({"acceptance": (0.5, 0.1)}, "is no range; give the smaller number first"),
    ({"acceptance": (0.5, 1.1)}, r"lies outside \[0, 1\]"),
    ({"false_negatives": "keep"}, "choose one of eliminate, attract"),
    ({"keys": "both"}, "choose one of target, online"),
    ({"key_queue": -1}, "key_queue = -1 lies outside"),
    ({"recluster": 0}, "recluster = 0 lies outside"),
    ({"large_views": 1, "small_views": 0}, "compares different views and there is 1; give large_views=2"),
])  # fmt: skip
def test_ifnd_bad_config_stops_with_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        config = config_of(**changes)
        class_of(config)(config, 3, 40)


def test_ifnd_more_clusters_than_images_stops_with_one_sentence():
    """Of images, not of their largest id, and before the first step, not at the first clustering."""
    data = tiny_data()
    far = dataclasses.replace(data, train=dataclasses.replace(data.train, ids=5000 * torch.arange(1, 65)))
    with pytest.raises(ValueError, match=r"clusters = \(3, 65\) asks for more than the 64 images; give at most 64\.$"):
        fit(tiny(method="ifnd", small_views=0, clusters=(3, 65)), far, progress=False)


# ---- precision, seeds


def test_ifnd_each_clustering_starts_anew(monkeypatch):
    method, seeds, right = IFND(config_of(clusters=(3,)), 10, 40), [], ifnd.cluster
    monkeypatch.setattr(ifnd, "cluster", lambda v, k, seed: seeds.append(seed) or right(v, k, seed))
    for epoch in range(4):
        method.before_epoch(epoch, 4, lambda: (units(40, 8), torch.arange(40)))
    assert len(set(seeds)) == 3


def test_ifnd_embeds_in_the_precision_of_training(device):
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        method, seen = IFND(config_of(precision=precision), 10, 40).to(device), []
        method.encoder.stem[0].register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.dtype))
        assert method.embed((random(7, 3, 16, 16) * 255).byte()).dtype == torch.float32 and seen == [dtype]


@pytest.mark.parametrize("changes", [{}, {"keys": "target", "key_queue": 24}])
def test_ifnd_similarities_and_loss_are_float32_when_networks_are_not(changes, device, monkeypatch):
    method, seen, right = IFND(config_of(precision="bf16", **changes), 3, 40).to(device), [], ifnd.similarities
    monkeypatch.setattr(ifnd, "similarities", lambda *given: seen.append(given[0].dtype) or right(*given))
    loss, saw = method(*inputs(method.config, 0, device), Draws())
    assert {loss.dtype, saw["o"].dtype, *seen} == {torch.float32}
