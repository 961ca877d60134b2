"""What else the three papers measure of a frozen encoder: clusters, few shots, retrieval, copies, robustness.

    clustering    k-means of the features against the true classes: NMI and adjusted Rand index
    few_shot      a linear SVM on n images a class, mean and spread over draws of them (CARP)
    retrieval     mean average precision of ranking all other images of the split by cosine (CARP, DINO)
    copies        find the original of a transformed copy among distractors: mean reciprocal rank, which is the mean
                  average precision of one right answer, and the share found first (after Copydays, in CARP and DINO)
    robustness    accuracy of the clean linear probe on corrupted images, after CIFAR-C (Hendrycks and Dietterich, 2019)

All work on features f(x) of whole images as `evaluate` does. The true classes of the split that is asked are used, as
every read-out does; few_shot and robustness train on images with a label alone. Transfer is `evaluate` and `measure`
on another data set. The corruptions follow CIFAR-C's kinds and severities but are computed here, on decoded images, so
figures compare among our runs, not with published ones. n images, C classes, D feature width.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from ..data import Data, pick
from ..method import encode
from ..rng import EVALUATION, generator
from .evaluation import fit_probe, labelled_images


class Pixels(nn.Module):
    """An encoder that learns nothing: an image's normalised pixels. The baseline of every read-out."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)  # read-outs ask an encoder for device and type

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)


def clustering(features: Tensor, truth: Tensor, k: int, seed: int = 0) -> dict:
    """k-means (best of 10 starts) of unit features (n, D) against classes (n,): {"nmi", "ari"}, 1 = the same."""
    found = KMeans(k, n_init=10, random_state=seed).fit_predict(F.normalize(features, dim=1).numpy())
    truth = truth.numpy()
    return {"nmi": float(normalized_mutual_info_score(truth, found)), "ari": float(adjusted_rand_score(truth, found))}


def few_shot(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    shots: int,
    draws: int = 5,
    seed: int = 0,
    C: float = 0.01,
) -> dict:
    """Accuracy of a linear SVM on `shots` images a class: {"mean", "std"} over draws; C [ours]. ValueError: too few."""
    if (least := int(labels.bincount().min())) < shots:
        raise ValueError(f"shots = {shots} images a class asked, and one class has {least}; give at most that.")
    accuracy = []
    for draw in range(draws):
        index = pick(labels, shots * len(labels.unique()), len(labels.unique()), seed + draw)
        svm = make_pipeline(StandardScaler(), LinearSVC(C=C, random_state=0)).fit(features[index], labels[index])
        accuracy.append(float(svm.score(test_features, test_labels)))
    return {"mean": float(np.mean(accuracy)), "std": float(np.std(accuracy))}


def retrieval(features: Tensor, truth: Tensor) -> float:
    """Mean average precision: each image asks for the others of its class, ranked by cosine. (n, D), (n,) -> a share.

    AP = mean over the right answers of (right answers up to this one) / its rank. Images alone in their class ask not.
    """
    x, precision = F.normalize(features, dim=1), []
    for rows in torch.arange(len(x)).split(500):
        similar = x[rows] @ x.T
        similar[torch.arange(len(rows)), rows] = -torch.inf  # itself comes last, and is no answer
        right = truth[similar.argsort(dim=1, descending=True)[:, :-1]] == truth[rows, None]  # (rows, n - 1)
        at = right.cumsum(1) / torch.arange(1, len(x))
        found = right.sum(1)
        precision.append(((at * right).sum(1) / found.clamp(min=1))[found > 0])
    return float(torch.cat(precision).mean())


def copies(encoder: nn.Module, config, images: Tensor, seed: int = 0, queries: int = 1000) -> dict:
    """Transformed copies of `queries` uint8 images of (n, 3, H, W), evenly spread, look for their originals among all.

    {"mrr", "first"}: mean of 1 / rank of the original, and the share that ranks it first.
    """
    own = spread(len(images), queries)
    copied = torch.stack([transformed(images[i], generator(seed, i, EVALUATION)) for i in own.tolist()])
    all_, asked = (F.normalize(encode(encoder, x, config), dim=1) for x in (images, copied))
    similar = asked @ all_.T  # (queries, n)
    rank = 1 + (similar > similar.gather(1, own[:, None])).sum(1)
    return {"mrr": float((1 / rank).mean()), "first": float((rank == 1).float().mean())}


def spread(n: int, count: int) -> Tensor:
    """At most `count` of n indices, evenly spread: sets may come sorted by class."""
    return torch.arange(n)[:: -(-n // count)]


def transformed(x: Tensor, rng: torch.Generator) -> Tensor:
    """A copy of a uint8 image (3, H, W): half to nine tenths of each side, resized back, JPEG at quality 30 [ours]."""
    side = (torch.tensor(x.shape[1:]) * (0.5 + 0.4 * torch.rand(2, generator=rng))).round().long()
    top = (torch.rand(2, generator=rng) * (torch.tensor(x.shape[1:]) - side + 1)).long()
    return jpeg(tv.resized_crop(x, *top.tolist(), *side.tolist(), list(x.shape[1:]), antialias=True), 30)


# ---- corruptions: uint8 image (3, H, W) -> the same, severity 1 to 5 -----------------------------------------------


def jpeg(x: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(x.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def _noise(x: Tensor, spread: float, rng) -> Tensor:
    return x + spread * torch.randn(x.shape, generator=rng)


def _shot(x: Tensor, photons: float, rng) -> Tensor:
    return torch.poisson(x * photons, generator=rng) / photons


def _impulse(x: Tensor, share: float, rng) -> Tensor:
    hit, salt = torch.rand(2, *x.shape, generator=rng)
    return torch.where(hit < share, (salt < 0.5).to(x.dtype), x)


def _blur(x: Tensor, sigma: float, rng) -> Tensor:
    return tv.gaussian_blur(x, [2 * round(3 * sigma) + 1] * 2, [sigma, sigma])


def _pixelate(x: Tensor, share: float, rng) -> Tensor:
    small = [max(1, round(side * share)) for side in x.shape[1:]]
    return F.interpolate(F.interpolate(x[None], small, mode="area"), x.shape[1:], mode="nearest")[0]


CORRUPTIONS = {  # name: (function of an image in [0, 1], its strength by severity)
    "gaussian_noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "brightness": (lambda x, c, rng: x + c, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (lambda x, c, rng: (x - x.mean((1, 2), keepdim=True)) * c + x.mean((1, 2), keepdim=True),
                 (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": (lambda x, c, rng: tv.adjust_saturation(x.clamp(0, 1), c), (0.7, 0.5, 1.7, 2.2, 2.7)),
    "jpeg": (None, (80, 65, 58, 50, 40)),
}  # fmt: skip


def corrupted(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """uint8 images (n, 3, H, W) -> the same, corrupted; severity 1 to 5; equal for equal seeds."""
    corrupt, strengths = CORRUPTIONS[name]
    strength, rng = strengths[severity - 1], generator(seed, severity, EVALUATION)
    if corrupt is None:
        return torch.stack([jpeg(x, strength) for x in images])
    worse = (corrupt(x.float() / 255, strength, rng) for x in images)
    return torch.stack([(x * 255).round().clamp(0, 255).byte() for x in worse])


def robustness(encoder: nn.Module, config, probe, images: Tensor, truth: Tensor) -> dict:
    """Accuracy of a fitted probe on corrupted uint8 images (n, 3, H, W): {corruption: mean over severities, "mean"}."""
    result = {}
    for name in CORRUPTIONS:
        seen = (encode(encoder, corrupted(images, name, severity), config) for severity in range(1, 6))
        result[name] = float(np.mean([probe.score(x, truth) for x in seen]))
    return result | {"mean": float(np.mean(list(result.values())))}


def measure(encoder: nn.Module, config, data: Data, split: str = "test", shots=(1, 5, 20), n: int = 2000) -> dict:
    """All of the above on a split: clustering and retrieval of its images, copies and robustness of about n of them."""
    bank, asked = labelled_images(data), getattr(data, split)
    x, q = (encode(encoder, s, config) for s in (bank, asked))
    probe = fit_probe(x, bank.labels)
    least, result = int(bank.labels.bincount().min()), {"split": split, "bank": len(bank)}
    result["clustering"] = clustering(q, asked.truth, len(data.classes))
    result["few_shot"] = {k: few_shot(x, bank.labels, q, asked.truth, k) for k in shots if k <= least}
    result["retrieval"] = retrieval(q, asked.truth)
    result["copies"] = copies(encoder, config, asked.images)
    some = spread(len(asked), n)
    result["clean"] = float(probe.score(q[some], asked.truth[some]))
    result["robustness"] = robustness(encoder, config, probe, asked.images[some], asked.truth[some])
    return result
