"""Read-outs of frozen features by scikit-learn, as the papers' appendices have them, on sets of image_sets.py.

    python scale/evaluate.py runs/semppl --on flowers --data FOLDER --name flowers
    python scale/evaluate.py runs/ifnd --on voc2007 --data FOLDER --by svm low-shot --features voc.npz --name voc

    logistic    L2-regularised, 45 strengths lambda from 1e-6 to 1e5, chosen on the validation part, fitted again on
                training and validation part (Kornblith et al., 2019; BYOL); C = 1 / lambda, features as they are
    svm         one linear SVM a class on unit features, C by the mean AP or accuracy of three folds (Goyal et al.,
                2019, github.com/facebookresearch/fair_self_supervision_benchmark, for VOC07): positives count twice
    low-shot    the same SVMs, C = 0.5 (PCL), on k images a class, mean and deviation of five draws

A metric is the set's own; SVMs on VOC07 are measured by the area under the interpolated curve, as by those authors.
`--features FILE` writes the features once, and reads them if the file is there: numpy arrays train_x, train_y, ...
"""

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from encoders import see, whole
from image_sets import SETS, opened, split
from torch import Tensor

from semppl_mini import parallel
from semppl_mini.files import digest, write_whole

PENALTIES = np.logspace(-6, 5, 45)
COSTS = [10.0**i for i in range(-7, 3)] + [0.5**i for i in range(4, 20)]  # of the SVMs, those authors' list
SHOTS, DRAWS = (1, 2, 4, 8, 16, 32, 64, 96), 5


def read(run, told: dict, on: str, args) -> dict:
    """{"logistic": ..., ...}: what --by asks for."""
    size = args.size or told["size"][0]
    about = {"on": on, "encoder": digest(run.method.encoder.state_dict().values()), "size": size,
             "mean": list(run.config.mean), "std": list(run.config.std)}  # fmt: skip
    if args.features and Path(args.features).is_file():
        parts = kept(args.features, about)
    else:
        parts = features(run, on, args.data, size, args.workers)
        if args.features and parallel.rank() == 0:
            keep(args.features, parts, about)
    sizes = {part: len(y) for part, (_, y) in parts.items()}
    check(parts, run.folder)
    if parallel.rank():  # the first process fits, alone
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not converged" after so many iterations is what is asked for
        results = {name: READ_OUTS[name](parts, SETS[on].metric) for name in args.by or ["logistic"]}
    return {"images": sizes, "size": size, "metric": SETS[on].metric, **results}


def features(run, on: str, root, size: int, workers: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Of a set's parts: the short side to `size` pixels, then the centre (BYOL)."""
    seen = {part: see(run.method.encoder, images, run.config, workers)
            for part, images in opened(on, root, whole(size, size)).items()}  # fmt: skip
    return split(on, seen)


def check(parts: dict, folder) -> None:
    """ValueError: the features cannot be read out."""
    for part, (x, _) in parts.items():
        if not x.isfinite().all():
            raise ValueError(f"{folder} makes features of the {part} images that are not finite; give a sound encoder.")
    if (y := parts["train"][1]).dim() == 1 and len(y.unique()) < 2:
        raise ValueError(f"All {len(y)} training images are of one class; a read-out needs two or more.")


def keep(path, parts: dict, about: dict) -> None:
    arrays = {f"{part}_{name}": x.numpy() for part, pair in parts.items() for name, x in zip("xy", pair, strict=True)}
    write_whole(path, lambda file: np.savez(file, about=json.dumps(about), **arrays))


def kept(path, about: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """The features in a file. ValueError: they are another encoder's or set's, packed, or no features at all."""
    try:
        with zipfile.ZipFile(path) as file:
            if (most := sum(part.file_size for part in file.infolist())) > Path(path).stat().st_size:
                raise ValueError(f"{most:,} bytes are packed into it")
        with np.load(path, allow_pickle=False) as file:
            there = json.loads(str(file["about"]))
            parts = {part: tuple(torch.from_numpy(file[f"{part}_{name}"]) for name in "xy")
                     for part in ("train", "val", "test")}  # fmt: skip
        if not all(x.dtype == torch.float32 and x.dim() == 2 and len(x) == len(y) > 0 for x, y in parts.values()):
            raise ValueError("its arrays do not fit each other")
    except Exception as error:  # of zip files and arrays, many kinds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ValueError(f"{path} holds no features ({reason}); name another, or remove it.") from None
    if unequal := [name for name in about if there.get(name) != about[name]]:
        raise ValueError(f"{path} holds features of another {unequal[0]}; name another, or remove it.")
    return parts


# ---- metrics: scores (n, C), labels (n,), or (n, C) of 1, -1 and 0 for "do not count"


def top1(scores, y) -> float:
    return float((scores.argmax(1) == y).mean())


def mean_per_class(scores, y) -> float:
    right = scores.argmax(1) == y
    return float(np.mean([right[y == c].mean() for c in np.unique(y)]))


def precision_at(scores, y) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each image, the likeliest first, of those that count: (m,), (m,)."""
    found = (y[y != 0] > 0)[np.argsort(-scores[y != 0], kind="stable")]
    right = found.cumsum()
    return right / max(1, right[-1]), right / np.arange(1, len(right) + 1)


def ap11(scores, y) -> float:
    """VOC 2007's average precision: the mean over recalls t = 0, 0.1, ..., 1 of the best precision from t on."""
    recall, precision = precision_at(scores, y)
    return float(np.mean([precision[recall >= t - 1e-9].max(initial=0) for t in np.linspace(0, 1, 11)]))


def area(scores, y) -> float:
    """VOC's average precision since 2010: the area under the precision that is the best at this recall or more."""
    recall, precision = precision_at(scores, y)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * best).sum())


def mean_over_classes(ap):
    def metric(scores, y) -> float:
        some = [c for c in range(y.shape[1]) if (y[:, c] > 0).any()]
        return float(np.mean([ap(scores[:, c], y[:, c]) for c in some]))

    return metric


METRICS = {"top1": top1, "mean_per_class": mean_per_class, "map11": mean_over_classes(ap11)}


# ---- read-outs: parts, the set's metric -> figures


def arrays(parts: dict, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of some parts together."""
    return tuple(np.concatenate([parts[name][i].numpy() for name in names]) for i in (0, 1))


def scores_of(make, x, y, asked) -> np.ndarray:
    """A classifier `make()` fitted on (n, dim), (n,), or one a class on (n, C) -> scores (m, C) of the images asked."""
    if y.ndim == 1:
        scores = make().fit(x, y).decision_function(asked)
        return np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
    columns = np.zeros((len(asked), y.shape[1]))
    for c in range(y.shape[1]):
        if len(np.unique(y[y[:, c] != 0, c])) == 2:  # else nothing tells it apart
            columns[:, c] = make().fit(x[y[:, c] != 0], y[y[:, c] != 0, c]).decision_function(asked)
    return columns


def logistic(parts: dict, metric: str, penalties=None) -> dict:
    from sklearn.linear_model import LogisticRegression

    penalties = PENALTIES if penalties is None else penalties
    (x, y), (qx, qy), (tx, ty) = (arrays(parts, *names) for names in (["train"], ["val"], ["test"]))
    measure, makes = METRICS[metric], [lambda p=p: LogisticRegression(C=1 / p, max_iter=1000) for p in penalties]
    on_val = [measure(scores_of(make, x, y, qx), qy) for make in makes]
    best = int(np.argmax(on_val))
    test = measure(scores_of(makes[best], *arrays(parts, "train", "val"), tx), ty)
    return {metric: test, "val": on_val[best], "penalty": float(penalties[best])}


def machine(C: float):
    """The SVM of one class, on labels 1 and -1."""
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C, class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0)


def signs(y, classes: int) -> np.ndarray:
    """Labels (n,) -> (n, C) of 1 and -1; what is so already stays."""
    return y if y.ndim == 2 else np.where(y[:, None] == np.arange(classes), 1, -1)


def units(x) -> np.ndarray:
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)


def svm(parts: dict, metric: str, costs=None, folds: int = 3) -> dict:
    """C of each class by three folds of training and validation part."""
    from sklearn.model_selection import cross_val_score

    costs = COSTS if costs is None else costs
    (x, y), (tx, ty) = arrays(parts, "train", "val"), arrays(parts, "test")
    x, tx, classes = units(x), units(tx), int(max(y.max(), ty.max())) + 1
    Y, scores, chosen = signs(y, classes), [], []
    for c in range(Y.shape[1]):
        X, own = x[Y[:, c] != 0], Y[Y[:, c] != 0, c]
        if min((own > 0).sum(), (own < 0).sum()) < folds:
            raise ValueError(f"Class {c} has fewer than {folds} images to choose C by; read out by logistic instead.")
        ap = [cross_val_score(machine(C), X, own, cv=folds, scoring="average_precision").mean() for C in costs]
        chosen.append(float(costs[int(np.argmax(ap))]))
        scores.append(machine(chosen[-1]).fit(X, own).decision_function(tx))
    return of_svms(np.stack(scores, 1), ty, metric) | {"costs": chosen}


def of_svms(scores, y, metric: str) -> dict:
    return {"map": mean_over_classes(area)(scores, y)} if y.ndim == 2 else {metric: METRICS[metric](scores, y)}


def low_shot(parts: dict, metric: str, shots=SHOTS, draws: int = DRAWS) -> dict:
    """{k: {"mean", "std"}} for each k that every class has images for."""
    (x, y), (tx, ty) = arrays(parts, "train", "val"), arrays(parts, "test")
    x, tx, classes = units(x), units(tx), int(max(y.max(), ty.max())) + 1
    Y, rows = signs(y, classes), {}
    for k in (k for k in shots if k <= (Y > 0).sum(0).min()):
        found = []
        for draw in range(draws):
            rng = np.random.default_rng([draw, k])
            own = np.unique([rng.choice(np.flatnonzero(column > 0), k, replace=False) for column in Y.T])
            scores = scores_of(lambda: machine(0.5), x[own], Y[own], tx)
            found.append(next(iter(of_svms(scores, ty, metric).values())))
        rows[k] = {"mean": float(np.mean(found)), "std": float(np.std(found))}
    return rows


READ_OUTS = {"logistic": logistic, "svm": svm, "low-shot": low_shot}
