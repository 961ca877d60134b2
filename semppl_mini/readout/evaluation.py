"""What the learned features are worth: weighted k-NN, linear probe, fine-tuning, and the baselines beside them.

Protocol: features f(x) of whole images, encoder frozen and in evaluation mode. A read-out learns from the labelled
training images alone, and its one choice, the probe's regularisation, is made within them: who has 500 labels has no
validation set. Validation images are for whoever compares settings; the test images are read once, at the end.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Data, ImageSet
from ..method import encode
from ..networks import networks
from ..parallel.device import device_of
from ..positives import draw_positives
from ..rng import EVALUATION, INIT, generator
from ..train import fit
from ..views import apply_view, draw_view, normalise
from ..votes import neighbours


@torch.no_grad()
def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Top-1 accuracy of the weighted k-NN (Wu et al., 2018): each of the k nearest votes with exp(cosine / T).

    bank (n, dim) with labels (n,), queries (m, dim) with labels (m,). Raises ValueError if k exceeds the bank.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k = {k} neighbours asked of a bank of {len(bank)}; choose k between 1 and its size.")
    bank, classes = F.normalize(bank.float(), dim=1), int(bank_labels.max()) + 1
    right = 0
    for part, labels in zip(F.normalize(queries.float(), dim=1).split(500), query_labels.split(500), strict=True):
        cosine, index = (part @ bank.T).topk(k)  # (m, k)
        score = torch.zeros(len(part), classes, dtype=bank.dtype, device=bank.device)
        score.scatter_add_(1, bank_labels[index], (cosine / temperature).exp())
        right += int((score.argmax(1) == labels).sum())
    return right / len(queries)


GRID = (0.001, 0.01, 0.1, 1.0)  # C of the linear probe


def linear_probe(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, grid: tuple = GRID
) -> float:
    """Top-1 accuracy of logistic regression on standardised frozen features (n, dim); C as in `fit_probe`."""
    return float(fit_probe(features, labels, grid).score(test_features, test_labels))


def fit_probe(features: Tensor, labels: Tensor, grid: tuple = GRID, most: int = 5000):
    """The scikit-learn pipeline behind `linear_probe`, fitted: standardisation, then logistic regression.

    C is the one of `grid` that is best in cross-validation within these images (of at most `most`, evenly spread): five
    folds, or as many as the rarest class has images; the middle of the grid if that is one. Of equals the smaller C.
    """
    from sklearn.linear_model import LogisticRegression  # here, as it takes a third of the package's time to import
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def probe(C: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=200))

    features, labels = features.numpy(), labels.numpy()
    step = -(-len(labels) // most)
    x, y = features[::step], labels[::step]
    folds = min(5, int(np.unique(y, return_counts=True)[1].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not converged" after 200 iterations is what we ask for
        if folds < 2 or len(grid) == 1:
            return probe(grid[len(grid) // 2]).fit(features, labels)
        cv = StratifiedKFold(folds, shuffle=True, random_state=0)
        right = {C: cross_val_score(probe(C), x, y, cv=cv).mean() for C in sorted(grid)}
        return probe(max(right, key=right.get)).fit(features, labels)


CROPS = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": (0.0,), "solarize_p": (0.0,), "mask_p": 0.0}


def tuning(config, images: int, steps: int, lr: float, **changes):
    """The config by which `fit` trains a classifier on so many labelled images, in at least so many steps.

    Batches of 128 (or all images), Nesterov SGD, cosine from `lr` without warm-up, decay 5e-4 [ours]. changes: of the
    view, which is as in pre-training else.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps} trains nothing; give 1 or more.")
    B = min(128, images)
    fields = {"method": "finetune", "labels": None, "labelled_share": None, "large_views": 1, "small_views": 0}
    fields |= {"batch_size": B, "epochs": -(-steps // (images // B)), "warmup_epochs": 0, "microbatches": 1}
    fields |= {"optimizer": "sgd", "momentum": 0.9, "lr": lr * 256 / B, "weight_decay": 5e-4, "oracle": False}
    return config.replace(**{**fields, **changes})


def fine_tune(encoder: nn.Module, config, data: Data, steps: int, lr: float = 0.05) -> nn.Sequential:
    """A copy of the encoder with a linear layer, all weights trained on the labelled images only: `fit`'s "finetune".

    Views are crops and flips alone [BYOL, whose protocol the paper follows]; the rest is `tuning`. Returns encoder +
    classifier, (B, 3, H, W) -> (B, C), in evaluation mode.
    """
    config = tuning(config, len(labelled_images(data)), steps, lr, **CROPS)
    return fit(config, data, weights=encoder, progress=False).method.model.eval()


def supervised(config, data: Data, steps: int, lr: float = 0.1) -> nn.Sequential:
    """The supervised-only baseline: the same network trained from scratch on the labelled images, with pre-training's
    photometrics, which help it, and without masks."""
    config = tuning(config, len(labelled_images(data)), steps, lr, mask_p=0.0)
    return fit(config, data, progress=False).method.model.eval()


def labelled_images(data: Data) -> ImageSet:
    """The labelled training images; ValueError if there is nothing to tell apart."""
    bank = data.train.labelled()
    if (classes := len(bank.labels.unique())) < 2:
        raise ValueError(f"The labelled images are of {classes} class; load the data with labels of 2 or more.")
    return bank


def classifier_accuracy(model: nn.Sequential, images: ImageSet, config) -> float:
    """Top-1 accuracy of a classifier on whole images."""
    return float((encode(model, images, config).argmax(1) == images.truth).float().mean())


def untrained_encoder(config) -> nn.Module:
    """The encoder a run of this config starts from."""
    return networks(config, generator(config.seed, 0, INIT))["encoder"].to(device_of(config))


def raw_pixel_accuracy(data: Data, split: str = "test", k: int = 1) -> float:
    """k-NN on raw pixels, with the labelled training images as the bank."""
    bank, asked = labelled_images(data), getattr(data, split)
    pixels = [x.images.flatten(1).float() / 255 for x in (bank, asked)]
    nearest = torch.cat([torch.cdist(part, pixels[0]).topk(k, largest=False).indices for part in pixels[1].split(500)])
    return float((bank.labels[nearest].mode(1).values == asked.truth).float().mean())


def evaluate(encoder: nn.Module, config, data: Data, split="test", tune_steps: int = 0, all_labels=False) -> dict:
    """Read-outs of a frozen encoder on a split, as shares: {"knn20", "knn200", "linear", ...}.

    knn20, knn200: bank = the labelled images (only if there are that many). linear, and few_label, its other name: the
    labelled images. fine_tuned: all weights, for `tune_steps` steps. With all_labels, knn20_all, knn200_all and
    linear_all use the true class of every training image: a yardstick for the features, not a few-label result.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split = {split!r} is unknown; give train, val or test.")
    bank, asked = labelled_images(data), getattr(data, split)
    if not len(asked):
        raise ValueError(f"There are no {split} images to evaluate on; give another split, or add them to the data.")
    (x, q), result = (encode(encoder, s, config) for s in (bank, asked)), {"split": split, "bank": len(bank)}
    for k in (20, 200):
        if k <= len(bank):
            result[f"knn{k}"] = knn_accuracy(x, bank.labels, q, asked.truth, k)
    result["linear"] = result["few_label"] = linear_probe(x, bank.labels, q, asked.truth)
    if tune_steps:
        result["fine_tuned"] = classifier_accuracy(fine_tune(encoder, config, data, tune_steps), asked, config)
    if all_labels:
        every = encode(encoder, data.train, config)
        for k in (k for k in (20, 200) if k <= len(every)):
            result[f"knn{k}_all"] = knn_accuracy(every, data.train.truth, q, asked.truth, k)
        result["linear_all"] = linear_probe(every, data.train.truth, q, asked.truth)
    return result


@torch.no_grad()
def inspect(method, images: ImageSet, seed: int = 0) -> dict:
    """What a trained method thinks of n images, on L augmented, unmasked large views, networks in evaluation mode.

    "views" (L, n, 3, S, S) in [0, 1]; "votes" (n, L * L) and their majority "y_bar" (n,), by vote for labelled images
    too; "agreement" (n,), the share of votes for y_bar; the k nearest queue entries behind each vote:
    "neighbour_ids", "neighbour_labels", "cosine" (n, L * L, k); semantic positives "positive_ids" (n, R), "valid" (n,).
    """
    config, queue, n, was = method.config, method.queue, len(images), method.training
    L, rng, device = config.large_views, generator(seed, 0, EVALUATION), queue.keys.device
    draws = [draw_view(config, j, n, rng, *images.images.shape[2:]) for j in range(L)]
    dtype, views, o = next(method.parameters()).dtype, [], []
    method.eval()
    for rows in torch.arange(n).split(500):  # memory for so many images at a time
        x = images.images[rows].float() / 255
        parts = [{name: value[rows] for name, value in draw.items()} for draw in draws]
        views.append(torch.stack([apply_view(x, draw, config.large_size, config) for draw in parts]))  # (L, 500, ...)
        seen = (normalise(view.to(device, dtype), config.mean, config.std) for view in views[-1])
        o.append(torch.stack([method.predict(view) for view in seen]))
    views, o = torch.cat(views, 1), torch.cat(o, 1)  # (L, n, 3, S, S), (L, n, D)
    method.train(was)
    y_bar, votes = method.vote(o)
    n_voting = config.voting_views or L
    pairs = [(o_j, keys) for o_j in o[:n_voting] for keys in queue.keys[:n_voting]]
    found = [neighbours(o_j, keys, queue.labels, config.k, config.knn_chunk_mb) for o_j, keys in pairs]
    slots, cosine = torch.stack([f[1] for f in found], 1), torch.stack([f[0] for f in found], 1)  # (n, L * L, k)
    u = torch.rand(n, config.semantic_positives, generator=rng).to(device)
    drawn, valid = draw_positives(queue.labels, queue.ids, y_bar, images.ids.to(device), u, config.exclude_self)
    report = {"votes": votes, "y_bar": y_bar, "agreement": (votes == y_bar[:, None]).float().mean(1)}
    report |= {"neighbour_ids": queue.ids[slots], "neighbour_labels": queue.labels[slots], "cosine": cosine}
    report |= {"positive_ids": queue.ids[drawn], "valid": valid}
    return {"views": views} | {name: value.cpu() for name, value in report.items()}
