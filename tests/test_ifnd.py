"""IFND: losses, pseudo-labels, queue and whole steps against loops; who gets gradients; one process or two."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from checks import (
    array,
    differing,
    hidden_permuted,
    joint,
    log_softmax,
    random,
    step_inputs,
    tiny,
    tiny_data,
    units,
    weights,
)
from torch.testing import assert_close

from semppl_mini import fit, load_run, monitor
from semppl_mini.files import checkpoint
from semppl_mini.method import Batch, Draws
from semppl_mini.parallel import world
from semppl_mini.relatives import ifnd
from semppl_mini.relatives.ifnd import IFND, KeyQueue, PseudoLabels


def config_of(**changes):
    return tiny(**{"method": "ifnd", "clusters": (3, 5), "recluster": 1, "keys": "online", "labels": None, **changes})


def inputs(config, seed, device, n=40):
    """Views and batch of a step: 16 images of n, one of them twice."""
    x = step_inputs(config.replace(negatives=1), 3, seed, device)[0]
    ids = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: config.batch_size]
    ids[1] = ids[0]
    return x, Batch(torch.full_like(ids, -1).to(device), ids.to(device))


def labelled(method, r, seed=0, classes=3):
    """Give every image a pseudo-label and a confidence on every level, and accept the share r."""
    shape = method.pseudo.labels.shape
    method.pseudo.labels.copy_((random(*shape, seed=seed) * classes).long())
    method.pseudo.kappa.copy_(0.1 + 0.9 * random(*shape, seed=seed + 1))
    method.pseudo.accept(r)


# ---- the losses -----------------------------------------------------------------------------------


def loss_loop(q, key, candidates, ids, candidate_ids, y, y_candidates, tau, kind):
    """One pair of views: the mean over levels and images of either loss, candidate by candidate."""
    each = []
    for level, i in itertools.product(range(len(y)), range(len(q))):
        negatives, false = [], []
        for n in range(len(candidates)):
            if candidate_ids[n] < 0 or candidate_ids[n] == ids[i]:
                continue
            same = y[level, i] >= 0 and y[level, i] == y_candidates[level, n]
            (false if same else negatives).append(q[i] @ candidates[n] / tau)
        positive = q[i] @ key[i] / tau
        if kind == "eliminate":
            each.append(-log_softmax(np.array([positive, *negatives]))[0])
        else:
            each.append(-log_softmax(np.array([positive, *false, *negatives]))[: 1 + len(false)].mean())
    return np.mean(each)


def pieces(seed=0, B=7, N=12):
    """q, key, candidates, ids, candidate ids (some own, two empty), labels of both on three levels (some none)."""
    ids = torch.arange(B) + 3
    candidate_ids = torch.cat([ids, torch.tensor([4, 9, 50, -1, -1])])[:N]
    y, y_c = ((random(3, n, seed=seed + n) * 4).long() - 1 for n in (B, N))
    return units(B, 5, seed=seed), units(B, 5, seed=seed + 1), units(N, 5, seed=seed + 2), ids, candidate_ids, y, y_c


def compared(given, tau, kind):
    """The same by the module's functions."""
    q, key, candidates, ids, candidate_ids, y, y_c = given
    own = (candidate_ids == ids[:, None]) | (candidate_ids < 0)
    s, fn = ifnd.similarities(q, key, candidates, own, tau), ifnd.false_negatives(y, y_c, own)
    return torch.stack([getattr(ifnd, kind)(s, level) for level in fn])  # (M, B)


def check_losses(device):
    for seed, tau, kind in itertools.product((0, 10), (0.2, 1.0), ("eliminate", "attract")):
        given = pieces(seed)
        ours = compared([x.to(device) for x in given], tau, kind)
        wanted = loss_loop(*map(array, given), tau, kind)
        assert abs(float(ours.mean()) - wanted) < 1e-5 * max(1, wanted), kind


def test_ifnd_losses_equal_loops(device):
    check_losses(device)


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


def check_confidence(device):
    v, c, tau = units(30, 4, seed=0), units(6, 4, seed=1), 0.3
    for chunk_mb in (256, 1e-6):  # all at once, and row by row
        y, kappa = ifnd.confidence(v.to(device), c.to(device), tau, chunk_mb)
        for i, row in enumerate(array(v)):
            e = np.exp([row @ centroid / tau for centroid in array(c)])
            assert int(y[i]) == e.argmax() and abs(float(kappa[i]) - e[int(y[i])] / e.sum()) < 1e-6
    assert (kappa > 0).all() and (kappa <= 1).all()


def test_ifnd_confidence_equals_a_loop(device):
    check_confidence(device)


def check_acceptance(device):
    """round(r N) images a level, those with the largest kappa, ties by id; unclustered ones never; unaccepted: -1."""
    pseudo = PseudoLabels(2, 31).to(device)
    pseudo.labels[:, 1:], pseudo.kappa[:, 1:] = 4, 0.1 + 0.9 * (random(2, 30) * 12).floor().to(device) / 12
    before = torch.zeros_like(pseudo.accepted)
    for r in (0, 0.1, 0.35, 0.5, 0.77, 1):
        pseudo.accept(r)
        assert pseudo.accepted.sum(1).tolist() == [round(r * 30)] * 2
        assert not (before & ~pseudo.accepted).any()  # whoever was accepted still is
        for kappa, accepted in zip(pseudo.kappa.tolist(), pseudo.accepted, strict=True):
            best = sorted(range(1, 31), key=lambda i, kappa=kappa: (-kappa[i], i))[: round(r * 30)]
            assert accepted.nonzero().squeeze(1).tolist() == sorted(best)
        before = pseudo.accepted.clone()
    pseudo.accept(0.5)
    ids = torch.tensor([5, -1, 0, 29, 17, 5], device=device)
    wanted = [[4 if i >= 0 and pseudo.accepted[m, i] else -1 for i in ids.tolist()] for m in range(2)]
    assert pseudo.of(ids).tolist() == wanted


def test_ifnd_acceptance_equals_a_loop(device):
    check_acceptance(device)


def check_acceptance_schedule(device=None):
    rates = [ifnd.acceptance_at((0.0, 1.0), epoch, 11) for epoch in range(11)]
    np.testing.assert_allclose(rates, np.arange(11) / 10)
    assert ifnd.acceptance_at((0.25, 0.75), 5, 11) == 0.5 and ifnd.acceptance_at((0.5, 0.5), 7, 9) == 0.5
    assert ifnd.acceptance_at((0.0, 1.0), 0, 1) == 0


def test_ifnd_acceptance_grows_linearly_from_the_first_epoch_to_the_last():
    check_acceptance_schedule()


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


def check_key_queue(device):
    for capacity, batch in ((5, 3), (4, 9), (6, 6), (1, 4)):
        queue, keys, ids, at = KeyQueue(capacity, 3).to(device), np.zeros((capacity, 3)), [-1] * capacity, 0
        for step in range(7):
            new, new_ids = units(batch, 3, seed=step), torch.arange(batch) + 10 * step
            queue.enqueue(new.to(device), new_ids.to(device))
            for row, image in zip(array(new), new_ids.tolist(), strict=True):
                keys[at % capacity], ids[at % capacity] = row, image
                at += 1
            np.testing.assert_array_equal(array(queue.keys), keys)
            assert queue.ids.tolist() == ids and int(queue.pointer) == at % capacity


def test_ifnd_queue_equals_a_loop(device):
    check_key_queue(device)


# ---- whole steps ----------------------------------------------------------------------------------


def step_loop(config, q, k, queue, ids, pseudo):
    """A step in float64: q of all views, k of the large ones, queue [keys, ids] or None -> loss."""
    last, views = len(k) - 1, range(len(q))
    pairs = [(i, last) for i in views] if queue else itertools.product(views, range(len(k)))
    labels, accepted = array(pseudo.labels), array(pseudo.accepted)
    y = [[row[i] if i >= 0 and yes[i] else -1 for i in ids] for row, yes in zip(labels, accepted, strict=True)]
    losses = []
    for i, j in pairs:
        if i != j:
            candidates, c_ids = queue or (k[j], ids)
            levels = zip(labels, accepted, strict=True)
            y_c = [[row[n] if n >= 0 and yes[n] else -1 for n in c_ids] for row, yes in levels]
            given = q[i], k[j], candidates, ids, c_ids, np.array(y), np.array(y_c)
            losses.append(loss_loop(*given, config.tau, config.false_negatives))
    return np.mean(losses)


def embedded(networks, views, together):
    """Unit embeddings of views as NumPy, (views, B, D): batch statistics of each view alone, or joint."""
    z = array(joint(networks, views)) if together else np.stack([array(joint(networks, [x]))[0] for x in views])
    return z / np.linalg.norm(z, axis=2, keepdims=True)


def moved(method):
    """The method with a target that is not the online network."""
    with torch.no_grad():
        for i, p in enumerate(method.target.parameters()):
            p.add_(0.1 * units(*p.shape, seed=i).to(p.device))
    return method


def check_step(device, **changes):
    """IFND.forward on 2 + 1 views against the loops, while a small queue fills and wraps and labels change."""
    for kind in ("eliminate", "attract"):
        config = config_of(false_negatives=kind, **changes)
        method, queue = moved(IFND(config, 3, 40).to(device)), None
        if config.key_queue:
            queue = [np.zeros((config.key_queue, 8)), np.full(config.key_queue, -1)]
        for step, r in enumerate((0.5, 1, 0.7)):
            labelled(method, r, seed=step)
            x, batch = inputs(config, step, device)
            twin = copy.deepcopy(method)
            q = embedded(twin.online, x, config.keys == "online")
            k = embedded(twin.target, x[:2], False) if config.keys == "target" else q[:2]
            ids = array(batch.ids)
            wanted = step_loop(config, q, k, queue, ids, method.pseudo)
            loss, seen = method(x, batch, Draws())
            assert abs(float(loss.detach()) - wanted) < 2e-5 * max(1, wanted), (kind, step)
            if queue:  # in any order: the oldest goes
                both = zip(queue, (k[1], ids), strict=True)
                queue = [np.concatenate([old, new])[-config.key_queue :] for old, new in both]
        assert seen["fn"].any() and wanted > 0.1


def check_batch_step(device):
    check_step(device)


def check_queue_step(device):
    check_step(device, key_queue=24, keys="target")


@pytest.mark.parametrize("changes", [
    {"keys": "target"}, {"small_views": 0}, {"key_queue": 24, "keys": "online"}, {"key_queue": 7, "keys": "target"},
])  # fmt: skip
def test_ifnd_step_equals_loops(changes, device):
    check_step(device, **changes)


def test_ifnd_step_equals_loops_with_batch_and_queue(device):
    check_batch_step(device)
    check_queue_step(device)


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


def test_ifnd_monitor_counts_equal_a_loop(device):
    method, truth = IFND(config_of(), 10, 40).to(device), (random(40, seed=4) * 3).long().to(device)
    labelled(method, 0.6)
    _, batch = given = inputs(method.config, 0, device)
    _, seen = method(*given, Draws())
    ids, labels, accepted = batch.ids.tolist(), method.pseudo.labels.tolist(), method.pseudo.accepted.tolist()
    names = "false_negatives_before", "false_negatives", "acceptance", "pair_precision", "pair_recall"
    lists = {name: [] for name in names}
    for m, a in itertools.product(range(2), ids):
        lists["acceptance"].append(accepted[m][a])
        for b in ids:
            if a == b:
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


def start_pair(rank, path, work, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/meet", rank=rank, world_size=2)
    result = work()
    if rank == 0:
        torch.save(result, out)
    dist.destroy_process_group()


def by_two(work, folder):
    """What work() returns on the first of two processes."""
    mp.spawn(start_pair, (str(folder), work, str(folder / "out.pt")), nprocs=2)
    return torch.load(folder / "out.pt", weights_only=True)


def step_of(method, x, batch, draws):
    """Loss and gradients of the global batch, as the trainer makes them of own rows; batch norm is frozen."""
    own = world.rows(len(batch.ids))
    method.double().eval()
    loss, _ = method([v[own].double() for v in x], Batch(batch.labels[own], batch.ids[own]), draws)
    loss.backward()
    return [world.mean(value) for value in (loss.detach(), *(p.grad for p in method.online.parameters()))]


def ifnd_work():
    """Two steps of each kind after a clustering, on this process's rows; and the labels that all processes have."""
    results = []
    for changes in ({}, {"keys": "target", "false_negatives": "attract"}, {"keys": "target", "key_queue": 24}):
        method = IFND(config_of(precision="fp64", **changes), 3, 40)
        v = units(40, 8, seed=world.rank()).double()  # only the first process's count
        method.before_epoch(1, 2, lambda v=v: (v, torch.arange(40)))
        for step in range(2):
            method.zero_grad()
            results += step_of(method, *inputs(method.config, step, torch.device("cpu")), Draws())
        results += [world.mean(method.pseudo.labels.double()), method.queue.keys, method.queue.ids.double()]
    return results


def test_ifnd_two_processes_are_one(tmp_path):
    for ours, wanted in zip(by_two(ifnd_work, tmp_path), ifnd_work(), strict=True):
        assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


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
        config_of(**changes)


def test_ifnd_more_clusters_than_images_stops_with_one_sentence():
    with pytest.raises(ValueError, match=r"clusters = \(3, 50\) asks for 50 clusters of 40 images; give at most 40\.$"):
        IFND(config_of(clusters=(3, 50)), 3, 40)
