"""Image sets: pixels, visible labels, ids, and, kept apart, the hidden labels that only monitoring may see.

`load_data("digits", labels=100)` needs no file; other names are packs made once by data/prepare.py, one
uncompressed .npz a set: {split}_images uint8 (n, 3, H, W), {split}_labels int64 (n,), perhaps {split}_masks
uint8 (n, 1, H, W), 1 = foreground and 0 = not, and `meta`, JSON with name, provenance, classes and a sha256 an array.
Nothing is pickled or compressed, and reading a pack takes the memory of its bytes, whatever it claims.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files.checkpoint import digest, make_folder, write_whole
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

    @property
    def size(self):
        return tuple(self.images.shape[2:])

    def prepare(self, index, draws, config):
        return [self.images[index]] + ([] if self.masks is None else [self.masks[index]])

    def finish(self, prepared, draws, config):
        from .views import make_views
        return make_views(prepared[0], draws, config, *prepared[1:])

    def whole(self, index: Tensor, size: int) -> Tensor:
        """Evaluation's view of the images at `index` (b,): uint8 (b, 3, H, W), all of each; `size` is for files."""
        return self.images[index]

    def digest(self) -> str:
        """sha256 of all that learning sees of these images (truth is not)."""
        return digest([self.images, self.labels, self.ids, *([] if self.masks is None else [self.masks])])

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
    label_seed picks which. val: how many training images are held out for tuning, always the same (a tenth by
    default): as many a class, or in proportion to the classes where one is over 10% smaller than their mean. Raises
    ValueError, in one sentence, for a missing or damaged pack or a bad count.
    """
    if str(name_or_path) == "digits":
        from .files.digits import colour_digits

        splits, meta = colour_digits()
    else:
        path = Path(name_or_path)
        path = path if path.suffix == ".npz" else data_dir() / f"{name_or_path}.npz"
        splits, meta = read_pack(path)
    images, truth, masks = splits["train"]
    ids = torch.arange(len(truth))
    keep, held = hold_out(truth, len(truth) // 10 if val is None else val, meta["classes"], meta["name"])
    train = ImageSet(images, truth, ids, truth, masks)
    train, held_out = train.take(keep), train.take(held)
    images, truth, masks = splits["test"]
    test = ImageSet(images, truth, len(ids) + torch.arange(len(truth)), truth, masks)  # ids: each image its own
    train = hide_labels(train, labels, label_seed, len(meta["classes"]))
    return Data(meta["name"], meta["provenance"], meta["classes"], train, held_out, test)


def hold_out(truth: Tensor, val: int, classes: list[str], name: str, free: Tensor | None = None):
    """Indices of the images to train on, and of `val` others, always the same; `free` (n,) says which these may be.

    ValueError if there are too few, or a class has none left to train on.
    """
    rows = torch.arange(len(truth)) if free is None else free.nonzero().squeeze(1)
    most = min(len(rows), len(truth) - 1)
    if not 0 <= val <= most:
        raise ValueError(f"val = {val} images cannot be held out of {len(rows)}; give 0 to {most}.")
    C = len(classes)
    if C < 2:
        raise ValueError(f"{name} has {C} class; give a set of 2 or more.")
    sizes = torch.bincount(truth[rows], minlength=C)
    balanced = 10 * C * int(sizes.min()) >= 9 * len(rows) and -(-val // C) <= int(sizes.min())
    held = rows[pick(truth[rows], val, C, seed=0, balanced=balanced)]
    keep = torch.ones(len(truth), dtype=torch.bool)
    keep[held] = False
    left = torch.bincount(truth[keep], minlength=C)
    if int(left.min()) == 0:
        gone = int(left.argmin())
        remedy = "give fewer, or val=0" if sizes[gone] else "the set itself has none: pack it without this class"
        raise ValueError(f"val = {val} leaves no training image of class {classes[gone]!r}; {remedy}.")
    return keep.nonzero().squeeze(1), held


def pick(truth: Tensor, count: int, classes: int, seed: int, balanced: bool = True) -> Tensor:
    """Indices of a random choice of `count` images: equally many a class, or else in proportion to the classes.

    Places left over by rounding go to the largest remainders, at random among equal ones.
    """
    rng = generator(seed, 0, LABELS)
    order = torch.randperm(len(truth), generator=rng)
    sizes = torch.ones(classes).long() if balanced else torch.bincount(truth, minlength=classes)
    share, rest = count * sizes // sizes.sum(), count * sizes % sizes.sum()
    lucky = torch.randperm(classes, generator=rng)
    lucky = lucky[rest[lucky].argsort(descending=True, stable=True)]
    share[lucky[: count - int(share.sum())]] += 1
    groups = order[truth[order].argsort(stable=True)].split(torch.bincount(truth, minlength=classes).tolist())
    chosen = [group[:n] for group, n in zip(groups, share.tolist(), strict=True)]
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
    return dataclasses.replace(images, labels=visible)


# ---- packs --------------------------------------------------------------------------------------------------------


SPLITS = ("train", "test")
KINDS = {"images": "|u1", "labels": "<i8", "masks": "|u1"}  # uint8, int64, uint8
MEMBERS = {"meta": "<U", **{f"{split}_{part}": kind for split in SPLITS for part, kind in KINDS.items()}}
MAX_BYTES, MAX_META = 2**34, 2**26  # of a pack, 16 GiB (data/prepare.py writes half), and of its meta data


def write_pack(path, splits: dict, classes: list[str], provenance: str, masks: dict | None = None) -> Path:
    """Write a pack: splits {"train": (images uint8 (n, 3, H, W), labels (n,)), "test": ...}, masks {split: ...}.

    The file appears whole or not at all: it is written beside its target, flushed, and renamed. ValueError: no pack.
    """
    path, arrays = Path(path), {}
    for split, (images, labels) in splits.items():
        arrays[f"{split}_images"] = np.ascontiguousarray(images, np.uint8)
        arrays[f"{split}_labels"] = np.ascontiguousarray(labels, np.int64)
        if masks and split in masks:
            arrays[f"{split}_masks"] = np.ascontiguousarray(masks[split], np.uint8)
    digests = {name: hashlib.sha256(array).hexdigest() for name, array in arrays.items()}
    meta = {"name": path.stem, "provenance": provenance, "classes": list(classes), "format": 1, "sha256": digests}
    _check_meta(meta)
    _check_splits(path, arrays, meta)
    make_folder(path.parent)
    write_whole(path, lambda file: np.savez(file, meta=np.array(json.dumps(meta, ensure_ascii=False)), **arrays))
    return path


def read_pack(path) -> tuple[dict, dict]:
    """A pack's splits {split: (images, labels, masks or None)} as tensors, and its meta data.

    Raises ValueError, in one sentence, if it is missing, damaged (sha256), hostile or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no data pack {path}; make it with data/prepare.py, or give load_data another path.")
    try:
        arrays = _read_arrays(path)
        meta = json.loads(str(arrays.pop("meta")))
        _check_meta(meta)
        intact = meta["sha256"] == {name: hashlib.sha256(array).hexdigest() for name, array in arrays.items()}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150].rstrip(".")
        raise ValueError(f"{path} is no readable data pack ({reason}); make it again with data/prepare.py.") from error
    if not intact:
        raise ValueError(f"{path} is damaged (sha256 differs); make it again with data/prepare.py.")
    _check_splits(path, arrays, meta)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {s: (tensors[f"{s}_images"], tensors[f"{s}_labels"], tensors.get(f"{s}_masks")) for s in SPLITS}, meta


class _Reader(io.FileIO):
    """A file read by a megabyte at most: neither an array nor a zip's table of contents is taken at its word."""

    def read(self, size: int = -1) -> bytes:
        if size > 2**20:
            raise ValueError(f"it asks for {size} bytes at once, over the limit of {2**20}")
        return super().read(size)


def _read_arrays(path: Path) -> dict:
    """The arrays of a pack. ValueError before one is unpickled, inflated, or gets memory that the file cannot fill."""
    arrays, held = {}, path.stat().st_size
    with _Reader(path) as file, zipfile.ZipFile(file) as archive:
        if not sum(member.file_size for member in archive.infolist()) <= held <= MAX_BYTES:
            raise ValueError(f"it claims more than its {held} bytes, or than the limit of {MAX_BYTES}")
        for member in archive.infolist():
            name, size = member.filename.removesuffix(".npy"), member.file_size
            if name not in MEMBERS or name in arrays or member.compress_type or size > MAX_META and name == "meta":
                raise ValueError(f"a strange member {member.filename[:50]!r}: unknown, twice, compressed or too long")
            with archive.open(member) as part:
                version = np.lib.format.read_magic(part)
                shape, _, dtype = np.lib.format.read_array_header_1_0(part)
                fits = version == (1, 0) and math.prod(shape) * dtype.itemsize == size - part.tell()
                if not fits or not dtype.str.startswith(MEMBERS[name]):
                    raise ValueError(f"{name} claims shape {shape} and type {dtype} in {size} bytes")
            with archive.open(member) as part:
                arrays[name] = np.lib.format.read_array(part, allow_pickle=False)
    return arrays


def _check_meta(meta: dict) -> None:
    """ValueError unless name, provenance and class names are printable and short, and the class names differ."""
    classes, kinds = meta["classes"], {"name": str, "provenance": str, "classes": list}
    if not all(isinstance(meta[name], kind) for name, kind in kinds.items()):
        raise ValueError("its meta data has wrong types; give name and provenance as text, classes as a list.")
    texts = (meta["name"], meta["provenance"], *classes)
    fit = all(isinstance(text, str) and len(text) <= 200 and text.isprintable() for text in texts)
    if not fit or len(set(classes)) < len(classes):
        raise ValueError("its classes are no list of different names of up to 200 printable characters; rename them.")


def _check_splits(path: Path, arrays: dict, meta: dict) -> None:
    """ValueError unless train and test have one label, and perhaps one mask of 0 and 1, to each image."""
    if odd := sorted(set(arrays) - set(MEMBERS)):
        raise ValueError(f"{path.name} has a strange part {odd[0]!r}; give the splits train and test.")
    for split in SPLITS:
        images, labels, masks = (arrays.get(f"{split}_{part}") for part in KINDS)
        if images is None or labels is None:
            raise ValueError(f"{path.name} has no {split} split; a pack needs both train and test.")
        if images.ndim != 4 or images.shape[1] != 3 or labels.shape != images.shape[:1] or not images.size:
            shape = f"images {images.shape} for {labels.size} labels"
            raise ValueError(f"{path.name}: {split} has {shape}; give one label to each of (n, 3, H, W).")
        if masks is not None and (masks.shape != (len(images), 1, *images.shape[2:]) or masks.max() > 1):
            shape = f"masks {masks.shape} up to {masks.max(initial=0)}"
            raise ValueError(f"{path.name}: {split} has {shape}; give 0 or 1 to each pixel, (n, 1, H, W).")
        low, high, top = labels.min(), labels.max(), len(meta["classes"]) - 1
        if low < 0 or high > top:
            limits = f"with {top + 1} classes they must lie in 0 to {top}"
            raise ValueError(f"{path.name}: {split} has labels from {low} to {high}; {limits}.")
