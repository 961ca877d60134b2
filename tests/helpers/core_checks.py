"""Checks of the pieces against slow, independent computations: NumPy loops, and torchvision image by image.

Each `check_*` is a plain function that raises AssertionError. The test of a piece runs it; test_planted.py
runs it again on wrong versions of that piece, where it must fail. Pieces are looked up when a check runs.
"""

import copy
import dataclasses
import functools
import itertools
import math

import numpy as np
import torch
from bare import Bare
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as TF

from semppl_mini import fit, lars, losses, muon, networks, optim, positives, semppl, views
from semppl_mini import votes as pseudo_labels
from semppl_mini.config import Config
from semppl_mini.data import Data, hide_labels, load_data, pick
from semppl_mini.networks import mlp
from semppl_mini.parallel import memory
from semppl_mini.queue import LabelledQueue
from semppl_mini.recipes import airbench, resnets
from semppl_mini.semppl import SemPPL


def random(*shape, seed=0):
    """Uniform numbers in [0, 1) that are the same on every device."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def units(*shape, seed=0):
    """Random unit vectors along the last axis."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def array(x):
    """A tensor as float64 or int64 NumPy array, for loops."""
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def tiny(**changes):
    """A config whose steps take milliseconds, with every part of the method in use."""
    config = Config(
        backbone="narrow", width=8, stem_stride=2, projector_hidden=16, predictor_hidden=16,
        large_views=2, small_views=1, large_size=16, small_size=8, small_scale=(0.2, 0.5), labels=20,
        embedding_dim=8, queue=24, batch_size=16, negatives=4, epochs=2, warmup_epochs=1, lr=2.0, gamma=0.9,
        device="cpu", precision="fp32",
    )  # fmt: skip
    return config.replace(**changes)


@functools.cache
def tiny_data():
    """64 of the colour digits, 20 of them labelled, and 30 + 30 to validate and test on."""
    full = load_data("digits")
    train = hide_labels(full.train.take(pick(full.train.truth, 64, 10, seed=1)), 20, 0, 10)
    return Data("tiny", "a slice of the digits", full.classes, train, full.val.take(torch.arange(30)),
                full.test.take(torch.arange(30)))  # fmt: skip


CLASSES = ["ant", "bee", "cow"]


def parts(n_train=60, n_test=12, seed=0):
    """Random images of three classes in equal shares, as write_pack takes them."""
    images = (random(n_train + n_test, 3, 8, 8, seed=seed) * 255).byte().numpy()
    labels = np.arange(n_train + n_test) % 3
    return {"train": (images[:n_train], labels[:n_train]), "test": (images[n_train:], labels[n_train:])}


# ---- views ---------------------------------------------------------------------------------------


def pictures(n, height, width, seed=0):
    """Noise with a band of primary colours, black and white, and a band of greys: the corners of HSV."""
    x = random(n, 3, height, width, seed=seed)
    x[:, :, :4] = x[:, :, :4].round()
    x[:, :, 4:7] = x[:, :1, 4:7]
    return x


def one_by_one(operation, x, *parameters):
    """operation(image, its parameters) for each image, stacked."""
    return torch.stack([operation(image, *row) for image, *row in zip(x, *parameters, strict=True)])


def check_crop(device):
    x = pictures(6, 20, 28)
    boxes = [[0, 0, 20, 28], [3, 5, 10, 9], [19, 27, 1, 1], [2, 0, 17, 3], [0, 20, 5, 8], [7, 7, 13, 20]]
    flip = [False, True, False, True, True, False]
    given = [torch.tensor(boxes).to(device), torch.tensor(flip).to(device)]
    for size in (6, 16, 40):  # down-sampling, both, up-sampling

        def theirs(image, box, mirrored, size=size):
            image = TF.resized_crop(image, *box, [size, size], antialias=True)
            return TF.horizontal_flip(image) if mirrored else image

        ours = views.crop_resize(x.to(device), given[0], size, given[1])
        assert_close(ours.cpu(), one_by_one(theirs, x, boxes, flip), atol=1e-5, rtol=0)


def check_colour(device, name, theirs):
    factors = [-0.5, -0.3, 0.0, 0.1, 0.25, 0.5] if name == "hue" else [0.0, 0.4, 0.9, 1.0, 1.3, 1.9]
    x = pictures(6, 12, 16)
    ours = getattr(views, name)(x.to(device), torch.tensor(factors).to(device))
    assert_close(ours.cpu(), one_by_one(theirs, x, factors), atol=1e-5, rtol=0)


def check_hue(device):
    check_colour(device, "hue", TF.adjust_hue)


JITTER = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


def jitter_one(image, factors, order):
    """Colour jitter of one image by torchvision, in the given order."""
    for operation in order:
        image = JITTER[operation](image, float(factors[operation]))
    return image


def check_jitter(device):
    orders = torch.tensor(list(itertools.permutations(range(4))))  # all 24, an image each
    x, factors = pictures(24, 10, 10), 0.5 + random(24, 4, seed=1)
    factors[:, 3] -= 1  # hue, in [-0.5, 0.5)
    ours = views.jitter(x.to(device), factors.to(device), orders.to(device))
    assert_close(ours.cpu(), one_by_one(jitter_one, x, factors, orders.tolist()), atol=2e-5, rtol=0)


def check_blur(device):
    x, sigma = pictures(5, 20, 20), torch.tensor([0.1, 0.5, 1.0, 2.0, 1.5])
    apply = torch.tensor([True, True, True, True, False])
    for kernel in (1, 3, 9):

        def theirs(image, s, on, kernel=kernel):
            return TF.gaussian_blur(image, [kernel, kernel], [s, s]) if on else image

        ours = views.blur(x.to(device), sigma.to(device), apply.to(device), kernel)
        assert_close(ours.cpu(), one_by_one(theirs, x, sigma.tolist(), apply), atol=1e-5, rtol=0)


def check_solarize(device):
    x, apply = pictures(4, 8, 8), torch.tensor([True, False, True, False])
    x[:, :, 7] = 0.5  # at the threshold: inverted, which leaves 0.5
    for threshold in (0.5, 0.25):
        ours = views.solarize(x.to(device), apply.to(device), threshold)
        theirs = one_by_one(lambda i, on, t=threshold: TF.solarize(i, t) if on else i, x, apply)
        assert_close(ours.cpu(), theirs, atol=0, rtol=0)


def check_mask_background(device):
    x, mask = pictures(4, 6, 7), random(4, 1, 6, 7, seed=2).round()
    apply = torch.tensor([True, False, True, False])
    wanted = x.clone()
    for b, row, column in itertools.product(range(4), range(6), range(7)):
        if apply[b] and not mask[b, 0, row, column]:
            wanted[b, :, row, column] = 0.5
    ours = views.mask_background(x.to(device), mask.to(device), apply.to(device))
    assert_close(ours.cpu(), wanted, atol=0, rtol=0)


def view_one(image, mask, draw, row, size, kernel):
    """A view of one image by torchvision: mask, crop, flip, jitter, grey, blur, solarize as drawn."""
    draw = {name: value[row] for name, value in draw.items()}
    image = torch.where((mask == 0) & draw["mask"], 0.5, image)
    image = TF.resized_crop(image, *map(int, draw["box"]), [size, size], antialias=True).clamp(0, 1)
    image = TF.horizontal_flip(image) if draw["flip"] else image
    image = jitter_one(image, draw["factors"], draw["order"].tolist())
    image = TF.rgb_to_grayscale(image, 3) if draw["grey"] else image
    sigma = float(draw["sigma"])
    image = TF.gaussian_blur(image, [kernel, kernel], [sigma, sigma]) if draw["blur"] else image
    return TF.solarize(image, 0.5) if draw["solarize"] else image


def check_whole_view(device):
    config = tiny(large_size=40, mask_p=0.5, grey_p=0.5, blur_p=(0.5,), solarize_p=(0.5,))
    x, mask = pictures(16, 24, 24), random(16, 1, 24, 24, seed=2).round()
    draw = views.draw_view(config, 0, 16, torch.Generator().manual_seed(0), 24, 24)
    on_device = {name: value.to(device) for name, value in draw.items()}
    for size, kernel in ((40, 5), (16, 1)):  # the kernel is a tenth of the side, made odd
        ours = views.apply_view(x.to(device), on_device, size, config, mask.to(device)).cpu()
        theirs = torch.stack([view_one(x[i], mask[i], draw, i, size, kernel) for i in range(16)])
        assert_close(ours, theirs, atol=5e-5, rtol=0)


# ---- networks ------------------------------------------------------------------------------------


def conv_loop(x, weight, stride=1):
    """Convolution (B, I, H, W) * (O, I, k, k), zeros beyond the edges: a sum over the offsets of the kernel."""
    k = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    height, width = ((n + 2 * (k // 2) - k) // stride + 1 for n in x.shape[2:])
    y = np.zeros((len(x), len(weight), height, width))
    for i, j in np.ndindex(k, k):
        seen = padded[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        y += np.einsum("bihw,oi->bohw", seen, weight[:, :, i, j])
    return y


def norm_loop(x, norm):
    """Batch norm by the statistics of the batch, channel by channel."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = (x[:, c] - x[:, c].mean()) / np.sqrt(x[:, c].var() + 1e-5)
        y[:, c] = y[:, c] * float(norm.weight[c].detach()) + float(norm.bias[c].detach())
    return y


def means_loop(x, stride):
    """2x2 means from every stride-th pixel on, of the pixels there are."""
    height, width = (-(-n // stride) for n in x.shape[2:])
    y = np.empty((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        y[:, :, i, j] = x[:, :, i * stride : i * stride + 2, j * stride : j * stride + 2].mean((2, 3))
    return y


def sk_block_loop(x, block, stride):
    """SK bottleneck of ResNet-D: 1x1, selective kernels, 1x1, beside a shortcut of means and 1x1."""
    relu, sk = (lambda y: np.maximum(y, 0)), block.conv2
    convolve = lambda y, convolution, stride=1: conv_loop(y, array(convolution.weight), stride)  # noqa: E731
    y = relu(norm_loop(convolve(x, block.conv1), block.bn1))
    u = relu(norm_loop(convolve(y, sk.branches[0], stride), sk.branches[1]))
    C = u.shape[1] // 2
    s = (u[:, :C] + u[:, C:]).mean((2, 3), keepdims=True)
    w = convolve(relu(norm_loop(convolve(s, sk.mix[0]), sk.mix[1])), sk.mix[3])
    a = np.exp(w) / (np.exp(w[:, :C]) + np.exp(w[:, C:])).repeat(2, 0).reshape(len(x), 2 * C, 1, 1)
    y = norm_loop(convolve(a[:, :C] * u[:, :C] + a[:, C:] * u[:, C:], block.conv3), block.bn3)
    shortcut = norm_loop(convolve(means_loop(x, stride), block.downsample[1]), block.downsample[2])
    return relu(y + shortcut)


def check_selective_kernels(device):
    for stage, side in ((0, 6), (1, 6), (1, 7)):  # strides 1 and 2, an odd side
        encoder = networks.ResNet((1, 1), 8, block=resnets.sk_bottleneck).to(device)
        for seed, p in enumerate(encoder.parameters()):
            p.data = (random(*p.shape, seed=seed) - 0.4).to(device)
        block, x = encoder.stages[stage], random(3, (8, 32)[stage], side, side) - 0.5
        wanted = torch.from_numpy(sk_block_loop(array(x), block, stage + 1)).float()
        assert_close(block(x.to(device)).cpu(), wanted, rtol=1e-3, atol=1e-3)


def whole_loss(z):
    """A loss in which every embedding of a batch (B, D) meets every other."""
    return (z @ z.T).log_softmax(1).diagonal().square().sum()


def grad_cache(network, x, n):
    """Embeddings by n parts without a graph, the gradient of the loss for each, then part after part once more."""
    second = copy.deepcopy(network)
    with torch.no_grad():
        z = torch.cat([network(part) for part in x.chunk(n)])
    z.requires_grad_()
    (g,) = torch.autograd.grad(whole_loss(z), z)
    for part, g_part in zip(x.chunk(n), g.chunk(n), strict=True):
        second(part).backward(g_part)
    gradients = {name: p.grad for name, p in second.named_parameters()}
    return z.detach(), gradients, dict(network.named_buffers())


def learn(network, x, n):
    """Embeddings, gradients and running statistics of a step in n parts."""
    z = memory.in_parts(network, x, n)
    whole_loss(z).backward()
    return z.detach(), {name: p.grad for name, p in network.named_parameters()}, dict(network.named_buffers())


def two_networks(recompute, training=True):
    """The same encoder and head twice, in float64, the second with or without recomputed blocks."""
    head = mlp(32, 16, 8)
    encoders = [networks.ResNet((1, 1, 1), 8, 2, recompute=r) for r in (False, recompute)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    return [torch.nn.Sequential(f, copy.deepcopy(head)).double().train(training) for f in encoders]


def check_memory(device):
    x = random(24, 3, 12, 12).double()
    for n, recompute in itertools.product((1, 2, 4, 12), (False, True)):
        one, other = two_networks(recompute)
        assert_close(learn(other, x, n), grad_cache(one, x, n), rtol=1e-9, atol=1e-12)
        assert all(int(b) == n for name, b in other.named_buffers() if name.endswith("num_batches_tracked"))


def joint(networks, views):
    """Projections of views, (views, B, D): the encoder takes all of one size at once, the projector all, by hand."""
    features = {}
    for side in {x.shape[-1] for x in views}:
        same = [v for v, x in enumerate(views) if x.shape[-1] == side]
        found = networks["encoder"](torch.cat([views[v] for v in same])).chunk(len(same))
        features |= dict(zip(same, found, strict=True))
    return networks["projector"](torch.cat([features[v] for v in range(len(views))])).unflatten(0, (len(views), -1))


# ---- queue, votes, positives ---------------------------------------------------------------------


def fifo(state, t, y, ids):
    """Write the labelled rows of a batch one by one: state = [keys (L, Q, D), labels, ids (Q,), pointer]."""
    keys, labels, kept_ids, pointer = state
    for row in range(len(y)):
        if y[row] >= 0:
            keys[:, pointer], labels[pointer], kept_ids[pointer] = t[:, row], y[row], ids[row]
            pointer = (pointer + 1) % len(labels)
    return [keys, labels, kept_ids, pointer]


def queue_state(queue):
    return [array(queue.keys).copy(), array(queue.labels).copy(), array(queue.ids).copy(), int(queue.pointer)]


def check_queue(device):
    for capacity, batch in ((5, 3), (4, 9), (7, 7), (1, 4), (64, 6)):
        queue = LabelledQueue(2, capacity, 4).to(device)
        state = queue_state(queue)
        for step in range(12):
            t, ids = units(2, batch, 4, seed=step), torch.arange(batch) + 100 * step
            y = (random(batch, seed=step) * 4).long() - 1  # -1, 0, 1, 2
            if step == 5:
                y[:] = -1  # a batch without labels
            if step == 6:
                y[:] = 2  # one with labels only, more than the smaller queues hold
            queue.enqueue(t.to(device), y.to(device), ids.to(device))
            state = fifo(state, array(t), y.numpy(), ids.numpy())
            for ours, wanted in zip(queue_state(queue), state, strict=True):
                np.testing.assert_array_equal(ours, wanted)
            assert int(queue.filled) == (state[1] >= 0).sum()
            assert int(queue.all_labels[capacity]) == -1  # the trash slot never looks filled


def majority_loop(labels, weights):
    """The most frequent label >= 0; ties by larger summed weight, then smaller label; else (-1, 0)."""
    tally = {}
    for label, weight in zip(labels, weights, strict=True):
        if label >= 0:
            count, total = tally.get(label, (0, 0.0))
            tally[label] = (count + 1, total + weight)
    if not tally:
        return -1, 0.0
    winner = min(tally, key=lambda label: (-tally[label][0], -tally[label][1], label))
    return winner, tally[winner][1]


def check_majority(device):
    labels = (random(300, 16, seed=0) * 5).long() - 1  # -1..3
    labels[:100, 4:] = -1  # few votes make many ties
    weights = (random(300, 16, seed=1) * 9).floor() / 4 - 1  # exact sums, negative ones too
    by_hand = torch.tensor([[2] * 8 + [9] * 8, [2] * 8 + [9] * 8, [-1] * 15 + [3], [-1] * 16])
    by_weight_then_order = torch.tensor([[0.25] * 8 + [0.5] * 8, [0.5] * 16, [0.0] * 16, [1.0] * 16])
    given = torch.cat([by_hand, labels]), torch.cat([by_weight_then_order, weights])
    label, weight = pseudo_labels.majority(*(x.to(device) for x in given), 10)
    wanted = [majority_loop(*row) for row in zip(labels.tolist(), weights.tolist(), strict=True)]
    assert label.tolist() == [9, 2, 3, -1] + [w[0] for w in wanted]
    assert weight.tolist() == [4.0, 4.0, 0.0, 0.0] + [w[1] for w in wanted]


def vote_loop(o, keys, labels, k):
    """Each view o (L, B, D) asks each queue (A, Q, D) for k filled slots -> y_bar (B,), votes (B, L * A)."""
    filled, y_bar, votes = np.flatnonzero(labels >= 0), [], []
    for b in range(o.shape[1]):
        found = []
        for j, a in itertools.product(range(len(o)), range(len(keys))):
            cosine = np.array([o[j, b] @ keys[a, slot] for slot in filled])
            nearest = np.argsort(-cosine)[:k]
            found.append(majority_loop(labels[filled][nearest].tolist(), cosine[nearest].tolist()))
        votes.append([label for label, _ in found])
        y_bar.append(majority_loop(votes[-1], [weight for _, weight in found])[0])
    return np.array(y_bar), np.array(votes)


def check_vote(device):
    for k, filled, seed in ((1, 24, 0), (5, 24, 1), (5, 3, 2), (3, 0, 3)):
        o, keys = units(4, 12, 6, seed=seed), units(4, 32, 6, seed=seed + 10)
        labels = torch.full((32,), -1)
        labels[:filled] = (random(filled, seed=seed) * 7).long()
        keys[:, 24:] = o[:, :8]  # empty slots hold the queries themselves: nothing would be nearer
        y_bar, votes = vote_loop(array(o), array(keys), labels.numpy(), k)
        for chunk_mb in (256, 1e-6):  # all queries at once, and one at a time
            ours = pseudo_labels.vote(o.to(device), keys.to(device), labels.to(device), k, 7, chunk_mb)
            assert ours[1].shape == (12, 16)
            assert ours[1].tolist() == votes.tolist()
            assert ours[0].tolist() == y_bar.tolist()


def allowed_slots(queue_labels, queue_ids, label, image, exclude_self):
    """Slots a row may draw, in the order of (label, id): a loop over the queue."""
    slots = [
        slot for slot in range(len(queue_labels))
        if label >= 0 and queue_labels[slot] == label and not (exclude_self and queue_ids[slot] == image)
    ]  # fmt: skip
    return sorted(slots, key=lambda slot: (queue_ids[slot], slot))


def check_positives(device):
    labels = torch.tensor([1, 0, -1, 1, 2, 1, 0, -1, 1, 3, 1, 0])
    ids = torch.tensor([7, 7, -1, 5, 4, 7, 9, -1, 2, 8, 30, 11])  # image 7 is in three times, once of class 0
    y_bar = torch.tensor([1, 1, 0, -1, 4, 3, 2, 1, 0])
    images = torch.tensor([7, 6, 7, 7, 1, 8, 5, 40, 2])  # image 8 is the only entry of class 3
    every = 2520  # a grid that is spread evenly over any n <= 10 slots
    u = ((torch.arange(every) + 0.5) / every).expand(len(y_bar), every)
    rows = list(zip(y_bar.tolist(), images.tolist(), strict=True))
    for exclude_self in (True, False):
        given = (x.to(device) for x in (labels, ids, y_bar, images, u))
        slots, valid = positives.draw_positives(*given, exclude_self)
        for row, (label, image) in enumerate(rows):
            allowed = allowed_slots(labels.tolist(), ids.tolist(), label, image, exclude_self)
            assert bool(valid[row]) == bool(allowed)
            if allowed:
                drawn = torch.bincount(slots[row].cpu(), minlength=12).tolist()
                assert drawn == [every // len(allowed) if slot in allowed else 0 for slot in range(12)]


# ---- losses --------------------------------------------------------------------------------------


def check_negatives(device):
    """N(m) is N distinct rows, never m, and over many draws all sets of N other rows are equally likely."""
    draws = 3000
    sets = {}
    for seed in range(draws):
        drawn = losses.draw_negatives(5, 2, torch.Generator().manual_seed(seed))
        assert drawn.shape == (5, 2)
        for m, row in enumerate(drawn.tolist()):
            assert m not in row and len(set(row)) == 2 and set(row) <= set(range(5))
            sets[m, frozenset(row)] = sets.get((m, frozenset(row)), 0) + 1
    spread = 5 * math.sqrt(draws / 6)  # five standard deviations
    assert len(sets) == 5 * 6 and all(abs(count - draws / 6) < spread for count in sets.values())


def log_softmax(a):
    return a - a.max() - np.log(np.exp(a - a.max()).sum())


def logits_loop(o, t, negatives, tau, ids=None):
    """The 1 + N similarities of each online view i, target view j and image m: (I, J, B, 1 + N)."""
    a = np.empty((len(o), len(t), len(negatives), 1 + negatives.shape[1]))
    for i, j, m in np.ndindex(a.shape[:3]):
        a[i, j, m] = [o[i, m] @ t[j, n] / tau for n in (m, *negatives[m])]
        if ids is not None:  # a negative with the row's own id does not count
            a[i, j, m, 1:][ids[negatives[m]] == ids[m]] = -1e4
    return a


def check_logits(device):
    o, t, tau = units(3, 7, 5, seed=0), units(2, 7, 5, seed=1), 0.3
    negatives = losses.draw_negatives(7, 4, torch.Generator().manual_seed(2))
    ours = losses.logits(o.to(device), t.to(device), negatives.to(device), tau)
    wanted = logits_loop(array(o), array(t), negatives.numpy(), tau)
    np.testing.assert_allclose(array(ours), wanted, atol=1e-5)


def nce_loop(a, valid):
    """Mean of -log softmax(a)[0] over the valid entries; 0 without any."""
    each = [-log_softmax(a[at])[0] for at in np.ndindex(a.shape[:-1]) if valid[at]]
    return np.mean(each) if each else 0.0


def check_nce(device):
    a = 5 * units(3, 2, 6, 11, seed=0)
    valid = torch.tensor([True, False, True, True, False, False])
    for mask in (None, valid, torch.zeros(6, dtype=torch.bool)):
        wanted = nce_loop(array(a), np.broadcast_to(True if mask is None else mask.numpy(), (3, 2, 6)))
        ours = losses.nce(a.to(device), None if mask is None else mask.to(device))
        assert abs(float(ours) - wanted) < 1e-5
    assert abs(float(losses.nce(torch.zeros(4, 11, device=device))) - math.log(11)) < 1e-6


def kl_loop(a, valid):
    """Mean KL(p_ij || p_ji) over valid entries of ordered pairs i != j: a (L, L, ..., 1 + N)."""
    each = []
    for i, j, *rest in np.ndindex(a.shape[:-1]):
        if i != j and valid[tuple(rest)]:
            log_p, log_q = log_softmax(a[(i, j, *rest)]), log_softmax(a[(j, i, *rest)])
            each.append((np.exp(log_p) * (log_p - log_q)).sum())
    return np.mean(each) if each else 0.0


def check_kl(device):
    a = 5 * units(3, 3, 5, 2, 11, seed=0)  # (L, L, B, R, 1 + N)
    valid = torch.tensor([True, False, True, True, False])[:, None]
    for mask in (None, valid, torch.zeros(5, 1, dtype=torch.bool)):
        wanted = kl_loop(array(a), np.broadcast_to(True if mask is None else mask.numpy(), (5, 2)))
        ours = losses.invariance(a.to(device), None if mask is None else mask.to(device))
        assert abs(float(ours) - wanted) < 1e-5 and float(ours) >= 0
    same = (a + a.transpose(0, 1)).to(device)  # p_ij = p_ji
    assert abs(float(losses.invariance(same))) < 1e-6


def kl_gradient_loop(a, detach):
    """d/da of kl_loop, all valid, with p_ij constant ("argument") or E_p log p alone ("entropy")."""
    grad, pairs = np.zeros_like(a), 0
    for i, j, m in np.ndindex(a.shape[:-1]):
        if i == j:
            continue
        pairs += 1
        p, log_q = np.exp(log_softmax(a[i, j, m])), log_softmax(a[j, i, m])
        grad[j, i, m] += np.exp(log_q) - p
        if detach == "entropy":
            grad[i, j, m] += p * ((p * log_q).sum() - log_q)
    return grad / pairs


def check_kl_gradient(device, detach="argument"):
    a = (3 * units(3, 3, 4, 6, seed=1)).to(device).requires_grad_()
    losses.invariance(a, detach=detach).backward()
    np.testing.assert_allclose(array(a.grad), kl_gradient_loop(array(a), detach), atol=1e-6)


# ---- the whole objective -------------------------------------------------------------------------


def step_inputs(config, classes, seed, device, labelled=0.4):
    """Random views, batch and draws of one step; about `labelled` of the images have a label."""
    B = config.batch_size
    sizes = [config.large_size] * config.large_views + [config.small_size] * config.small_views
    x = [(4 * units(B, 3, s, s, seed=100 * seed + v)).to(device) for v, s in enumerate(sizes)]
    truth = (random(B, seed=seed) * classes).long()
    labels = torch.where(random(B, seed=seed + 50) < labelled, truth, -1)
    batch = semppl.Batch(labels.to(device), torch.arange(B, device=device) % (B - 1))  # one image stands there twice
    return x, batch, semppl.Draws(*(d.to(device) for d in semppl.draw_step(config, seed)))


def objective_loop(config, o, t, state, y, ids, negatives, u):
    """One step in loops and float64: enqueue, vote, draw, compare -> loss terms, y_bar, votes' majority."""
    L, n_views, B, R = len(t), len(o), len(y), u.shape[1]
    keys, labels, kept_ids, _ = fifo(state, t, y, ids)
    voted = vote_loop(o[:L], keys, labels, config.k)[0]
    y_bar = np.where(y >= 0, y, voted)
    a = logits_loop(o, t, negatives, config.tau, ids)
    q = np.repeat(a[:, :, :, None], R, 3)
    valid = np.zeros((B, R), bool)
    for m, r in np.ndindex(B, R):
        allowed = allowed_slots(labels, kept_ids, y_bar[m], ids[m], config.exclude_self)
        if allowed:
            valid[m, r] = True
            slot = allowed[int(u[m, r] * len(allowed))]
            for i, j in np.ndindex(n_views, L):
                q[i, j, m, r, 0] = o[i, m] @ keys[j, slot] / config.tau
    everywhere = np.ones((n_views, L, B), bool)
    terms = {
        "L_augm": nce_loop(a, everywhere),
        "I_augm": kl_loop(a[:L], everywhere[0, 0]),
        "L_sempos": nce_loop(q, np.broadcast_to(valid, q.shape[:4])),
        "I_sempos": kl_loop(q[:L], valid),
    }
    return terms, y_bar, voted


def check_objective(device):
    """SemPPL.forward on 4 + 2 views against the loops, over steps in which a small queue fills and wraps."""
    config = tiny(large_views=4, small_views=2, batch_size=9, queue=10)
    method = SemPPL(config, 3).to(device)
    contradicted = 0
    for step in range(4):
        x, batch, draws = step_inputs(config, 3, step, device)
        twin, state = copy.deepcopy(method), queue_state(method.queue)
        o, t = torch.stack([twin.predict(v) for v in x]), torch.stack([twin.project(v) for v in x[:4]])
        given = (array(v) for v in (o, t)), (array(v) for v in (*batch[:2], *draws))
        terms, y_bar, voted = objective_loop(config, *given[0], state, *given[1])
        loss, seen = method(x, batch, draws)
        assert seen["votes"].shape == (9, 16)
        assert seen["voted"].tolist() == voted.tolist() and seen["y_bar"].tolist() == y_bar.tolist()
        contradicted += (voted != y_bar).sum()
        for name, wanted in terms.items():
            assert abs(float(seen["terms"][name].detach()) - wanted) < 2e-5 * max(1, wanted), name
        wanted = 0.3 * (terms["L_augm"] + 0.2 * terms["L_sempos"]) + 5 * (terms["I_augm"] + terms["I_sempos"])
        assert abs(float(loss.detach()) - wanted) < 1e-4 * wanted
    assert contradicted  # the votes were wrong about some labelled images, and did not count there
    assert min(terms.values()) > 0


# ---- target, optimizer, schedule -----------------------------------------------------------------


def check_ema(device):
    target, online = mlp(3, 4, 2).to(device), mlp(3, 4, 2).to(device)
    for gamma in (0.99, 0.3, 0.0, 1.0):
        before = [array(p) for p in target.parameters()]
        optim.ema_update(target, online, gamma)
        for old, xi, theta in zip(before, target.parameters(), online.parameters(), strict=True):
            np.testing.assert_allclose(array(xi), gamma * old + (1 - gamma) * array(theta), atol=1e-6)


def check_target_follows_step(device):
    """A training step moves the target by the EMA formula, towards the weights after the optimizer's step."""
    config = tiny(device=str(device), warmup_epochs=0)
    trainer = Bare(config, tiny_data().train)
    trainer.step(0, trainer.batches.prepare(0, torch.arange(16)))  # before it, the target equals the online network
    target = [array(p) for p in trainer.method.target.parameters()]
    theta = {name: array(p) for name, p in trainer.method.online.named_parameters()}
    trainer.step(1, trainer.batches.prepare(1, torch.arange(16, 32)))
    moved = 0
    named = trainer.method.target.named_parameters()
    for old, (name, xi) in zip(target, named, strict=True):
        now = array(trainer.method.online.get_parameter(name))
        np.testing.assert_allclose(array(xi), 0.9 * old + 0.1 * now, atol=1e-6, err_msg=name)
        moved = max(moved, abs(now - theta[name]).max())
    assert moved > 1e-3  # else before and after the step would look alike


def lars_loop(weights, gradients, lr, momentum, weight_decay, eta, exclude):
    """Weights after LARS steps with the given gradients, float64: one parameter."""
    w, v = weights, np.zeros_like(weights)
    for g in gradients:
        u = g + (0 if exclude else weight_decay * w)
        if not exclude and np.linalg.norm(w) > 0 and np.linalg.norm(u) > 0:
            u = u * eta * np.linalg.norm(w) / np.linalg.norm(u)
        v = momentum * v + u
        w = w - lr * v
    return w


def check_lars(device):
    settings = dict(momentum=0.9, weight_decay=0.1, eta=0.02)
    module = mlp(5, 4, 3)  # Linear, batch norm, ReLU, Linear without bias
    torch.nn.init.zeros_(module[3].weight)  # no norm, no adaptation
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    gradients = {name: [units(*p.shape, seed=s) for s in range(5)] for name, p in module.named_parameters()}
    gradients["0.weight"][2].zero_()  # only weight decay moves it here
    optimizer = lars.LARS(lars.param_groups(module.to(device)), lr=0.7, **settings)
    for step in range(5):
        for name, p in module.named_parameters():
            p.grad = gradients[name][step].to(device)
        optimizer.step()
    for name, p in module.named_parameters():
        exclude = name not in ("0.weight", "3.weight")  # biases and batch norm
        given = array(start[name]), [array(g) for g in gradients[name]]
        wanted = lars_loop(*given, 0.7, **settings, exclude=exclude)
        np.testing.assert_allclose(array(p), wanted, atol=1e-5, err_msg=name)


def muon_loop(weights, gradients, lr, mu, scale):
    """What Muon makes of convolutions in float64 NumPy, by the singular values of each step."""
    for i, w in enumerate(weights):
        w, m = array(w).copy(), 0
        for g in gradients:
            g = array(g[i])
            m = mu * m + g
            U, s, V = np.linalg.svd((g + mu * m).reshape(len(g), -1), full_matrices=False)
            s = s / np.sqrt((s**2).sum())
            for _ in range(3):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            w = w / np.sqrt((w**2).sum()) * np.sqrt(len(w)) - scale * lr * ((U * s) @ V).reshape(w.shape)
        yield w


def check_muon(device):
    """Wide and tall convolutions turn as by NumPy; matrices and vectors move as by torch's AdamW."""
    shapes, adamw = [(8, 4, 3, 3), (48, 4, 3, 3), (5, 6), (7,)], {"betas": (0.9, 0.99), "weight_decay": 0.1}
    start = [units(*shape, seed=i).double().to(device) for i, shape in enumerate(shapes)]
    gradients = [[units(*shape, seed=seed).double().to(device) for shape in shapes] for seed in (7, 8, 9)]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizers = muon.Muon(ours, lr=0.01, mu=0.6, scale=20.0, **adamw), torch.optim.AdamW(theirs, lr=0.01, **adamw)
    for step in gradients:
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for w, g in zip(parameters, step, strict=True):
                w.grad = g.clone()
            optimizer.step()
    for w, wanted in zip(ours, muon_loop(start[:2], gradients, 0.01, 0.6, 20.0), strict=False):
        assert_close(array(w), wanted, rtol=1e-6, atol=1e-8)
    for w, wanted in zip(ours[2:], theirs[2:], strict=True):
        assert_close(w, wanted)


def patches_of(images, mean, std):
    """All 2x2 patches of uint8 images (n, 3, H, W), normalised, colour by colour, as float64 NumPy rows of 12."""
    x = (array(images) / 255 - np.array(mean).reshape(3, 1, 1)) / np.array(std).reshape(3, 1, 1)
    n, _, H, W = x.shape
    return np.array([x[i, :, h : h + 2, w : w + 2].ravel()
                     for i in range(n) for h in range(H - 1) for w in range(W - 1)])  # fmt: skip


def check_whitening(device):
    """W (mean p p^T + 5e-4) W^T = 1, filters from the strongest on; each stem the same, and its negatives."""
    config, images = tiny(backbone="airbench", small_size=9), tiny_data().train.take(torch.arange(6))
    method = SemPPL(config, 10).to(device)
    networks.begin(method, images, config)
    stems = [m for m in method.modules() if isinstance(m, airbench.Whitening)]
    assert len(stems) == 2 and torch.equal(stems[0].weight, stems[1].weight)
    W, p = array(stems[0].weight).reshape(24, 12), patches_of(images.images, config.mean, config.std)
    assert_close(W[:12], -W[12:])
    moment = p.T @ p / len(p) + 5e-4 * np.eye(12)
    assert_close(W[:12] @ moment @ W[:12].T, np.eye(12), rtol=0, atol=1e-3)
    power = ((p @ W[:12].T) ** 2).mean(0) / (W[:12] ** 2).sum(1)  # of each filter's direction
    assert (np.diff(power) <= 1e-6 * power[0]).all()


def airbench_loop(network, x):
    """The network in training mode, layer by layer, in float64 NumPy."""
    gelu = np.vectorize(lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))))
    stem = network.stem[0]
    windows = np.lib.stride_tricks.sliding_window_view(array(x), (2, 2), (2, 3))
    x = gelu(np.einsum("bchwij,ocij->bohw", windows, array(stem.weight)) + array(stem.bias)[:, None, None])
    for first, _, norm1, _, second, norm2, _ in network.stages:
        x = conv_loop(x, array(first.weight))
        H, W = x.shape[2] // 2, x.shape[3] // 2
        x = x[:, :, : 2 * H, : 2 * W].reshape(*x.shape[:2], H, 2, W, 2).max((3, 5))
        x = gelu(norm_loop(conv_loop(gelu(norm_loop(x, norm1)), array(second.weight)), norm2))
    return x.mean((2, 3))


def check_airbench(device):
    network = airbench.airbench(8).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
        torch.nn.init.normal_(network.stem[0].bias)
        x = torch.randn(2, 3, 17, 15)
    assert_close(array(network(x.to(device))), airbench_loop(network, x), rtol=1e-3, atol=1e-4)


def check_schedule(device=None):
    config = tiny(epochs=12, warmup_epochs=3, lr=0.3, batch_size=64)
    peak = 0.3 * 64 / 256
    wanted = {0: 0, 1: peak / 3, 1.5: peak / 2, 3: peak, 7.5: peak / 2, 6: 0.75 * peak, 12: 0}
    for epoch, rate in wanted.items():
        assert abs(optim.lr_at(config, epoch) - rate) < 1e-12, epoch
    rates = [optim.lr_at(config, e / 10) for e in range(121)]
    assert rates[:31] == sorted(rates[:31]) and rates[30:] == sorted(rates[30:], reverse=True)


# ---- runs ----------------------------------------------------------------------------------------


def weights(run):
    """Everything a method keeps: weights, batch-norm statistics, queues."""
    return {name: value.cpu() for name, value in run.method.state_dict().items()}


def differing(one, other):
    """Names of the tensors in which two runs differ by as much as a bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def with_train(data, **changes):
    """The data with some fields of its training set exchanged."""
    return dataclasses.replace(data, train=dataclasses.replace(data.train, **changes))


def hidden_permuted(data):
    """The data with the true classes of the unlabelled training images permuted among them."""
    hidden = (data.train.labels < 0).nonzero().squeeze(1)
    truth = data.train.truth.clone()
    truth[hidden] = truth[hidden].roll(len(hidden) // 2)
    assert (truth != data.train.truth).float().mean() > 0.5
    return with_train(data, truth=truth)


def check_hidden(device=None, **changes):
    """Hidden labels leave no trace: not in a weight, not in a buffer, queues included, not in a loss."""
    config = tiny(labelled_share=0.25, precision="fp32", **changes)
    runs = [fit(config, data, progress=False) for data in (tiny_data(), hidden_permuted(tiny_data()))]
    assert not differing(*map(weights, runs))
    one, other = (run.history[-1] for run in runs)
    assert one["loss"] == other["loss"]
    assert one["false_negatives"] != other["false_negatives"]  # the monitor alone did see them
