"""Files that appear whole or not at all: written beside their place, flushed to the disk, renamed."""

import hashlib
import json
import os
from pathlib import Path


def write_whole(path, write) -> None:
    """Let `write(file)` fill a file beside `path`, flush it to the disk, and rename it into place.

    A full disk or a read-only folder raises OSError in one sentence; what stood at `path` before still stands there.
    """
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(half, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save's own error may hide the disk's
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(f"{path} could not be written ({cause.strerror or cause}); what was saved before is whole: make "
                      "room or choose a writable folder, then go on.") from None  # fmt: skip
    finally:
        half.unlink(missing_ok=True)


def write_json(path, value) -> None:
    """`value` as an indented JSON file; raises OSError as `write_whole`."""
    write_whole(path, lambda file: file.write(json.dumps(value, indent=1).encode() + b"\n"))


def digest(tensors) -> str:
    """sha256 of the bytes of some tensors, in their order."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy())
    return sha.hexdigest()


def make_folder(path) -> Path:
    """The folder `path`, made if it is missing; OSError, in one sentence, if nothing can be written there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "read-only")
    except OSError as error:
        raise OSError(f"{path} is no folder to write to ({error.strerror}); give another, or free this one.") from None
    return path


def _sync_folder(folder: Path) -> None:
    """A rename, too, has to outlast a power cut (Windows cannot open folders)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
