"""Checks of tensors that a user gives; each error is a ValueError. No pixel is looked at: milliseconds for 50,000."""

import warnings

import torch
from torch import Tensor

from .checks import check_type, shown

IDS = 2**28  # ids lie below: a table by id then has 2 GiB at most


def check_data(data) -> None:
    """Check a `Data`: texts; sets of one size, labels and truth numbers of classes, or -1, and ids each its own."""
    check_type("name", data.name, str), check_type("provenance", data.provenance, str)
    names = data.classes
    if not isinstance(names, (list, tuple)) or not 0 < len(names) == len({x for x in names if isinstance(x, str)}):
        raise ValueError(f"classes = {shown(names)} is no list of different names; give a name for each class.")
    size, seen = ("H", "W"), torch.arange(0)  # of the sets before this one
    for split in ("train", "val", "test"):
        images = getattr(data, split)
        if not hasattr(images, "ids"):
            raise ValueError(f"{split} = {shown(images)} is no image set; give an ImageSet, perhaps of 0 images.")
        check_tensor(f"{split}.ids", images.ids, torch.int64, ("n > 0" if split == "train" else "n",), (0, IDS - 1))
        if doubles := len(images.ids) - len(images.ids.unique()):
            raise ValueError(f"{split}.ids has {doubles} that come again; give each image its own, as torch.arange(n).")
        if doubles := int(torch.isin(images.ids, seen).sum()):
            raise ValueError(f"{split}.ids has {doubles} of another set; give each its own, as 9999 + torch.arange(n).")
        n, limits, seen = len(images.ids), (-1, len(names) - 1), torch.cat([seen, images.ids])
        for part in ("labels", "truth"):
            check_tensor(f"{split}.{part} of {len(names)} classes", getattr(images, part), torch.int64, (n,), limits)
        if hasattr(images, "images"):  # in memory
            check_tensor(f"{split}.images", images.images, torch.uint8, (n, 3, *size))
            size = images.size  # of all of them
            if getattr(images, "masks", None) is not None:
                check_tensor(f"{split}.masks", images.masks, torch.uint8, (n, 1, *images.size), (0, 1))


def check_classes(data, otherwise: str = "") -> None:
    """ValueError unless training images of two classes have a label; a warning if a class has none."""
    names, labels = data.classes, data.train.labels
    missing = sorted({*range(len(names))} - {*labels.unique().tolist()})
    if (n := len(names) - len(missing)) < 2:
        raise ValueError(f"The labelled images are of {n} class; load the data with labels of 2 or more{otherwise}.")
    if missing:
        words = f"No labelled image is of class {names[missing[0]]!r}, and {n} of {len(names)} classes have any"
        warnings.warn(f"{words}; images of the others will be taken for one of these.", stacklevel=3)


def check_tensor(name: str, x, kind: torch.dtype | None, shape: tuple, limits=None, device: str | None = "cpu") -> None:
    """Check type, shape (a side is a number, "n" for any, or a text for 1 or more), limits, device; None: any."""
    wanted = f"give {kind or 'numbers'} ({', '.join(map(str, shape))}){' on the CPU' if device else ''}"
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}; {wanted}.")
    sides = [want in (have, "n") or type(want) is str and have > 0 for have, want in zip(x.shape, shape, strict=False)]
    if not all([*sides, x.dim() == len(shape), kind in (None, x.dtype), device in (None, x.device.type)]):
        raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)} on {x.device}; {wanted}.")
    if limits and x.numel():
        low, high = x.aminmax()
        if not (low >= limits[0] and high <= limits[1]):  # nan is in no limits
            raise ValueError(f"{name} goes from {low:.6g} to {high:.6g}; give {limits[0]:.6g} to {limits[1]:.6g}.")


def pixels_of(images, index: Tensor, size: int) -> Tensor:
    """The whole images at `index` of a tensor or set, checked: uint8, or fractions in [0, 1], (b, 3, H, W)."""
    x = images.whole(index, size) if hasattr(images, "whole") else images[index]
    fractions = isinstance(x, Tensor) and x.is_floating_point()
    limits, kind = ((-0.001, 1.001), x.dtype) if fractions else (None, torch.uint8)  # rounding is allowed
    check_tensor("images", x, kind, ("n", 3, "H", "W"), limits, None)
    return x
