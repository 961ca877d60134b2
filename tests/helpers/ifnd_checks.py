"""IFND against slow, independent computations: the inputs, the loops, and each check of a piece.

Each `check_*` raises AssertionError. The test of a piece runs it; test_planted.py runs it again on wrong versions.
"""

import copy
import itertools

import numpy as np
import torch
from core_checks import array, joint, log_softmax, random, step_inputs, tiny, units

from semppl_mini.method import Batch, Draws
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


# ---- pseudo-labels --------------------------------------------------------------------------------


def check_confidence(device):
    v, c, tau = units(30, 4, seed=0), units(6, 4, seed=1), 0.3
    for chunk_mb in (256, 1e-6):  # all at once, and row by row
        y, kappa = ifnd.confidence(v.to(device), c.to(device), tau, chunk_mb)
        for i, row in enumerate(array(v)):
            e = np.exp([row @ centroid / tau for centroid in array(c)])
            assert int(y[i]) == e.argmax() and abs(float(kappa[i]) - e[int(y[i])] / e.sum()) < 1e-6
    assert (kappa > 0).all() and (kappa <= 1).all()


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


def check_acceptance_schedule(device=None):
    rates = [ifnd.acceptance_at((0.0, 1.0), epoch, 11) for epoch in range(11)]
    np.testing.assert_allclose(rates, np.arange(11) / 10)
    assert ifnd.acceptance_at((0.25, 0.75), 5, 11) == 0.5 and ifnd.acceptance_at((0.5, 0.5), 7, 9) == 0.5
    assert ifnd.acceptance_at((0.0, 1.0), 0, 1) == 0


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
