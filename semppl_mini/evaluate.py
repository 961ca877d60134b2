"""What the learned features are worth: weighted k-NN, linear probe, fine-tuning, and the baselines beside them.

Protocol: features f(x) of whole images, encoder frozen and in evaluation mode. Choices (the probe's regularisation,
linear or fine-tuned) are made on the held-out validation images; the test images are read once, at the end.
"""

import copy
import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Data, ImageSet
from .device import autocast_of, device_of
from .networks import networks
from .positives import draw_positives
from .pseudo_labels import neighbours
from .rng import EVALUATION, INIT, generator
from .semppl import encode
from .views import apply_view, draw_view, finish_views, make_views, normalise


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


def linear_probe(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, validation=None,
    grid=(0.001, 0.01, 0.1, 1.0),
) -> float:
    """Top-1 accuracy of logistic regression on standardised frozen features (n, dim).

    C is the one of `grid` that is best on validation = (features, labels), or the middle of the grid without it.
    """
    grid = grid if validation is not None else grid[len(grid) // 2 :][:1]
    return float(fit_probe(features, labels, validation, grid).score(test_features, test_labels))


def fit_probe(features: Tensor, labels: Tensor, validation, grid):
    """The scikit-learn pipeline behind `linear_probe`, fitted: standardisation, then logistic regression."""
    from sklearn.linear_model import LogisticRegression  # here, as it takes a third of the package's time to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def probe(C: float):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "not converged" after 200 iterations is what we ask for
            return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=200)).fit(features, labels)

    return max((probe(C) for C in grid), key=lambda p: p.score(*validation) if len(grid) > 1 else 0)


def fine_tune(
    encoder: nn.Module, config, data: Data, steps: int, lr: float, seed=0, batch=128, history=None
) -> nn.Sequential:
    """A copy of the encoder with a linear layer, all weights trained by cross-entropy on the labelled images only.

    Nesterov SGD, cosine from `lr`, weight decay 5e-4, the large view's augmentation as in pre-training (unspecified
    in the paper beyond "all weights"; our choices). Returns encoder + classifier, (B, 3, H, W) -> (B, C), in evaluation
    mode. `history`, a list, gets a record every 100 steps.
    """
    device, labelled = device_of(config), labelled_images(data)
    if steps < 1:
        raise ValueError(f"steps = {steps} trains nothing; give 1 or more.")
    config = config.replace(mask_p=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, 0, EVALUATION).initial_seed())
        head = nn.Linear(encoder.dim, len(data.classes))
    model = nn.Sequential(copy.deepcopy(encoder).float(), head).to(device, memory_format=torch.channels_last)
    model.requires_grad_(True).train()  # a teacher's encoder had no gradient
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for step in range(steps):
        rng = generator(seed, step + 1, EVALUATION)
        index = torch.randint(len(labelled), (batch,), generator=rng)
        view = _view(labelled, index, config, rng, device)
        with autocast_of(config, device):
            loss = F.cross_entropy(model(view.float()).float(), labelled.labels[index].to(device))
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if history is not None and (step + 1) % 100 == 0:
            history.append({"step": step + 1, "loss": float(loss.detach()), "lr": optimizer.param_groups[0]["lr"]})
    return model.eval()


def _view(images: ImageSet, index: Tensor, config, rng: torch.Generator, device) -> Tensor:
    """A large view of the images `index` (B,), whether in memory or files: (B, 3, S, S)."""
    if hasattr(images, "crops"):
        draws = [draw_view(config, 0, len(index), rng)]
        return finish_views([crop.to(device) for crop in images.crops(index, draws, config)], draws, config)[0]
    images = images.images[index]
    return make_views(images.to(device), [draw_view(config, 0, len(index), rng, *images.shape[2:])], config)[0]


def pixels(images: ImageSet):
    """What `encode` takes of a set: its images in memory, or itself if they are files."""
    return images if hasattr(images, "whole") else images.images


def labelled_images(data: Data) -> ImageSet:
    """The labelled training images; ValueError if there is nothing to tell apart."""
    bank = data.train.labelled()
    if (classes := len(bank.labels.unique())) < 2:
        raise ValueError(f"The labelled images are of {classes} class; load the data with labels of 2 or more.")
    return bank


def classifier_accuracy(model: nn.Sequential, images: ImageSet, config) -> float:
    """Top-1 accuracy of `fine_tune`'s model on whole images."""
    return float((encode(model, pixels(images), config).argmax(1) == images.truth).float().mean())


def untrained_encoder(config) -> nn.Module:
    """The encoder a run of this config starts from."""
    return networks(config, generator(config.seed, 0, INIT))["encoder"].to(device_of(config))


def supervised(config, data: Data, steps: int, lr: float = 0.1, history=None) -> nn.Sequential:
    """The supervised-only baseline: the same network trained by `fine_tune` from scratch."""
    return fine_tune(untrained_encoder(config), config, data, steps, lr, config.seed, history=history)


def raw_pixel_accuracy(data: Data, split: str = "test", k: int = 1) -> float:
    """k-NN on raw pixels, with the labelled training images as the bank."""
    bank, asked = labelled_images(data), getattr(data, split)
    pixels = [x.images.flatten(1).float() / 255 for x in (bank, asked)]
    nearest = torch.cat([torch.cdist(part, pixels[0]).topk(k, largest=False).indices for part in pixels[1].split(500)])
    return float((bank.labels[nearest].mode(1).values == asked.truth).float().mean())


def evaluate(encoder: nn.Module, config, data: Data, split="test", tune_steps: int = 0, all_labels=False) -> dict:
    """Read-outs of a frozen encoder on a split, as shares: {"knn20", "knn200", "linear", ...}.

    knn20, knn200: bank = the labelled images (only if there are that many). linear: the labelled images.
    fine_tuned: `tune_steps` steps at the better of two rates. With all_labels, knn20_all, knn200_all and linear_all
    use the true class of every training image: a yardstick for the features, not a few-label result.
    `few_label` is linear or fine_tuned, whichever is better on the validation images; none of those: ValueError.
    """
    if not len(data.val):
        raise ValueError("There are no validation images to choose on; give load_data val=1 or more.")
    if split not in ("train", "val", "test"):
        raise ValueError(f"split = {split!r} is unknown; give train, val or test.")
    bank, asked = labelled_images(data), getattr(data, split)
    if not len(asked):
        raise ValueError(f"There are no {split} images to evaluate on; give another split, or add them to the data.")
    x, val, q = (encode(encoder, pixels(s), config) for s in (bank, data.val, asked))
    held, result = (val, data.val.truth), {"split": split, "bank": len(bank)}
    for k in (20, 200):
        if k <= len(bank):
            result[f"knn{k}"] = knn_accuracy(x, bank.labels, q, asked.truth, k)
    probe = fit_probe(x, bank.labels, held, (0.001, 0.01, 0.1, 1.0))
    result["linear"] = result["few_label"] = float(probe.score(q, asked.truth))
    if tune_steps:
        models = [fine_tune(encoder, config, data, tune_steps, lr, config.seed) for lr in (0.01, 0.05)]
        best = max(models, key=lambda m: classifier_accuracy(m, data.val, config))
        result["fine_tuned"] = classifier_accuracy(best, asked, config)
        on_val = {"linear": probe.score(*held), "fine_tuned": classifier_accuracy(best, data.val, config)}
        result["chosen"] = max(on_val, key=on_val.get)
        result["few_label"] = result[result["chosen"]]
    if all_labels:
        every = encode(encoder, pixels(data.train), config)
        for k in (k for k in (20, 200) if k <= len(every)):
            result[f"knn{k}_all"] = knn_accuracy(every, data.train.truth, q, asked.truth, k)
        result["linear_all"] = linear_probe(every, data.train.truth, q, asked.truth, held, grid=(0.01, 0.1))
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
