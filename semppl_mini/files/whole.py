"""Files that appear whole or not at all: written beside their place, flushed to the disk, renamed."""

import hashlib
import json
import os
from pathlib import Path


def write_whole(path, write) -> None:
    """Let `write(file)` fill a file; OSError, in one sentence, if it cannot: what stood at `path` then still does."""
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(half, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
        if os.name == "posix":  # the rename, too, has to outlast a power cut (Windows cannot open folders)
            handle = os.open(path.parent, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
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


def sha256(parts) -> str:
    """Of bytes or arrays, one after the other."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def digest(tensors) -> str:
    """sha256 of the bytes of some tensors, in their order."""
    return sha256(tensor.detach().cpu().contiguous().numpy() for tensor in tensors)


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
