"""Image sets of other people in the layout they come in, read by torchvision.datasets: training, validation, test.

    birdsnap, folders       ROOT/train/CLASS/*.jpg, ROOT/test/ or val/ likewise: Places205, iNaturalist, yours
    sun397                  ROOT/SUN397/a/abbey/*.jpg, and Training_01.txt, Testing_01.txt of its authors in ROOT
    cars                    ROOT/stanford_cars/, flowers: ROOT/flowers-102/, ... each as its class in torchvision says

Metrics and parts are those of Kornblith et al. (2019), which SimCLR and BYOL took over; the table is in
docs/readouts.md. Nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.datasets.folder import default_loader

from semppl_mini.data import pick

VOC = ("aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
       "sheep sofa train tvmonitor").split()  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """How a set is opened: (root, transform) -> {"train", "test" and perhaps "val": data set}; how it is measured."""

    open: Callable
    metric: str  # "top1", "mean_per_class" or "map11"
    share: float | None = None  # of the training images to choose by, where the set has no validation part
    shots: tuple | None = None  # of all images, so many a class to train on, and among them to choose by; others test


def of_splits(kind, *names: str, **more):
    """Opens a class of torchvision that takes split=; names: of training, test and perhaps validation part."""

    def open(root, view):
        parts = dict(zip(("train", "test", "val"), names, strict=False))
        return {part: kind(root, split=name, transform=view, **more) for part, name in parts.items()}

    return open


def cifar(kind):
    return lambda root, view: {part: kind(root, train=part == "train", transform=view) for part in ("train", "test")}


def present(told: dict) -> Tensor:
    """An image's XML -> (20,): 1 there, 0 there but difficult, which counts for nothing, -1 not there."""
    y, objects = -torch.ones(len(VOC), dtype=torch.long), told["annotation"]["object"]
    for thing in objects:
        at = VOC.index(thing["name"])
        y[at] = max(int(y[at]), int(thing.get("difficult", "0") != "1"))
    return y


def voc2007(root, view):
    more = {"year": "2007", "transform": view, "target_transform": present}
    return {part: datasets.VOCDetection(root, image_set=part, **more) for part in ("train", "val", "test")}


def folders(root, view):
    test = next((name for name in ("test", "val") if (Path(root) / name).is_dir()), "test")
    train, test = (datasets.ImageFolder(Path(root) / part, view) for part in ("train", test))
    if train.classes != test.classes:
        odd = sorted({*train.classes} ^ {*test.classes})[0]
        raise ValueError(f"class {odd!r} is in one of the two parts only")
    return {"train": train, "test": test}


class Listed(Dataset):
    """Images that a list of paths names, below a folder; the class is the path but for the file."""

    def __init__(self, root: Path, names: list[str], classes: list[str], view):
        self.root, self.names, self.view = root, names, view
        self.labels = [classes.index(name.rpartition("/")[0]) for name in names]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i: int):
        return self.view(default_loader(self.root / self.names[i])), self.labels[i]


def sun397(root, view):
    root = Path(root)
    lists = {part: (root / f"{name}_01.txt").read_text().split()
             for part, name in (("train", "Training"), ("test", "Testing"))}  # fmt: skip
    lists = {part: [name.lstrip("/") for name in names] for part, names in lists.items()}
    if odd := [name for names in lists.values() for name in names if ".." in name]:
        raise ValueError(f"a list names {odd[0]!r}, outside the set")
    classes = sorted({name.rpartition("/")[0] for name in lists["train"]})
    return {part: Listed(root / "SUN397", names, classes, view) for part, names in lists.items()}


SETS = {
    "food": Kind(of_splits(datasets.Food101, "train", "test"), "top1", share=0.1),
    "cifar10": Kind(cifar(datasets.CIFAR10), "top1", share=0.1),
    "cifar100": Kind(cifar(datasets.CIFAR100), "top1", share=0.1),
    "birdsnap": Kind(folders, "top1", share=0.1),
    "sun397": Kind(sun397, "top1", share=0.2),
    "cars": Kind(of_splits(datasets.StanfordCars, "train", "test"), "top1", share=0.2),
    "aircraft": Kind(of_splits(datasets.FGVCAircraft, "train", "test", "val"), "mean_per_class"),
    "voc2007": Kind(voc2007, "map11"),
    "dtd": Kind(of_splits(datasets.DTD, "train", "test", "val"), "top1"),
    "pets": Kind(of_splits(datasets.OxfordIIITPet, "trainval", "test"), "mean_per_class", share=0.2),
    "caltech101": Kind(lambda root, view: {"train": datasets.Caltech101(root, transform=view)}, "mean_per_class",
                       shots=(30, 5)),
    "flowers": Kind(of_splits(datasets.Flowers102, "train", "test", "val"), "mean_per_class"),
    "folders": Kind(folders, "top1", share=0.1),
}  # fmt: skip


def opened(name: str, root, view) -> dict[str, Dataset]:
    """The parts of a set. ValueError, in one sentence, if they are not there."""
    try:
        return SETS[name].open(root, view)
    except (RuntimeError, OSError, ValueError, LookupError, TypeError) as error:  # torchvision's are of many kinds
        reason = " ".join(str(error).split())[:200].rstrip(".")
        reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"{root} holds no {name} in its own layout ({reason}); unpack it there.") from None


def split(name: str, parts: dict[str, tuple[Tensor, Tensor]], seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """What was seen of the parts, (features, labels) each -> train, val and test: the same for every encoder."""
    kind, (x, y) = SETS[name], parts["train"]
    if kind.shots:
        some, few = kind.shots
        if (least := int(y.bincount().min())) <= some:
            raise ValueError(f"{name} has a class of {least} images; {some} are to train on and others to test on.")
        own = chosen(y, some, seed)
        parts = {"train": (x[own], y[own]), "test": (x[~own], y[~own])}
        x, y = parts["train"]
        held = chosen(y, few, seed + 1)
    elif "val" in parts:
        return parts
    else:
        held = torch.zeros(len(y), dtype=torch.bool)
        held[pick(y, max(1, round(kind.share * len(y))), int(y.max()) + 1, seed, balanced=False)] = True
    return parts | {"train": (x[~held], y[~held]), "val": (x[held], y[held])}


def chosen(y: Tensor, some: int, seed: int) -> Tensor:
    """A mask (n,) of so many images a class."""
    classes = int(y.max()) + 1
    return torch.zeros(len(y), dtype=torch.bool).index_fill_(0, pick(y, some * classes, classes, seed), True)
