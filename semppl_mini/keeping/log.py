"""A run's log.jsonl: lines are only added, by one process. Its lock on the file is its lock on the folder."""

import json
import os
import warnings
import weakref

from ..files import checkpoint, make_folder

if os.name == "posix":  # elsewhere two trainings of one folder are not noticed
    import fcntl

held = weakref.WeakSet()  # the logs that this process has open


class Log:
    """The log of the run in `folder`, locked until `close`, or until this process is gone, however it ends.

    ValueError: another process trains there, or log.jsonl is no file."""

    def __init__(self, folder):
        self.path = make_folder(folder) / "log.jsonl"
        if self.path.exists() and not self.path.is_file():  # a FIFO would be waited for
            raise ValueError(f"{self.path} is a folder, FIFO or device, not a file; move it or choose another folder.")
        self.file = open(self.path, "ab")
        try:
            if os.name == "posix":
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            words = "is being trained by another process; wait for it, or choose another folder"
            raise ValueError(f"{folder} {words}.") from None
        held.add(self)

    def close(self) -> None:
        held.discard(self)
        self.file.close()

    def write(self, line: dict) -> None:
        self.size += self.file.write(json.dumps(line).encode() + b"\n")
        self.file.flush()

    def sync(self) -> None:
        """Its lines are on the disk. OSError: these are no longer the lines of log.jsonl."""
        os.fsync(self.file.fileno())
        own = os.fstat(self.file.fileno())
        if not self.path.exists() or not os.path.samestat(self.path.stat(), own) or own.st_size < self.size:
            words = "was removed, replaced or cut while this run wrote it; leave it there, and give the same call or"
            raise OSError(f"{self.path} {words} command again: it goes on from the last checkpoint.")

    def cut(self, size: int) -> None:
        """Drop what was logged after the checkpoint, `size` bytes: those steps run again. ValueError: there is none."""
        if size == 0 and ((log := self.path.read_bytes()).count(b"\n") > 1 or log[:11] not in b'{"epoch": 0'):
            words = f"has a log of another run but no checkpoint{checkpoint.others(self.path.parent)}"
            raise ValueError(f"{self.path.parent} {words}; choose another folder.")
        if self.file.tell() < size:
            warnings.warn(f"{self.path} has lost its last lines; the checkpoint's history is whole.", stacklevel=2)
        self.size = self.file.truncate(self.file.seek(min(size, self.file.tell())))


def let_go() -> None:
    """In a forked process, a loader's worker perhaps, that may outlive this one: the lock is not for it to hold."""
    with open(os.devnull, "wb") as nothing:
        for log in held:
            os.dup2(nothing.fileno(), log.file.fileno(), inheritable=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)
