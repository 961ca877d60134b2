"""Packs: a data set in one uncompressed .npz, made once by data/prepare.py.

{split}_images uint8 (n, 3, H, W), {split}_labels int64 (n,), perhaps {split}_masks uint8 (n, 1, H, W), 1 = foreground
and 0 = not, of the splits train and test; and `meta`, JSON with name, provenance, classes and a sha256 an array.
Nothing is pickled or compressed, and reading a pack takes the memory of its bytes, whatever it claims.
"""

import io
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from .whole import make_folder, sha256, write_whole

SPLITS = ("train", "test")
KINDS = {"images": "|u1", "labels": "<i8", "masks": "|u1"}  # uint8, int64, uint8
MEMBERS = {"meta": "<U", **{f"{split}_{part}": kind for split in SPLITS for part, kind in KINDS.items()}}
MAX_BYTES, MAX_META = 2**34, 2**26  # of a pack, 16 GiB (data/prepare.py writes half), and of its meta data


def data_dir() -> Path:
    """Where packs live: the environment variable SEMPPL_DATA, or data/packs beside the package."""
    return Path(os.environ.get("SEMPPL_DATA") or Path(__file__).parents[2] / "data" / "packs")


def find_pack(name_or_path) -> Path:
    """The path of a pack: an .npz file as it is, a name in `data_dir()`."""
    path = Path(name_or_path)
    return path if path.suffix == ".npz" else data_dir() / f"{name_or_path}.npz"


def write_pack(path, splits: dict, classes: list[str], provenance: str, masks: dict | None = None) -> Path:
    """Write splits {"train": (images uint8 (n, 3, H, W), labels (n,)), ...}, masks {split: ...}; ValueError if odd."""
    path, arrays = Path(path), {}
    for split, (images, labels) in splits.items():
        arrays[f"{split}_images"] = np.ascontiguousarray(images, np.uint8)
        arrays[f"{split}_labels"] = np.ascontiguousarray(labels, np.int64)
        if masks and split in masks:
            arrays[f"{split}_masks"] = np.ascontiguousarray(masks[split], np.uint8)
    digests = {name: sha256([array]) for name, array in arrays.items()}
    meta = {"name": path.stem, "provenance": provenance, "classes": list(classes), "format": 1, "sha256": digests}
    _check_meta(meta)
    _check_splits(path, arrays, meta)
    make_folder(path.parent)
    write_whole(path, lambda file: np.savez(file, meta=np.array(json.dumps(meta, ensure_ascii=False)), **arrays))
    return path


def read_pack(path) -> tuple[dict, dict]:
    """Splits {split: (images, labels, masks or None)}, meta; ValueError: missing, damaged, hostile, inconsistent."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no data pack {path}; make it with data/prepare.py, or give load_data another path.")
    try:
        arrays = _read_arrays(path)
        meta = json.loads(str(arrays.pop("meta")))
        _check_meta(meta)
        intact = meta["sha256"] == {name: sha256([array]) for name, array in arrays.items()}
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
                part.seek(0)
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
        has, (images, labels, masks) = f"{path.name}: {split} has", (arrays.get(f"{split}_{part}") for part in KINDS)
        if images is None or labels is None:
            raise ValueError(f"{path.name} has no {split} split; a pack needs both train and test.")
        if images.ndim != 4 or images.shape[1] != 3 or labels.shape != images.shape[:1] or not images.size:
            shape = f"images {images.shape} for {labels.size} labels"
            raise ValueError(f"{has} {shape}; give one label to each of (n, 3, H, W).")
        if masks is not None and (masks.shape != (len(images), 1, *images.shape[2:]) or masks.max() > 1):
            shape = f"masks {masks.shape} up to {masks.max(initial=0)}"
            raise ValueError(f"{has} {shape}; give 0 or 1 to each pixel, (n, 1, H, W).")
        low, high, top = labels.min(), labels.max(), len(meta["classes"]) - 1
        if low < 0 or high > top:
            raise ValueError(f"{has} labels from {low} to {high}; with {top + 1} classes they must lie in 0 to {top}.")
