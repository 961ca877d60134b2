"""What else the three papers measure of a frozen encoder: clusters, few shots, retrieval, copies, robustness.

As in `evaluate`, features f(x) are of whole images, and only labelled ones train. Features (n, D), classes (n,).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from ..data import Data, pick
from ..method import encode
from ..rng import EVALUATION, generator
from .corruptions import jpeg, robustness
from .evaluation import fit_probe, labelled_images, standardised


class Pixels(nn.Flatten):
    """An encoder that learns nothing: an image's normalised pixels. The baseline of every read-out."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)  # read-outs ask an encoder for device and type


def clustering(features: Tensor, truth: Tensor, k: int, seed: int = 0) -> dict:
    """k-means (best of 10 starts) of unit features (n, D) against classes (n,): {"nmi", "ari"}, 1 = the same."""
    from sklearn import cluster, metrics

    found = cluster.KMeans(k, n_init=10, random_state=seed).fit_predict(F.normalize(features, dim=1).numpy())
    nmi = metrics.normalized_mutual_info_score(truth.numpy(), found)
    return {"nmi": float(nmi), "ari": float(metrics.adjusted_rand_score(truth.numpy(), found))}


def few_shot(features, labels, test_features, test_labels, shots: int, draws: int = 5, seed: int = 0, C=0.01) -> dict:
    """Accuracy {"mean", "std"} over draws of a linear SVM on `shots` images a class (CARP), or ValueError; C [ours]."""
    from sklearn.svm import LinearSVC

    if (least := int(labels.bincount().min())) < shots:
        raise ValueError(f"shots = {shots} images a class asked, and one class has {least}; give at most that.")
    classes = len(labels.unique())
    picked = [pick(labels, shots * classes, classes, seed + draw) for draw in range(draws)]
    svms = [standardised(LinearSVC(C=C, random_state=0)).fit(features[i], labels[i]) for i in picked]
    accuracy = [svm.score(test_features, test_labels) for svm in svms]
    return {"mean": float(np.mean(accuracy)), "std": float(np.std(accuracy))}


def retrieval(features: Tensor, truth: Tensor) -> float:
    """Mean average precision of ranking all other images by cosine (CARP, DINO): (n, D), classes (n,) -> a share.

    AP = mean over the right answers of (right answers up to this one) / its rank. Images alone in their class ask not.
    """
    x, precision = F.normalize(features, dim=1), []
    for rows in torch.arange(len(x)).split(500):
        similar = (x[rows] @ x.T).scatter(1, rows[:, None], -torch.inf)  # itself comes last, and is no answer
        right = truth[similar.argsort(dim=1, descending=True)[:, :-1]] == truth[rows, None]  # (rows, n - 1)
        at, found = right.cumsum(1) / torch.arange(1, len(x)), right.sum(1)
        precision.append(((at * right).sum(1) / found.clamp(min=1))[found > 0])
    return float(torch.cat(precision).mean())


def copies(encoder: nn.Module, config, images: Tensor, seed: int = 0, queries: int = 1000) -> dict:
    """Transformed copies of `queries` uint8 images of (n, 3, H, W), evenly spread, look for their originals among all.

    {"mrr", "first"}: mean of 1 / rank of the original, share that ranks it first. After Copydays, in CARP and DINO.
    """
    own = spread(len(images), queries)
    copied = torch.stack([transformed(images[i], generator(seed, i, EVALUATION)) for i in own.tolist()])
    every, asked = (F.normalize(encode(encoder, x, config), dim=1) for x in (images, copied))
    similar = asked @ every.T  # (queries, n)
    rank = 1 + (similar > similar.gather(1, own[:, None])).sum(1)
    return {"mrr": float((1 / rank).mean()), "first": float((rank == 1).float().mean())}


def spread(n: int, count: int) -> Tensor:
    """At most `count` of n indices, evenly spread: sets may come sorted by class."""
    return torch.arange(n)[:: -(-n // count)]


def transformed(x: Tensor, rng: torch.Generator) -> Tensor:
    """A copy of a uint8 image (3, H, W): half to nine tenths of each side, resized back, JPEG at quality 30 [ours]."""
    whole = torch.tensor(x.shape[1:])
    side = (whole * (0.5 + 0.4 * torch.rand(2, generator=rng))).round().long()
    top = (torch.rand(2, generator=rng) * (whole - side + 1)).long()
    return jpeg(tv.resized_crop(x, *top.tolist(), *side.tolist(), whole.tolist(), antialias=True), 30)


def measure(encoder: nn.Module, config, data: Data, split: str = "test", shots=(1, 5, 20), n: int = 2000) -> dict:
    """All of the above on a split: clustering and retrieval of its images, copies and robustness of about n of them."""
    bank, asked = labelled_images(data), getattr(data, split)
    x, q = (encode(encoder, s, config) for s in (bank, asked))
    probe, some, least = fit_probe(x, bank.labels), spread(len(asked), n), int(bank.labels.bincount().min())
    return {
        "split": split, "bank": len(bank),
        "clustering": clustering(q, asked.truth, len(data.classes)),
        "few_shot": {k: few_shot(x, bank.labels, q, asked.truth, k) for k in shots if k <= least},
        "retrieval": retrieval(q, asked.truth),
        "copies": copies(encoder, config, asked.images),
        "clean": float(probe.score(q[some], asked.truth[some])),
        "robustness": robustness(encoder, config, probe, asked.images[some], asked.truth[some]),
    }  # fmt: skip
