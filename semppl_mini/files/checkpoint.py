"""One file a checkpoint: plain types only, whole or not there at all, and able to tell that it was damaged.

A file is what torch.save writes, so torch.load(path, weights_only=True) reads it anywhere. A zip archive may end in a
comment: there stands the sha256 of all bytes before it. A run's folder holds the newest few, checkpoint-STEP.pt; files
of any other name are not ours, and are neither read nor touched."""

import os
import pickletools
import re
import warnings
import zipfile
from pathlib import Path

import torch

from .whole import sha256, write_whole

OURS = r"checkpoint-([0-9]{8}|[1-9][0-9]{8,})\.pt"  # the names of `path_of`
HALF = rf"\.({OURS}|encoder(-[0-9]+)?\.pt|run\.json)\.[0-9]+\.part"  # and what a killed `write_whole` leaves
DIGITS = 64  # of a sha256, hexadecimal
PLAIN = r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"  # names in a pickle


def save(path, state: dict) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) and its checksum; raises OSError as `write_whole`."""

    def write(file) -> None:
        torch.save(state, file)
        file.seek(-2, os.SEEK_END)
        file.write(DIGITS.to_bytes(2, "little"))  # the length of the archive's comment, 0 until now
        file.write(_checksum(file, file.tell()).encode())

    write_whole(path, write)


def _checksum(file, size: int) -> str:
    """sha256 of the first `size` bytes of an open file, which is left just behind them."""
    file.seek(0)
    return sha256(file.read(min(2**20, size - start)) for start in range(0, size, 2**20))


def load(path, signed: bool = True) -> dict:
    """What `save` wrote, or torch.save alone if not `signed`; no code can run. ValueError: it is missing, damaged,
    without its checksum, or more than tensors in a dict."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}; give the folder of a run, or train first.")
    try:
        with open(path, "rb") as file:
            size = max(0, file.seek(0, os.SEEK_END) - DIGITS)
            whole = _checksum(file, size) == file.read().decode("ascii", "replace")
            whole |= not signed and not zipfile.ZipFile(file).comment
            if whole and _harmless(zipfile.ZipFile(file), size):
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=True)
        reason = "it holds more than plain tensors" if whole else "its checksum is missing or wrong"
    except Exception as error:
        reason = f"{type(error).__name__} on reading it"
    remedy = "use an earlier one, or train again" if signed else "give a run, or what torch.save makes of a state_dict"
    raise ValueError(f"{path} is no whole checkpoint ({reason}); {remedy}.")


def _harmless(archive: zipfile.ZipFile, size: int) -> bool:
    """Whether it unpacks to no more than its size and builds tensors only: weights_only allows a bytearray of 2 GB."""
    fits = sum(member.file_size for member in archive.infolist()) <= size  # else none is read
    pickles = (archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
    calls = (call for pickled in pickles for code, call, _ in pickletools.genops(pickled) if "GLOBAL" in code.name)
    return fits and all(re.fullmatch(PLAIN, str(call)) for call in calls)


def path_of(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:08d}.pt"


def by_step(path: Path) -> tuple:
    return len(path.name), path.name


def kept(folder) -> list[Path]:
    """A run's checkpoints, from the first step to the last."""
    files = (path for path in Path(folder).glob("checkpoint-*.pt") if path.is_file())
    return sorted((path for path in files if re.fullmatch(OURS, path.name)), key=by_step)


def others(folder) -> str:
    """For the message that there are no checkpoints: " (NAME is of another version, ...)", if there is such a file."""
    names = sorted(path.name for path in Path(folder).glob("checkpoint*.pt"))
    return f" ({names[0]} is of another version, or a copy)" if names else ""


def newest(folder: Path) -> tuple[Path, dict] | None:
    """A run's newest whole checkpoint and what it holds, or None; damaged ones are warned of. ValueError: all are."""
    paths = kept(folder)
    for path in reversed(paths):
        try:
            return path, load(path)
        except ValueError as error:
            warnings.warn(f"{error} The one before it is tried.", stacklevel=2)
    if paths:
        raise ValueError(f"None of the {len(paths)} checkpoints in {folder} is whole; choose another folder.")
    return None


def tidy(folder: Path, newest: Path | None, keep: int) -> None:
    """Remove half-written files, set damaged checkpoints newer than `newest` aside, keep the last `keep` others."""
    paths = kept(folder)  # none where there is no newest
    whole = [path for path in paths if by_step(path) <= by_step(newest)]
    for damaged in paths[len(whole) :]:
        damaged.replace(damaged.with_suffix(".damaged"))
    half = [path for path in folder.glob(".*.part") if re.fullmatch(HALF, path.name) and path.is_file()]
    for old in [*half, *whole[:-keep]]:
        old.unlink(missing_ok=True)
