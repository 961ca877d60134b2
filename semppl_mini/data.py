"""Image sets: pixels, visible labels, ids, and, kept apart, the hidden labels that only monitoring may see.

`load_data("digits", labels=100)` needs no file; other names are packs made once by data/prepare.py (`files.packs`).
Another image set, of files perhaps (scale/imagenet.py), has the same labels, ids, truth and the methods of `ImageSet`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .files import check_data, check_labels, colour_digits, digest, find_listed, label_count, read_pack
from .rng import LABELS, generator
from .views import Draw, make_views


@dataclass(frozen=True)
class ImageSet:
    """n images. Learning reads `labels`, never `truth`. All tensors are on the CPU, all but images and masks int64."""

    images: Tensor  # uint8 (n, 3, H, W)
    labels: Tensor  # (n,), -1 where unlabelled
    ids: Tensor  # (n,), each image its own
    truth: Tensor  # (n,), every true class, -1 where unknown
    masks: Tensor | None = None  # uint8 (n, 1, H, W) in {0, 1}: what is foreground

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{len(self)} images of {self.size[0]} x {self.size[1]}, {int((self.labels >= 0).sum())} labelled>"

    @property
    def size(self) -> tuple:
        """(H, W) of all images; a set whose images differ in size says (None, None)."""
        return self.images.shape[2:]

    def take(self, index: Tensor) -> "ImageSet":
        """The images at `index`, in that order, with their ids."""
        return replace(self, **{name: x[index] for name, x in vars(self).items() if isinstance(x, Tensor)})

    def labelled(self) -> "ImageSet":
        """Only the images whose label is visible."""
        return self.take((self.labels >= 0).nonzero().squeeze(1))

    def digest(self) -> str:
        """sha256 of all that learning sees of these images (truth is not)."""
        return digest([self.images, self.labels, self.ids, *([] if self.masks is None else [self.masks])])

    def whole(self, index: Tensor, size: int) -> Tensor:
        """Evaluation's view of the images at `index` (b,): uint8 (b, 3, H, W), all of each; `size` is for files."""
        return self.images[index]

    def prepare(self, index: Tensor, draws: list[Draw], config) -> list[Tensor]:
        """The CPU's part of a step's views of the images at `index` (b,), made ahead: here pixels and perhaps masks."""
        return [x.index_select(0, index) for x in (self.images, self.masks) if x is not None]

    def finish(self, prepared: list[Tensor], draws: list[Draw], config) -> list[Tensor]:
        """The device's part: what `prepare` made and the draws of these b rows -> L + V views, `views.make_views`."""
        return make_views(prepared[0], draws, config, *prepared[1:])


@dataclass(frozen=True)
class Data:
    """Training images with few labels, a validation part held out of them, test images; ValueError if one is amiss."""

    name: str
    provenance: str
    classes: list[str]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    label_seed: int | None = None  # by which the visible labels were drawn; None: otherwise

    def __post_init__(self):
        check_data(self)


def data_for(config, name="digits") -> Data:
    """The data set `name` with as many labels as a config asks for."""
    return load_data(name, config.labels, config.label_seed)


def load_data(name_or_path="digits", labels=None, label_seed: int = 0, val: int | None = None, label_list=None) -> Data:
    """A data set by name ("digits", or a pack in `files.data_dir()`) or by the path of an .npz pack.

    labels: how many training images keep their label: None = all, a share in (0, 1], or a count, as many of each class
    or, where one has too few, in proportion; label_seed picks which. label_list: a file of the names of those. val: how
    many of the other labelled ones are held out for tuning, always the same (a tenth by default): as many of each
    class, or in proportion where one is over 10% smaller than their mean. ValueError: no pack, a bad count or list."""
    if labels is not None and label_list is not None:
        raise ValueError(f"labels = {labels!r} and label_list = {str(label_list)!r} both choose labels; give one.")
    splits, meta = colour_digits() if str(name_or_path) == "digits" else read_pack(name_or_path)
    (images, truth, masks), classes = splits["train"], meta["classes"]
    train = ImageSet(images, truth, torch.arange(len(truth)), truth, masks)
    listed = find_listed(label_list, truth, meta)  # (n,)
    keep, held = hold_out(truth, val, classes, listed)
    few = hide_labels(train.take(keep), labels if label_list is None else listed[keep], label_seed, len(classes))
    images, truth, masks = splits["test"]
    test = ImageSet(images, truth, len(train) + torch.arange(len(truth)), truth, masks)
    drawn = label_seed if label_list is None else None
    return Data(meta["name"], meta["provenance"], classes, few, train.take(held), test, drawn)


def hold_out(truth: Tensor, val: int | None, classes: list[str], listed: Tensor):
    """Indices of the images to train on, and of `val` others, always the same, of known class, not `listed` (n,)."""
    rows, C = ((truth >= 0) & ~listed).nonzero().squeeze(1), len(classes)
    val = len(rows) // 10 if val is None else val
    most = min(len(rows), len(truth) - 1)
    if not isinstance(val, int) or not 0 <= val <= most:
        raise ValueError(f"val = {val!r} images cannot be held out of {len(rows)}; give 0 to {most}.")
    sizes = torch.bincount(truth[rows], minlength=C)
    balanced = 10 * C * int(sizes.min()) >= 9 * len(rows) and -(-val // C) <= int(sizes.min())
    held = rows[pick(truth[rows], val, C, seed=0, balanced=balanced)]
    kept = torch.ones(len(truth), dtype=torch.bool).index_fill_(0, held, False)
    left = torch.bincount(truth[kept & (truth >= 0)], minlength=C)
    if left[gone := int(left.argmin())] == 0:
        remedy = "give fewer, or val=0" if sizes[gone] else "the set itself has none: pack it without this class"
        raise ValueError(f"val = {val} leaves no training image of class {classes[gone]!r}; {remedy}.")
    return kept.nonzero().squeeze(1), held


def pick(truth: Tensor, count: int, classes: int, seed: int, balanced: bool = True) -> Tensor:
    """Indices of a random choice of `count` images: equally many a class, or else in proportion to the classes.

    Places left over by rounding go to the largest remainders, at random among equal ones."""
    rng = generator(seed, 0, LABELS)
    order = torch.randperm(len(truth), generator=rng)
    sizes = torch.ones(classes).long() if balanced else torch.bincount(truth, minlength=classes)
    share, rest = count * sizes // sizes.sum(), count * sizes % sizes.sum()
    lucky = torch.randperm(classes, generator=rng)
    lucky = lucky[rest[lucky].argsort(descending=True, stable=True)]
    share[lucky[: count - int(share.sum())]] += 1
    groups = order[truth[order].argsort(stable=True)].split(torch.bincount(truth, minlength=classes).tolist())
    return torch.cat([group[:n] for group, n in zip(groups, share.tolist(), strict=True)]).sort().values


def hide_labels(images: ImageSet, labels, seed: int, classes: int) -> ImageSet:
    """The same images, all labels but some set to -1: `labels` as in `load_data`, ValueError if bad; or a mask (n,)."""
    if isinstance(labels, Tensor):
        return replace(images, labels=torch.where(labels, images.truth, -1))
    check_labels(labels, seed)
    if labels is None:
        return images
    known = (images.truth >= 0).nonzero().squeeze(1)
    count, truth = label_count(labels, len(images), classes, len(known)), images.truth[known]
    rarest = int(torch.bincount(truth, minlength=classes).min())
    chosen = pick(truth, count, classes, seed, balanced=count <= classes * rarest)
    if len(truth[chosen].unique()) < classes:
        raise ValueError(f"labels = {labels}, in proportion, leaves a class without; give {classes * rarest} or fewer.")
    return replace(images, labels=torch.full_like(images.truth, -1).index_copy_(0, known[chosen], truth[chosen]))
