"""One file a checkpoint, plain types only, whole or not there at all."""

import os
from pathlib import Path

import torch


def save(path, state: dict) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts)."""
    write_whole(path, lambda file: torch.save(state, file))


def write_whole(path, write) -> None:
    """Let `write(file)` fill a file beside `path`, flush it, and rename it into place."""
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(half, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def load(path, device="cpu") -> dict:
    """What `save` wrote. No code can run: weights_only. A missing or damaged file raises ValueError."""
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint {path}; give the folder of a run, or train first.")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is no readable checkpoint ({kind}); delete it and train again.") from error
