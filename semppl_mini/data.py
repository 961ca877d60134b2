"""Image sets: pixels, visible labels, ids, and, kept apart, the hidden labels that only monitoring may see.

`load_data("digits", labels=100)` needs no file; other names are packs made once by data/prepare.py, one
uncompressed .npz a set: {split}_images uint8 (n, 3, H, W), {split}_labels int64 (n,), perhaps {split}_masks
uint8 (n, 1, H, W), and `meta`, JSON with name, provenance, classes and a sha256 an array. Nothing is pickled.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import write_whole
from .rng import LABELS, generator


@dataclass(frozen=True)
class ImageSet:
    """n images: uint8 (n, 3, H, W); labels (n,), -1 where unlabelled; ids (n,); truth (n,), every true class.

    masks, uint8 (n, 1, H, W) in {0, 1} or None, say what is foreground. Learning reads `labels`, never `truth`.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    truth: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor) -> "ImageSet":
        """The images at `index`, in that order, with their ids."""
        masks = None if self.masks is None else self.masks[index]
        return ImageSet(self.images[index], self.labels[index], self.ids[index], self.truth[index], masks)

    def digest(self) -> str:
        """sha256 of all that learning sees of these images (truth is not)."""
        sha = hashlib.sha256()
        for tensor in (self.images, self.labels, self.ids, *([] if self.masks is None else [self.masks])):
            sha.update(tensor.contiguous().numpy())
        return sha.hexdigest()

    def labelled(self) -> "ImageSet":
        """Only the images whose label is visible."""
        return self.take((self.labels >= 0).nonzero().squeeze(1))


@dataclass(frozen=True)
class Data:
    """A data set: training images with few labels, a validation part held out of them, the test images."""

    name: str
    provenance: str
    classes: list[str]
    train: ImageSet
    val: ImageSet
    test: ImageSet


def data_dir() -> Path:
    """Where packs live: the environment variable SEMPPL_DATA, or data/packs beside the package."""
    return Path(os.environ.get("SEMPPL_DATA") or Path(__file__).parents[1] / "data" / "packs")


def load_data(name_or_path="digits", labels=None, label_seed: int = 0, val: int | None = None) -> Data:
    """A data set by name ("digits", or a pack in `data_dir()`) or by the path of an .npz pack.

    labels: how many training images keep their label: None = all, a share in (0, 1], or a class-balanced count.
    label_seed picks which. val: how many training images are held out for tuning, class-balanced and always the
    same (a tenth by default). Raises ValueError, in one sentence, for a missing or damaged pack or a bad count.
    """
    if str(name_or_path) == "digits":
        from .digits import colour_digits

        splits, meta = colour_digits()
    else:
        path = Path(name_or_path)
        path = path if path.suffix == ".npz" else data_dir() / f"{name_or_path}.npz"
        splits, meta = read_pack(path)
    images, truth, masks = splits["train"]
    ids = torch.arange(len(truth))
    val = len(truth) // 10 if val is None else val
    if not 0 <= val < len(truth):
        raise ValueError(f"val = {val} images cannot be held out of {len(truth)}; give 0 to {len(truth) - 1}.")
    held = pick(truth, val, len(meta["classes"]), seed=0)
    keep = torch.ones(len(truth), dtype=torch.bool)
    keep[held] = False
    left = torch.bincount(truth[keep], minlength=len(meta["classes"]))
    if int(left.min()) == 0:
        gone = meta["classes"][int(left.argmin())]
        raise ValueError(f"val = {val} leaves no training image of class {gone!r}; give fewer, or val=0.")
    train = ImageSet(images, truth, ids, truth, masks)
    train, held_out = train.take(keep.nonzero().squeeze(1)), train.take(held)
    images, truth, masks = splits["test"]
    test = ImageSet(images, truth, len(ids) + torch.arange(len(truth)), truth, masks)  # ids: each image its own
    train = hide_labels(train, labels, label_seed, len(meta["classes"]))
    return Data(meta["name"], meta["provenance"], meta["classes"], train, held_out, test)


def pick(truth: Tensor, count: int, classes: int, seed: int) -> Tensor:
    """Indices of a random, class-balanced choice of `count` images (left-over places go to random classes)."""
    rng = generator(seed, 0, LABELS)
    order = torch.randperm(len(truth), generator=rng)
    share = torch.full((classes,), count // classes)
    share[torch.randperm(classes, generator=rng)[: count % classes]] += 1
    chosen = [order[truth[order] == c][:n] for c, n in enumerate(share.tolist())]
    return torch.cat(chosen).sort().values


def label_count(labels, n: int) -> int:
    """How many of n images keep their label: `labels` is a count or a share."""
    return labels if isinstance(labels, int) else round(labels * n)


def hide_labels(images: ImageSet, labels, seed: int, classes: int) -> ImageSet:
    """The same images with all but the chosen labels set to -1; `labels` as in `load_data`."""
    n = len(images)
    if labels is None:
        return images
    if isinstance(labels, bool) or not isinstance(labels, (int, float)) or not labels > 0:  # not > 0: nan too
        raise ValueError(f"labels = {labels!r} is neither a share in (0, 1] nor a count; give for example 0.1 or 500.")
    if isinstance(labels, float) and labels > 1:
        raise ValueError(f"labels = {labels} is a share above 1; give a share in (0, 1], or a whole number to count.")
    count = label_count(labels, n)
    if not classes <= count <= n:
        raise ValueError(f"labels = {labels} keeps {count} labels; give at least one a class ({classes}), at most {n}.")
    smallest = int(torch.bincount(images.truth, minlength=classes).min())
    if -(-count // classes) > smallest and count < n:
        most = -(-count // classes)
        raise ValueError(f"labels = {labels} wants {most} a class, but one class has {smallest}; give fewer.")
    visible = torch.full_like(images.truth, -1)
    chosen = torch.arange(n) if count == n else pick(images.truth, count, classes, seed)
    visible[chosen] = images.truth[chosen]
    return ImageSet(images.images, visible, images.ids, images.truth, images.masks)


# ---- packs --------------------------------------------------------------------------------------------------------


def write_pack(path, splits: dict, classes: list[str], provenance: str, masks: dict | None = None) -> Path:
    """Write a pack: splits {"train": (images uint8 (n, 3, H, W), labels (n,)), "test": ...}, masks {split: ...}.

    The file appears whole or not at all: it is written beside its target, flushed, and renamed.
    """
    path, arrays = Path(path), {}
    for split, (images, labels) in splits.items():
        arrays[f"{split}_images"] = np.ascontiguousarray(images, np.uint8)
        arrays[f"{split}_labels"] = np.ascontiguousarray(labels, np.int64)
        if masks and split in masks:
            arrays[f"{split}_masks"] = np.ascontiguousarray(masks[split], np.uint8)
    digests = {name: hashlib.sha256(array).hexdigest() for name, array in arrays.items()}
    meta = {"name": path.stem, "provenance": provenance, "classes": list(classes), "format": 1, "sha256": digests}
    _check_splits(path, arrays, meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez(file, meta=np.array(json.dumps(meta)), **arrays))
    return path


def read_pack(path) -> tuple[dict, dict]:
    """A pack's splits {split: (images, labels, masks or None)} as tensors, and its meta data.

    Raises ValueError if it is missing, damaged (sha256) or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no data pack {path}; make it with data/prepare.py, or give load_data another path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        intact = all(hashlib.sha256(arrays[name]).hexdigest() == digest for name, digest in meta["sha256"].items())
    except Exception as error:
        raise ValueError(f"{path} is no readable data pack ({error}); make it again with data/prepare.py.") from error
    if not intact or set(meta["sha256"]) != set(arrays):
        raise ValueError(f"{path} is damaged (sha256 differs); make it again with data/prepare.py.")
    _check_splits(path, arrays, meta)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    names = [name.removesuffix("_images") for name in arrays if name.endswith("_images")]
    return {s: (tensors[f"{s}_images"], tensors[f"{s}_labels"], tensors.get(f"{s}_masks")) for s in names}, meta


def _check_splits(path: Path, arrays: dict, meta: dict) -> None:
    for split in ("train", "test"):
        if f"{split}_images" not in arrays:
            raise ValueError(f"{path.name} has no {split} split; a pack needs both train and test.")
    for split in {name.split("_")[0] for name in arrays}:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(labels) or not len(images):
            shape = f"images {images.shape} for {len(labels)} labels"
            raise ValueError(f"{path.name}: {split} has {shape}; give one label to each of (n, 3, H, W).")
        if labels.min() < 0 or labels.max() >= len(meta["classes"]):
            raise ValueError(
                f"{path.name}: {split} has labels from {labels.min()} to {labels.max()}; "
                f"with {len(meta['classes'])} classes they must lie in 0 to {len(meta['classes']) - 1}."
            )
