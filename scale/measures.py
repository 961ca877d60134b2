"""What else the three papers measure of a frozen encoder, by the protocol of readout/evaluation.py; features (n, D)."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from semppl_mini.data import Data, pick
from semppl_mini.files import check_type, check_whole
from semppl_mini.method import encode
from semppl_mini.readout.evaluation import fit_probe, labelled_images, part_of, standardised
from semppl_mini.rng import EVALUATION, generator


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


def retrieval(features: Tensor, truth: Tensor) -> float | None:
    """Mean average precision of ranking all others by cosine (CARP, DINO): (n, D), classes (n,) -> a share, or None."""
    x, precision = F.normalize(features, dim=1), []
    for rows in torch.arange(len(x)).split(500):
        similar = (x[rows] @ x.T).scatter(1, rows[:, None], -torch.inf)  # itself comes last, and is no answer
        right = truth[similar.argsort(dim=1, descending=True)[:, :-1]] == truth[rows, None]  # (rows, n - 1)
        at, found = right.cumsum(1) / torch.arange(1, len(x)), right.sum(1)  # right answers up to here / rank
        precision.append(((at * right).sum(1) / found.clamp(min=1))[found > 0])  # who is alone in its class asks not
    asked = torch.cat(precision)
    return float(asked.mean()) if len(asked) else None  # all are alone


def copies(encoder: nn.Module, config, images: Tensor, seed: int = 0, queries: int = 1000) -> dict:
    """Transformed copies of some uint8 images look for their originals among all (n, 3, H, W): as Copydays in CARP."""
    own = spread(len(images), queries)
    copied = torch.stack([transformed(images[i], generator(seed, i, EVALUATION)) for i in own.tolist()])
    every, asked = (F.normalize(encode(encoder, x, config), dim=1) for x in (images, copied))
    similar = asked @ every.T  # (queries, n)
    rank = 1 + (similar > similar.gather(1, own[:, None])).sum(1)
    return {"mrr": float((1 / rank).mean()), "first": float((rank == 1).float().mean())}  # mrr: mean of 1 / rank


def spread(n: int, count: int) -> Tensor:
    """At most `count` of n indices, evenly spread: sets may come sorted by class."""
    return torch.arange(n)[:: -(-n // count)]


def transformed(x: Tensor, rng: torch.Generator) -> Tensor:
    """A copy of a uint8 image (3, H, W): half to nine tenths of each side, resized back, JPEG at quality 30 [ours]."""
    whole = torch.tensor(x.shape[1:])
    side = (whole * (0.5 + 0.4 * torch.rand(2, generator=rng))).round().long()
    top = (torch.rand(2, generator=rng) * (whole - side + 1)).long()
    return jpeg(tv.resized_crop(x, *top.tolist(), *side.tolist(), whole.tolist(), antialias=True), 30)


def through_pil(x: Tensor, change) -> Tensor:
    """A uint8 image (3, H, W) as change(PIL image) gives it back."""
    return tv.pil_to_tensor(change(tv.to_pil_image(x)))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """A uint8 image (3, H, W) as it comes back from a JPEG file."""

    def written(image: Image.Image) -> Image.Image:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        return Image.open(file)

    return through_pil(x, written)


def pixelate(x: Tensor, share: float) -> Tensor:
    """A uint8 image (3, H, W) at a share of its side, rounded down, and back, both by means over boxes."""
    h, w = x.shape[1:]
    small, box = (max(1, int(w * share)), max(1, int(h * share))), Image.Resampling.BOX
    return through_pil(x, lambda image: image.resize(small, box).resize((w, h), box))


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().byte()


def _impulse(x: Tensor, share: float, rng) -> Tensor:
    hit, salt = torch.rand(2, *x.shape, generator=rng)
    return torch.where(hit < share, (salt < 0.5).to(x.dtype), x)


def _blur(x: Tensor, sigma: float, rng) -> Tensor:
    r = int(4 * sigma + 0.5)
    return tv.gaussian_blur(tv.pad(x, [r], padding_mode="edge"), [2 * r + 1] * 2, [sigma] * 2)[:, r:-r, r:-r]


def _contrast(x: Tensor, factor: float, rng) -> Tensor:
    mean = x.mean((1, 2), keepdim=True)
    return (x - mean) * factor + mean


def _brightness(x: Tensor, by: float, rng) -> Tensor:
    """V + by in HSV, V being the largest channel: hue and saturation, the ratios of the channels, stay."""
    V = x.amax(0)  # (H, W)
    more = (V + by).clamp(max=1)
    return torch.where(V > 0, x / V * more, more)


def _saturate(x: Tensor, change: tuple[float, float], rng) -> Tensor:
    """factor S + offset in HSV: channel c is V (1 - S k_c), and k, the hue, stays; that of greys is red."""
    (factor, offset), V, spread = change, x.amax(0), x.amax(0) - x.amin(0)
    S = torch.where(V > 0, spread / V, 0)
    k = torch.where(spread > 0, (V - x) / spread, x.new_tensor([0, 1, 1])[:, None, None])  # (3, H, W)
    return V * (1 - k * (factor * S + offset).clamp(0, 1))


# Nine of the kinds and severities of CIFAR-C (Hendrycks and Dietterich, 2019, github.com/hendrycks/robustness,
# make_cifar_c.py; in CARP), drawn anew by our generator.
CORRUPTIONS = {  # name: (function of an image in [0, 1], its strength by severity)
    "gaussian_noise": (lambda x, s, rng: x + s * torch.randn(x.shape, generator=rng), (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (lambda x, n, rng: torch.poisson(x * n, generator=rng) / n, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "pixelate": (lambda x, share, rng: pixelate(_bytes(x), share) / 255, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": (_saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "jpeg": (lambda x, quality, rng: jpeg(_bytes(x), quality) / 255, (80, 65, 58, 50, 40)),
}


def corrupted(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """uint8 images (n, 3, H, W) -> the same, corrupted; severity 1 to 5; rounded down, as there; repeatable."""
    corrupt, strengths = CORRUPTIONS[name]
    strength, rng = strengths[severity - 1], generator(seed, severity, EVALUATION)
    seen = (corrupt(x.double() / 255, strength, rng) for x in images)
    return torch.stack([(x.clamp(0, 1) * 255).byte() for x in seen])


def robustness(encoder: nn.Module, config, probe, images: Tensor, truth: Tensor) -> dict:
    """Accuracy of a fitted probe on corrupted uint8 images (n, 3, H, W): {corruption: mean over severities, "mean"}."""
    result = {}
    for name in CORRUPTIONS:
        seen = (encode(encoder, corrupted(images, name, severity), config) for severity in range(1, 6))
        result[name] = float(np.mean([probe.score(x, truth) for x in seen]))
    return result | {"mean": float(np.mean(list(result.values())))}


def measure(encoder: nn.Module, config, data: Data, split: str = "test", shots=(1, 5, 20), n: int = 2000) -> dict:
    """All of the above on a split's images of known class, 1 or more: clustering, ...; n images clean and corrupted."""
    bank, asked = labelled_images(data), part_of(data, split)
    check_type("shots", shots, tuple), [check_whole("n, shots", k, 1) for k in (n, *shots)]
    if not len(asked := asked.take((asked.truth >= 0).nonzero().squeeze(1))):
        raise ValueError(f"No {split} image has a known class; give another split, or their classes as truth.")
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
