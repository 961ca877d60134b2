"""How many images a user asks for, against how many there are: to hold out, or to keep their label."""

import torch
from torch import Tensor


def label_count(labels, n: int) -> int:
    """How many of n images keep their label: `labels` is a count or a share."""
    return labels if isinstance(labels, int) else round(labels * n)


def check_labels(labels, truth: Tensor, classes: int) -> int:
    """`label_count` of images with true classes (n,); ValueError if that is no number, or not in each class."""
    n = len(truth)
    if isinstance(labels, bool) or not isinstance(labels, (int, float)) or not labels > 0:  # not > 0: nan too
        raise ValueError(f"labels = {labels!r} is neither a share in (0, 1] nor a count; give for example 0.1 or 500.")
    if isinstance(labels, float) and labels > 1:
        raise ValueError(f"labels = {labels} is a share above 1; give a share in (0, 1], or a whole number to count.")
    count = label_count(labels, n)
    if not classes <= count <= n:
        raise ValueError(f"labels = {labels} keeps {count} labels; give at least one a class ({classes}), at most {n}.")
    smallest, most = int(torch.bincount(truth, minlength=classes).min()), -(-count // classes)
    if most > smallest and count < n:
        raise ValueError(f"labels = {labels} wants {most} a class, but one class has {smallest}; give fewer.")
    return count


def check_val(val: int, n: int, free: int, classes: list[str], name: str) -> None:
    """ValueError unless `val` images can be held out of a set of n, `free` of which may be, and it has 2 classes."""
    most = min(free, n - 1)
    if not 0 <= val <= most:
        raise ValueError(f"val = {val} images cannot be held out of {free}; give 0 to {most}.")
    if len(classes) < 2:
        raise ValueError(f"{name} has {len(classes)} class; give a set of 2 or more.")


def check_left(left: Tensor, free: Tensor, val: int, classes: list[str]) -> None:
    """ValueError names a class without an image left (C,) to train on, once `val` of those free (C,) are held out."""
    if int(left.min()) == 0:
        gone = int(left.argmin())
        remedy = "give fewer, or val=0" if free[gone] else "the set itself has none: pack it without this class"
        raise ValueError(f"val = {val} leaves no training image of class {classes[gone]!r}; {remedy}.")
