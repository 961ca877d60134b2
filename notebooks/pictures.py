"""Pictures for notebook 07 out of installed packages: patches of three photographs, the photograph is the class.

    pagoda    china.jpg of scikit-learn, by danielbuechele, CC BY 2.0
    dahlia    flower.jpg of scikit-learn, by vultilion, CC BY 2.0
    portrait  grace_hopper.jpg of matplotlib, of the U.S. Navy

A photograph is laid out in cells of 80 x 80 pixels, and a patch of 48 x 48 lies within one: ten cells give the test
patches, thirty others those to train on, so no pixel is in both. Patches of a cell overlap, and test cells lie between
training cells of the same photograph: this is easier than photographs never seen.
"""

import shutil
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_image

CELL, PATCH = 80, 48


def photographs() -> dict[str, np.ndarray]:
    """{class: uint8 (H, W, 3)}"""
    portrait = np.asarray(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB"))
    return {"pagoda": load_sample_image("china.jpg"), "dahlia": load_sample_image("flower.jpg"), "portrait": portrait}


def patches(photo: np.ndarray, rng) -> dict[str, list[np.ndarray]]:
    """50 for testing, 60 to train on with a class and 180 without, uint8 (48, 48, 3) each."""
    H, W = (side // CELL for side in photo.shape[:2])
    found = {"test": [], "train": [], "unlabelled": []}
    for i, cell in enumerate(rng.permutation(H * W)[:40]):
        for kind, count in {"test": 5}.items() if i < 10 else {"train": 2, "unlabelled": 6}.items():
            for y, x in rng.integers(0, CELL - PATCH, (count, 2), endpoint=True) + np.multiply(divmod(cell, W), CELL):
                found[kind].append(photo[y : y + PATCH, x : x + PATCH])
    return found


def cut(folder: Path, seed: int = 0) -> Path:
    """Write folder/SPLIT/CLASS/NUMBER.png and folder/train/unlabelled/NUMBER.png; a folder that is there stays."""
    if folder.is_dir():
        return folder
    half, rng, unlabelled = folder.with_name(folder.name + ".part"), np.random.default_rng(seed), []
    shutil.rmtree(half, ignore_errors=True)  # of a cut that was stopped
    for name, photo in photographs().items():
        found = patches(photo, rng)
        unlabelled += found["unlabelled"]
        for split in ("train", "test"):
            save(half / split / name, found[split])
    save(half / "train" / "unlabelled", [unlabelled[i] for i in rng.permutation(len(unlabelled))])
    return half.rename(folder)


def save(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")
