"""What the learned features are worth: weighted k-NN, linear probe, fine-tuning, and the baselines beside them.

Protocol: features f(x) of whole images, encoder frozen. A read-out learns from the labelled training images alone, and
chooses within them; validation images are for comparing settings, the test images are read once, at the end."""

import contextlib
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import parallel
from ..data import Data, ImageSet
from ..files import check_classes, check_tensor, check_type, check_whole, shown
from ..keeping import Interrupted, check_labels
from ..method import encode
from ..networks import begin, networks
from ..rng import INIT, generator
from ..train import fit


def share_right(found: Tensor, truth: Tensor) -> float | None:
    """The share of answers (n,) that are right, of those whose true class is known (not -1); None if none is."""
    known = truth >= 0
    return float((found == truth)[known].float().mean()) if known.any() else None


def known_of(bank, bank_labels, queries, query_labels) -> tuple[Tensor, Tensor]:
    """The queries of known class (not -1), and their labels. ValueError: no features (n, dim), finite, or no labels."""
    for name, x, labels, least in (("bank", bank, bank_labels, 0), ("queries", queries, query_labels, -1)):
        check_tensor(name, x, None, ("n > 0", "dim" if x is bank else bank.shape[1]), (-1e18, 1e18), None)
        check_tensor(f"labels of the {name}", labels, torch.int64, (len(x),), (least, 2**20), None)
    known = query_labels >= 0
    return queries[known], query_labels[known]


@torch.no_grad()
def knn_accuracy(bank, bank_labels, queries, query_labels, k: int = 20, temperature: float = 0.07) -> float | None:
    """Top-1 accuracy of the weighted k-NN (Wu et al., 2018): each of the k nearest votes with exp(cosine / T).

    bank (n, dim) with labels (n,), queries (m, dim) with labels (m,); -1 does not count. ValueError: bad input."""
    queries, query_labels = known_of(bank, bank_labels, queries, query_labels)
    if type(k) is not int or not 1 <= k <= len(bank):
        raise ValueError(f"k = {k} neighbours asked of a bank of {len(bank)}; choose k between 1 and its size.")
    if not isinstance(temperature, (int, float)) or not temperature >= 0.0125:  # below, exp is infinite
        raise ValueError(f"temperature = {shown(temperature)} is no number of 0.0125 or more; give 0.07, say.")
    bank, classes, right = F.normalize(bank.float(), dim=1), int(bank_labels.max()) + 1, 0
    for part, labels in zip(F.normalize(queries.float(), dim=1).split(500), query_labels.split(500), strict=True):
        cosine, index = (part @ bank.T).topk(k)  # (m, k)
        score = bank.new_zeros(len(part), classes).scatter_add(1, bank_labels[index], (cosine / temperature).exp())
        right += int((score.argmax(1) == labels).sum())
    return right / len(queries) if len(queries) else None


GRID = (0.001, 0.01, 0.1, 1.0)  # C of the linear probe


def linear_probe(features, labels, test_features, test_labels, grid: tuple = GRID) -> float | None:
    """Top-1 accuracy of logistic regression on standardised frozen features, as `knn_accuracy`; C as `fit_probe`."""
    asked, truth = known_of(features, labels, test_features, test_labels)
    return float(fit_probe(features, labels, grid).score(asked, truth)) if len(truth) else None


def fit_probe(features: Tensor, labels: Tensor, grid: tuple = GRID, most: int = 5000):
    """`linear_probe`, fitted: C is the best in cross-validation within these images, at most `most`, evenly spread."""
    if (n := len(labels.unique())) < 2 or not grid or not all(C > 0 for C in grid):
        raise ValueError(f"A probe of {n} classes, C of {shown(grid)}; give labels of 2 or more, and positive numbers.")
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
    ImageNet, were worse on validation images; notebooks/results/tuning]. ValueError: no step or one class."""
    images = len(labelled_images(data))
    check_whole("steps", steps, 1), check_type("lr", lr, float)
    B = max(1, min(128, images) // (n := parallel.size())) * n  # every process takes its share
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


def fine_tune(encoder: nn.Module | None, config, data: Data, steps: int, lr=0.1, workers: int = 0) -> nn.Sequential:
    """A copy of the encoder and a linear layer, trained as by `tuning`: (B, 3, H, W) -> (B, C), in evaluation mode.

    Of several processes all must call it (a callback of `fit` is called by the first alone)."""
    config = config if encoder is None else within_reach(config, encoder)
    with contextlib.suppress(Interrupted):
        run = fit(tuning(config, data, steps, lr), data, progress=False, weights=encoder, workers=workers)
        return run.method.model.eval()
    raise KeyboardInterrupt  # a plain one, and no half-trained classifier


def supervised(config, data: Data, steps: int, lr: float = 0.1) -> nn.Sequential:
    """The supervised-only baseline: `fine_tune` from scratch."""
    return fine_tune(None, config, data, steps, lr)


def labelled_images(data: Data) -> ImageSet:
    """The labelled training images; ValueError if there is nothing to tell apart."""
    check_classes(check_type("data", data, Data))
    return data.train.labelled()


def classifier_accuracy(model: nn.Sequential, images: ImageSet, config, **reading) -> float | None:
    """Top-1 accuracy of a classifier on whole images of known class; None if there is none. reading: as of `encode`."""
    return share_right(encode(model, images, config, **reading).argmax(1), images.truth)


def untrained_encoder(config, data: Data) -> nn.Module:
    """The encoder that a run of this config on data.train starts from."""
    encoder = networks(config, generator(config.seed, 0, INIT))["encoder"]
    begin(encoder, check_type("data", data, Data).train, config)
    return encoder.to(parallel.device_of(config))


def part_of(data: Data, split: str) -> ImageSet:
    """The images of a split; ValueError if there is no such split, or nothing in it."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"split = {shown(split)} is unknown; give train, val or test.")
    if not len(asked := getattr(data, split)):
        raise ValueError(f"There are no {split} images to evaluate on; give another split, or add them to the data.")
    return asked


def raw_pixel_accuracy(data: Data, split: str = "test", k: int = 1) -> float | None:
    """k-NN on raw pixels, with the labelled training images as the bank; None if no class of the split is known."""
    bank, asked = labelled_images(data), part_of(data, split)
    k = min(check_whole("k", k, 1), len(bank))
    x, q = (s.images.flatten(1).float() / 255 for s in (bank, asked))
    nearest = torch.cat([torch.cdist(part, x).topk(k, largest=False).indices for part in q.split(500)])
    return share_right(bank.labels[nearest].mode(1).values, asked.truth)


def evaluate(
    encoder: nn.Module, config, data: Data, split="test", tune_steps=0, all_labels=False, *, workers=0, together=False,
) -> dict:
    """Read-outs of a frozen encoder on a split, as shares: {"knn20", "knn200", "linear", ...}.

    few_label is another name of linear; fine_tuned: all weights, for `tune_steps` steps. With all_labels, knn20_all ...
    use the true class of every training image: a yardstick, no few-label result. None: there are no classes to know it.
    workers, together: as of `encode`; together all processes fine-tune, the first alone fits what is left, and the
    others get {}. ValueError: an unknown or empty split, labels of one class, or not those of the config."""
    bank, asked = labelled_images(data), part_of(data, split)
    check_labels(config, data), check_whole("tune_steps", tune_steps, 0)
    reading, tuned = {"workers": workers, "together": together}, {}
    known = data.train.take((data.train.truth >= 0).nonzero().squeeze(1))
    several = all_labels and len(known.truth.unique()) > 1
    x, q, *every = (encode(encoder, s, config, **reading) for s in (bank, asked, *[known] * several))
    if tune_steps:
        model = fine_tune(encoder, config, data, tune_steps, workers=workers)
        tuned["fine_tuned"] = classifier_accuracy(model, asked, config, **reading)
    if together and parallel.rank():
        return {}
    result = {"split": split, "bank": len(bank), **frozen(x, bank.labels, q, asked.truth)}
    result |= {"few_label": result["linear"], **tuned}
    if all_labels:
        every = frozen(*every, known.truth, q, asked.truth) if several else {"linear": None}
        result |= {f"{name}_all": share for name, share in every.items()}
    return result


def frozen(*given: Tensor) -> dict:
    """{"knn20", "knn200", "linear"} of features (n, dim), labels (n,) on others (m, dim), (m,); k-NN only if k <= n."""
    result = {f"knn{k}": knn_accuracy(*given, k) for k in (20, 200) if k <= len(given[0])}
    return result | {"linear": linear_probe(*given)}
