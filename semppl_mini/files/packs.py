"""Packs: a data set in one uncompressed .npz, made once by data/prepare.py.

{split}_images uint8 (n, 3, H, W), {split}_labels int64 (n,), perhaps {split}_masks uint8 (n, 1, H, W), 1 = foreground
and 0 = not, and {split}_files, names in UTF-8 (n,), of the splits train and test; and `meta`, JSON with name,
provenance, classes and a sha256 an array. A training image of no known class has the label -1.
Nothing is pickled or compressed, and reading a pack takes the memory of its bytes, whatever it claims."""

import io
import json
import math
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import torch

from .checks import check_type
from .whole import make_folder, sha256, write_whole

SPLITS = ("train", "test")
KINDS = {"images": "|u1", "labels": "<i8", "masks": "|u1"}  # uint8, int64, uint8
MEMBERS = {f"{split}_{part}": kind for split in SPLITS for part, kind in [*KINDS.items(), ("files", "|S")]}
MEMBERS["meta"] = "<U"
MAX_BYTES, MAX_META = 2**34, 2**26  # of a pack, 16 GiB (data/prepare.py writes half), and of its meta data, or a list


def data_dir() -> Path:
    """Where packs live: the environment variable SEMPPL_DATA, or data/packs beside the package."""
    return Path(os.environ.get("SEMPPL_DATA") or Path(__file__).parents[2] / "data" / "packs")


def write_pack(path, splits: dict, classes: list[str], provenance: str, files: dict | None = None) -> Path:
    """Write splits {"train": (images, labels[, masks]), "test": ...}, whole numbers as above, and the names of their
    files, {"train": n of them, "test": ...}; ValueError if odd."""
    path, arrays = Path(path), {}
    for split, parts in splits.items():
        if not 2 <= len(parts) <= 3:
            raise ValueError(f"{split} has {len(parts)} parts; give (images, labels) or (images, labels, masks).")
        kept = {part: array for part, array in zip(KINDS, parts, strict=False) if array is not None}
        for part, array in kept.items():
            arrays[f"{split}_{part}"] = whole = np.ascontiguousarray(array, KINDS[part])
            if (np.asarray(array) != whole).any():
                raise ValueError(f"{split} {part} are not all whole numbers that are {whole.dtype}; give such ones.")
    arrays |= {f"{split}_files": _utf8(files[split]) for split in files or ()}
    digests = {name: sha256([array]) for name, array in arrays.items()}
    meta = {"name": path.stem, "provenance": provenance, "classes": list(classes), "format": 1, "sha256": digests}
    _check_meta(meta)
    _check_splits(path, arrays, meta)
    make_folder(path.parent)
    write_whole(path, lambda file: np.savez(file, meta=np.array(json.dumps(meta, ensure_ascii=False)), **arrays))
    return path


def read_pack(name_or_path) -> tuple[dict, dict]:
    """{split: (images, labels, masks or None)}, meta, of a name or .npz; ValueError: missing, damaged, inconsistent.

    meta["files"]: the names of the files of train, then of test, or None."""
    check_type("name_or_path", name_or_path, str | os.PathLike)
    path = Path(name_or_path) if Path(name_or_path).suffix == ".npz" else data_dir() / f"{name_or_path}.npz"
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
    files = [arrays.pop(f"{split}_files").tolist() for split in SPLITS if f"{split}_files" in arrays]
    meta["files"] = [name.decode() for part in files for name in part] or None
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {split: tuple(tensors.get(f"{split}_{part}") for part in KINDS) for split in SPLITS}, meta


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
    classes, texts = meta["classes"], [meta["name"], meta["provenance"]]
    if not isinstance(classes, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its meta data has wrong types; give name and provenance as text, classes as a list.")
    fit = all(isinstance(text, str) and len(text) <= 200 and text.isprintable() for text in [*texts, *classes])
    if not fit or len(set(classes)) < len(classes):
        raise ValueError("its classes are no list of different names of up to 200 printable characters; rename them.")


def _check_splits(path: Path, arrays: dict, meta: dict) -> None:
    """ValueError unless train and test have one label, and perhaps one mask of 0 and 1, to each image."""
    if odd := sorted(set(arrays) - set(MEMBERS)):
        raise ValueError(f"{path.name} has a strange part {odd[0]!r}; give the splits train and test.")
    for split in SPLITS:
        has, (x, y, m) = f"{path.name}: {split} has", (arrays.get(f"{split}_{part}") for part in KINDS)
        if x is None or y is None:
            raise ValueError(f"{path.name} has no {split} split; a pack needs both train and test.")
        if x.ndim != 4 or x.shape[1] != 3 or y.shape != x.shape[:1] or not x.size:
            raise ValueError(f"{has} images {x.shape} for {y.size} labels; give one label to each of (n, 3, H, W).")
        if m is not None and (m.shape != (len(x), 1, *x.shape[2:]) or m.max() > 1):
            raise ValueError(f"{has} masks {m.shape} up to {m.max(initial=0)}; give 0 or 1 a pixel, (n, 1, H, W).")
        low, high, top = y.min(), y.max(), len(meta["classes"]) - 1
        if low < (-1 if split == "train" else 0) or high > top:
            raise ValueError(f"{has} labels from {low} to {high}; with {top + 1} classes they must lie in 0 to {top}"
                             f"{', or be -1 where unknown' * (split == 'train')}.")  # fmt: skip
        if any(f"{other}_files" in arrays for other in SPLITS):
            names = arrays.get(f"{split}_files", np.empty(0, "S"))
            if names.shape != y.shape or not all(map(_printable, names)) or len(np.unique(names)) < len(names):
                words = f"{has} {names.size} file names for {len(y)} images"
                raise ValueError(f"{words}; give each its own, printable UTF-8.")


def _utf8(names: list[str]) -> np.ndarray:
    return np.array([name.encode("utf-8", "backslashreplace") for name in names], "S")


def _printable(name: bytes) -> bool:
    try:
        return name.decode().isprintable()
    except UnicodeDecodeError:
        return False


def find_listed(path, truth: torch.Tensor, meta: dict) -> torch.Tensor:
    """Which training images (n,), of classes `truth`, a list names: a line each, as meta["files"], perhaps without
    "train/"; of no list, None, none. ValueError: no file or no names to find, a line that is no labelled training
    image's, or twice."""
    listed = torch.zeros(len(truth), dtype=torch.bool)
    if path is None:
        return listed
    if not meta.get("files"):
        raise ValueError(f"{meta['name']} keeps no names of files to find those of {path}; pack its folder again.")
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_META + 1).decode("utf-8-sig", "replace")
    except OSError as error:
        raise ValueError(f"There is no label list {path} ({error.strerror}); give a file of file names.") from None
    asked = [line.strip().removeprefix("train/") for line in unicodedata.normalize("NFC", text).splitlines()]
    asked, names = list(filter(None, asked)), meta["files"][: len(truth)]
    known = {name.removeprefix("train/"): i for i, name in enumerate(names) if truth[i] >= 0}
    like = next(iter(known), "CLASS/1.jpg")
    if len(set(asked)) < max(1, len(asked)) or len(text) > MAX_META:
        raise ValueError(f"{path} is no list of different names in {MAX_META} bytes; give one a line, like {like}.")
    if odd := [name for name in asked if name not in known]:
        raise ValueError(f"{len(odd)} of the {len(asked)} names in {path} are of no training image with a class, such "
                         f"as {odd[0][:60]!r}; give names like {like}.")  # fmt: skip
    listed[[known[name] for name in asked]] = True
    return listed
