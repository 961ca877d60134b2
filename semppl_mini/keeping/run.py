"""A run and its folder: log.jsonl (a line a step, a line an epoch), checkpoint-STEP.pt, and at the end encoder.pt.

Two verbs that never mix. *Resume*: same folder, config, images; the run goes on as if it had never stopped, to the
bit. *Start from weights*: the networks of another run, with a new optimizer, schedule, history and empty queues.
"""

import copy
import json
import os
import platform
import subprocess
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .. import relatives as methods
from ..config import Config
from ..files import checkpoint, digest, make_folder
from ..parallel import world

try:
    import fcntl
except ImportError:  # Windows: two trainings of one folder are not noticed there
    fcntl = None

NETWORKS = ("online.", "target.")  # of a method, beside its state
FIXED = ("data", "images", "weights", "classes")  # what must be the same on resuming, beside the config
HELD = {"config": dict, "data": str, "images": str, "weights": str, "classes": int, "method": dict, "optimizer": dict,
        "history": list, "steps": list, "log": int, "position": dict, "software": dict}  # fmt: skip


@dataclass
class Run:
    """A training run: config, method with its networks, a record an epoch, folder or None, provenance of its images.

    history[0] is the untrained network, its queues filled with the labelled images of an epoch; each record has epoch,
    loss and its terms, embedding_std, lr, pseudo_label_accuracy, coverage, vote_agreement, purity, false_negatives,
    images_per_second, data_share, seconds. `steps` holds the records of an epoch that has not ended, `state` what a
    checkpoint would, if a run without a folder was stopped.
    """

    config: Config
    method: nn.Module
    history: list[dict] = field(default_factory=list)
    folder: Path | None = None
    data: str = ""
    steps: list[dict] = field(default_factory=list)
    state: dict | None = None

    @property
    def finished(self) -> bool:
        return len(self.history) > self.config.epochs


class Keeper:
    """Writes a run's log and checkpoints, if it has a folder; puts a run back to where it was."""

    def __init__(self, run: Run, trainer, keep_last: int, images: str, weights: str):
        self.run, self.trainer, self.keep_last = run, trainer, keep_last
        kept = {"data": run.data, "images": images, "weights": weights, "classes": run.method.num_classes}
        self.same = {**kept, **run.config.to_dict()}
        self.log, self.saved, self.software = None, None, {"device": str(trainer.device), **software()}
        self.writes = run.folder is not None and world.rank() == 0  # of several processes only the first

    def __enter__(self) -> "Keeper":
        if self.writes:
            make_folder(self.run.folder)
            self.log = open(self.run.folder / "log.jsonl", "ab")
            try:
                if fcntl:
                    fcntl.flock(self.log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
            except BlockingIOError:
                self.log.close()
                raise ValueError(f"{self.run.folder} is being trained by another process; wait for it, or choose "
                                 "another folder.") from None  # fmt: skip
        return self

    def __exit__(self, *error) -> None:
        if self.log:
            self.log.close()

    @property
    def step(self) -> int:
        """How many steps are done."""
        return max(0, len(self.run.history) - 1) * self.trainer.steps + len(self.run.steps)

    def write(self, line: dict) -> None:
        if self.log:
            self.log.write(json.dumps(line).encode() + b"\n")
            self.log.flush()

    def state(self) -> dict:
        """All that a run is, as plain types: what a checkpoint holds."""
        run = self.run
        position = {"epoch": len(run.history), "step": self.step}
        return {
            "config": run.config.to_dict(), "position": position, "method": on_cpu(run.method.state_dict()),
            "optimizer": on_cpu(self.trainer.optimizer.state_dict()),
            "history": run.history, "steps": on_cpu(run.steps), "log": self.log.tell() if self.log else 0,
            "software": self.software, **{name: self.same[name] for name in FIXED},
        }  # fmt: skip

    def save(self) -> None:
        """One more checkpoint; the oldest goes. Without a folder nothing is kept."""
        if self.writes:
            os.fsync(self.log.fileno())  # the checkpoint knows how long the log is
            self.saved = checkpoint.path_of(self.run.folder, self.step)
            checkpoint.save(self.saved, self.state())
            checkpoint.tidy(self.run.folder, self.saved, self.keep_last)

    def resume(self, earlier: Run | None = None) -> None:
        """Go on where the folder's newest whole checkpoint (or the stopped run `earlier`) stood; start if none."""
        if earlier is not None:
            if earlier.state is None:
                raise ValueError("This run cannot be resumed; give one that was stopped, without a folder of its own.")
            self._restore("The run to resume", copy.deepcopy(earlier.state))
        elif self.run.folder:
            path, state = (checkpoint.newest(self.run.folder) if self.writes else None) or (None, None)
            self.saved = world.tell(path)  # the others read the file that the first has found whole
            if self.saved:
                self._restore(self.saved, state or checkpoint.load(self.saved))
            if self.writes:
                self._cut_log(state["log"] if path else 0)
                checkpoint.tidy(self.run.folder, path, self.keep_last)

    def _restore(self, path, state: dict) -> None:
        _check(path, state)
        old = {name: state[name] for name in FIXED} | read_config(path, state).to_dict()
        unequal = [f"{name} ({old[name]} there, {now} now)" for name, now in self.same.items() if old[name] != now]
        if unequal:
            raise ValueError(f"{path} is of a run with other settings: {', '.join(unequal)}; choose another folder.")
        was, now = state["software"], self.software
        changed = [name for name in ("torch", "device", "threads") if was.get(name) != now[name]]
        if changed:
            warnings.warn(f"{path} was made with another {', '.join(changed)}: the run goes on, but perhaps not to the "
                          "bits of an uninterrupted one.", stacklevel=2)  # fmt: skip
        self.run.method.load_state_dict(fitting(path, state, self.run.method))
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.run.history, self.run.steps = state["history"], state["steps"]

    def _cut_log(self, size: int) -> None:
        """Drop what was logged after the checkpoint: those steps run again."""
        self.log.seek(0, os.SEEK_END)
        if size == 0 and Path(self.log.name).read_bytes().count(b"\n") > 1:  # one line: killed in the very first save
            raise ValueError(f"{self.run.folder} has a log of another run but no checkpoint; choose another folder.")
        if self.log.tell() < size:
            warnings.warn(f"{self.log.name} has lost its last lines; the checkpoint's history is whole.", stacklevel=2)
        else:
            self.log.truncate(size)
        self.log.seek(0, os.SEEK_END)

    def stopped(self) -> str:
        """What to say of a run that was asked to stop; without a folder, what it is stays in `run.state`."""
        end = self.run.config.epochs * self.trainer.steps
        if self.run.finished:
            return f"Stopped after the last of {end} steps: the run is complete."
        if self.run.folder:
            how = f"the same call or command goes on from {self.saved}"
        else:
            self.run.state = self.state()
            how = "nothing is on disk; fit(..., resume=run) goes on, a folder would keep it"
        return f"Stopped after step {self.step} of {end}: {how}."


def on_cpu(state):
    """The same tree of dicts and lists with its tensors on the CPU, so that any device can read a checkpoint."""
    if isinstance(state, dict):
        return type(state)((name, on_cpu(value)) for name, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(map(on_cpu, state))
    return state.cpu() if isinstance(state, torch.Tensor) else state


# ---- reading what other runs left ---------------------------------------------------------------------------------


def _check(path, state) -> None:
    state = state if isinstance(state, dict) else {}
    if wrong := [name for name, kind in HELD.items() if not isinstance(state.get(name), kind)]:
        raise ValueError(f"{path} is no checkpoint of a run (without {wrong[0]}); give one that fit() wrote.")


def read_config(path, state: dict) -> Config:
    try:
        return Config.from_dict(state["config"])
    except ValueError as error:
        raise ValueError(f"{path} is of another version ({str(error).rstrip('.')}); train again.") from None


def fitting(path, state: dict, method: nn.Module, start: str | tuple = "") -> dict:
    """A checkpoint's tensors whose names begin with `start`; ValueError names the first that does not fit."""
    both = method.state_dict(), state["method"]
    own, theirs = ({name: t for name, t in tensors.items() if name.startswith(start)} for tensors in both)
    for name in [*own, *theirs]:
        here, there = (tuple(s[name].shape) if name in s else "none" for s in (own, theirs))
        if here != there:
            raise ValueError(f"{path} does not fit: {name} has shape {there} there and {here} here; give the config "
                             "and the classes it was made with.")  # fmt: skip
    return theirs


def read_state(path, device="cpu") -> tuple[Path, dict]:
    """A run's folder (its newest whole checkpoint) or one checkpoint file -> its path and what it holds."""
    path = Path(path)
    if path.suffix != ".pt":
        found = checkpoint.newest(path, device)
        if found is None:
            raise ValueError(f"There is no checkpoint in {path}; give the folder of a run, or train first.")
        path, state = found
    else:
        state = checkpoint.load(path, device)
    _check(path, state)
    return path, state


def load_run(path) -> Run:
    """The run kept in a folder (or checkpoint file): config, history and the method, on the CPU.

    A missing, damaged or foreign checkpoint raises ValueError; of a folder, the newest whole one is taken.
    """
    path, state = read_state(path)
    config = read_config(path, state)
    labels = state["method"].get("pseudo.labels")  # of IFND: a column an image
    images = labels.shape[-1] if isinstance(labels, torch.Tensor) and labels.dim() else 0
    with torch.device("meta"):  # shapes only: a lying config cannot make us allocate what the file does not hold
        tensors = fitting(path, state, methods.make(config, state["classes"], images))
    method = methods.make(config, state["classes"], images).to(torch.float64 if config.precision == "fp64" else None)
    method.load_state_dict(tensors)
    return Run(config, method, state["history"], path.parent, state["data"], state["steps"])


def start_from(path, method: nn.Module) -> str:
    """Give a new method the online and target networks of another run; its queues stay behind. A classifier takes the
    encoder alone, and an encoder itself may stand for the run.

    Returns a digest of these weights. ValueError if they do not fit.
    """
    if isinstance(path, nn.Module):
        networks = {}
        for part in [part for part in ("online", "target") if "encoder" in getattr(method, part)]:
            theirs = {f"{part}.encoder.{name}": tensor for name, tensor in path.state_dict().items()}
            networks |= fitting("The encoder", {"method": theirs}, method, f"{part}.encoder.")
        method.load_state_dict(networks, strict=False)
        return digest(networks.values())
    path, state = read_state(path)
    starts = getattr(method, "starts", NETWORKS)
    if starts is not NETWORKS:  # the encoder that the other run would be read out by
        source = methods.MODULES.get(state["config"].get("method"))
        reads = getattr(getattr(source, "CARP", None), "reads", starts)
        named = ((name, tensor) for name, tensor in state["method"].items() if name.startswith(reads))
        state = {**state, "method": {starts + name.removeprefix(reads): tensor for name, tensor in named}}
    networks = fitting(path, state, method, starts)
    method.load_state_dict(networks, strict=False)
    return digest(networks.values())


def software() -> dict:
    """What else the bits of a run depend on, and the git revision of this code, if it has one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        git = ""
    versions = {"torch": str(torch.__version__), "python": platform.python_version(), "git": git}
    return {"threads": torch.get_num_threads(), "processor": platform.machine(), **versions}


def runs_dir() -> Path:
    """Where runs live: the environment variable SEMPPL_RUNS, or runs/ beside the package."""
    return Path(os.environ.get("SEMPPL_RUNS") or Path(__file__).parents[2] / "runs")


def keep_encoders(every: int):
    """A callback for `fit` with a folder: writes encoder-EPOCH.pt there every so many epochs, epoch 0 included."""

    def keep(run: Run, record: dict) -> None:
        if record["epoch"] % every == 0:
            checkpoint.save(run.folder / f"encoder-{record['epoch']:04d}.pt", run.method.encoder.state_dict())

    return keep
