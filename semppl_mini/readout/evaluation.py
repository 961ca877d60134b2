"""What the learned features are worth: weighted k-NN, linear probe, fine-tuning, and the baselines beside them.

Protocol: features f(x) of whole images, encoder frozen. A read-out learns from the labelled training images alone, and
chooses within them; validation images are for comparing settings, the test images are read once, at the end.
"""

import contextlib
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel
from ..airbench import whiten
from ..data import Data, ImageSet
from ..keeping import Interrupted
from ..method import encode
from ..networks import networks
from ..rng import INIT, generator
from ..train import fit


@torch.no_grad()
def knn_accuracy(bank, bank_labels, queries, query_labels, k: int = 20, temperature: float = 0.07) -> float:
    """Top-1 accuracy of the weighted k-NN (Wu et al., 2018): each of the k nearest votes with exp(cosine / T).

    bank (n, dim) with labels (n,), queries (m, dim) with labels (m,). Raises ValueError if k exceeds the bank.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k = {k} neighbours asked of a bank of {len(bank)}; choose k between 1 and its size.")
    bank, classes, right = F.normalize(bank.float(), dim=1), int(bank_labels.max()) + 1, 0
    for part, labels in zip(F.normalize(queries.float(), dim=1).split(500), query_labels.split(500), strict=True):
        cosine, index = (part @ bank.T).topk(k)  # (m, k)
        score = bank.new_zeros(len(part), classes).scatter_add(1, bank_labels[index], (cosine / temperature).exp())
        right += int((score.argmax(1) == labels).sum())
    return right / len(queries)


GRID = (0.001, 0.01, 0.1, 1.0)  # C of the linear probe


def linear_probe(features, labels, test_features, test_labels, grid: tuple = GRID) -> float:
    """Top-1 accuracy of logistic regression on standardised frozen features (n, dim), labels (n,); C as `fit_probe`."""
    return float(fit_probe(features, labels, grid).score(test_features, test_labels))


def fit_probe(features: Tensor, labels: Tensor, grid: tuple = GRID, most: int = 5000):
    """`linear_probe`, fitted: C is the best in cross-validation within these images, at most `most`, evenly spread."""
    from sklearn import linear_model, model_selection  # here, as they take a third of the package's time to import

    probes = [standardised(linear_model.LogisticRegression(C=C, max_iter=200)) for C in sorted(grid)]
    best, every = probes[len(probes) // 2], slice(None, None, -(-len(labels) // most))
    folds = min(5, int(labels[every].unique(return_counts=True)[1].min()))  # no more than the rarest class has images
    x, y = features.numpy(), labels.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not converged" after 200 iterations is what we ask for
        if folds > 1 and len(grid) > 1:  # else the middle of the grid; of equals the smaller C
            cv = model_selection.StratifiedKFold(folds, shuffle=True, random_state=0)
            best = max(probes, key=lambda p: model_selection.cross_val_score(p, x[every], y[every], cv=cv).mean())
        return best.fit(x, y)


def standardised(classifier):
    """A scikit-learn pipeline: features standardised one by one, then the classifier."""
    from sklearn import pipeline, preprocessing

    return pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)


def tuning(config, data: Data, steps: int, lr: float = 0.1):
    """The config by which `fit` trains a classifier on the labelled images of `data`, in at least so many steps.

    Nesterov SGD, cosine from `lr` [all ours, fixed in advance: with 500 labels crops and flips alone, BYOL's choice on
    ImageNet, were worse on validation images; notebooks/results/tuning]. ValueError: no step, or labels of one class.
    """
    images = len(labelled_images(data))
    if steps < 1:
        raise ValueError(f"steps = {steps} trains nothing; give 1 or more.")
    B = min(128, images) // parallel.size() * parallel.size()  # every process takes its share
    return config.replace(
        method="finetune", labels=None, labelled_share=None, oracle=False, large_views=1, small_views=0,
        blur_p=(0.0,), solarize_p=(0.0,), mask_p=0.0, batch_size=B, microbatches=1, epochs=-(-steps // (images // B)),
        warmup_epochs=0, optimizer="sgd", momentum=0.9, lr=lr * 256 / B, weight_decay=5e-4,
    )  # fmt: skip


def within_reach(config, encoder: nn.Module):
    """The config, on the encoder's device where its own is not there: a GPU's run is read out on a CPU, too."""
    try:
        parallel.device_of(config)
    except ValueError:
        return config.replace(device=str(next(encoder.parameters()).device))
    return config


def fine_tune(encoder: nn.Module | None, config, data: Data, steps: int, lr: float = 0.1) -> nn.Sequential:
    """A copy of the encoder and a linear layer, trained as by `tuning`: (B, 3, H, W) -> (B, C), in evaluation mode.

    Of several processes all must call it (a callback of `fit` is called by the first alone).
    """
    config = config if encoder is None else within_reach(config, encoder)
    with contextlib.suppress(Interrupted):  # a notebook's stop button returns the unfinished run instead
        run = fit(tuning(config, data, steps, lr), data, progress=False, weights=encoder)
        if run.finished:
            return run.method.model.eval()
    raise KeyboardInterrupt  # a plain one, and no half-trained classifier


def supervised(config, data: Data, steps: int, lr: float = 0.1) -> nn.Sequential:
    """The supervised-only baseline: `fine_tune` from scratch."""
    return fine_tune(None, config, data, steps, lr)


def labelled_images(data: Data) -> ImageSet:
    """The labelled training images; ValueError if there is nothing to tell apart."""
    bank = data.train.labelled()
    if (classes := len(bank.labels.unique())) < 2:
        raise ValueError(f"The labelled images are of {classes} class; load the data with labels of 2 or more.")
    return bank


def classifier_accuracy(model: nn.Sequential, images: ImageSet, config) -> float:
    """Top-1 accuracy of a classifier on whole images."""
    return float((encode(model, images, config).argmax(1) == images.truth).float().mean())


def untrained_encoder(config, data: Data) -> nn.Module:
    """The encoder that a run of this config on data.train starts from."""
    encoder = networks(config, generator(config.seed, 0, INIT))["encoder"]
    whiten(encoder, data.train, config)
    return encoder.to(parallel.device_of(config))


def raw_pixel_accuracy(data: Data, split: str = "test", k: int = 1) -> float:
    """k-NN on raw pixels, with the labelled training images as the bank."""
    bank, asked = labelled_images(data), getattr(data, split)
    x, q = (s.images.flatten(1).float() / 255 for s in (bank, asked))
    nearest = torch.cat([torch.cdist(part, x).topk(k, largest=False).indices for part in q.split(500)])
    return float((bank.labels[nearest].mode(1).values == asked.truth).float().mean())


def evaluate(encoder: nn.Module, config, data: Data, split="test", tune_steps: int = 0, all_labels=False) -> dict:
    """Read-outs of a frozen encoder on a split, as shares: {"knn20", "knn200", "linear", ...}.

    few_label is another name of linear; fine_tuned: all weights, for `tune_steps` steps. With all_labels, knn20_all ...
    use the true class of every training image: a yardstick for the features, not a few-label result. ValueError: an
    unknown or empty split, labels of one class.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split = {split!r} is unknown; give train, val or test.")
    bank, asked = labelled_images(data), getattr(data, split)
    if not len(asked):
        raise ValueError(f"There are no {split} images to evaluate on; give another split, or add them to the data.")
    x, q = (encode(encoder, s, config) for s in (bank, asked))
    result = {"split": split, "bank": len(bank), **frozen(x, bank.labels, q, asked.truth)}
    result["few_label"] = result["linear"]
    if tune_steps:
        result["fine_tuned"] = classifier_accuracy(fine_tune(encoder, config, data, tune_steps), asked, config)
    if all_labels:
        every = frozen(encode(encoder, data.train, config), data.train.truth, q, asked.truth)
        result |= {f"{name}_all": share for name, share in every.items()}
    return result


def frozen(*given: Tensor) -> dict:
    """{"knn20", "knn200", "linear"} of features (n, dim), labels (n,) on others (m, dim), (m,); k-NN only if k <= n."""
    result = {f"knn{k}": knn_accuracy(*given, k) for k in (20, 200) if k <= len(given[0])}
    return result | {"linear": linear_probe(*given)}
