"""A run, what a checkpoint holds of it, and reading what other runs left.

Two verbs that never mix. *Resume*: same folder, config, images; the run goes on as if it had never stopped, to the
bit. *Start from weights*: the networks of another run, with a new optimizer, schedule, history and empty queues.
"""

import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .. import relatives
from ..config import Config
from ..files import checkpoint, digest, label_count
from ..method import Method

FIXED = ("data", "images", "weights", "classes")  # what must be the same on resuming, beside the config
HELD = {"config": dict, "data": str, "images": str, "weights": str, "classes": int, "method": dict, "optimizer": dict,
        "history": list, "steps": list, "log": int, "position": dict, "software": dict}  # fmt: skip


@dataclass
class Run:
    """A training run: config, method with its networks, a record an epoch, folder or None, provenance of its images.

    history[0] is the untrained network, its queues filled with the labelled images of an epoch; each record has epoch,
    loss and its terms, embedding_std, lr, what the method counts (of SemPPL: pseudo_label_accuracy, coverage,
    vote_agreement, purity, false_negatives), images_per_second, data_share, seconds. `unfinished` holds the records of
    the steps of an epoch that has not ended, `state` what a checkpoint would, if a run without a folder was stopped.
    """

    config: Config
    method: nn.Module
    history: list[dict] = field(default_factory=list)
    folder: Path | None = None
    data: str = ""
    unfinished: list[dict] = field(default_factory=list)
    state: dict | None = None

    @property
    def finished(self) -> bool:
        return len(self.history) > self.config.epochs


def check(config: Config, data, folder, resume, **whole) -> None:
    """ValueError for arguments of `fit` that cannot be."""
    n, known = len(data.train), int((data.train.labels >= 0).sum())
    if config.labels is not None and known != (asked := label_count(config.labels, n)):
        of = f"config.labels = {config.labels} asks for {asked} of {n} images"
        raise ValueError(f"{of}, but {known} have a label; give load_data the same `labels`.")
    for name, value in whole.items():
        least = 0 if name == "workers" else 1
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} = {value!r} is no whole number above {least - 1}; give {least} or more.")
    if folder is not None and resume is not None:
        raise ValueError(f"resume= is for runs without a folder; give fit folder={str(folder)!r} alone to go on there.")


# ---- whose run it is ----------------------------------------------------------------------------------------------


def class_of(config, method: type[Method] | None = None) -> type[Method]:
    """The class that `fit` trains: `method`, or the one that the config names. ValueError: neither is one."""
    if method is None:
        return relatives.named(config.method)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ValueError(f"method = {method!r} is no class of methods; give a subclass of semppl_mini.Method.")
    return method


def class_name(config, kind: type[Method]) -> str:
    """How a checkpoint names the class: the config's own name for it, or module and name of a foreign one."""
    own = relatives.METHODS.get(config.method) is kind
    return config.method if own else f"{kind.__module__}.{kind.__qualname__}"


def kept_class(path, state: dict, config, method: type[Method] | None) -> type[Method]:
    """The class of a checkpoint. ValueError, which names it, if it is foreign and not given, or another is given."""
    kept, kind = state.get("class", config.method), class_of(config, method)
    if class_name(config, kind) != kept:
        raise ValueError(f"{path} was trained by the class {kept}, not by {class_name(config, kind)}; give it: "
                         "load_run(..., method=...).")  # fmt: skip
    return kind


# ---- reading what other runs left ---------------------------------------------------------------------------------


def check_state(path, state) -> None:
    """ValueError if this is not what a checkpoint of a run holds."""
    state = state if isinstance(state, dict) else {}
    if wrong := [name for name, kind in HELD.items() if not isinstance(state.get(name), kind)]:
        raise ValueError(f"{path} is no checkpoint of a run (without {wrong[0]}); give one that fit() wrote.")


def read_config(path, state: dict) -> Config:
    try:
        return Config.from_dict(state["config"])
    except ValueError as error:
        raise ValueError(f"{path} is of another version ({str(error).rstrip('.')}); train again.") from None


def fitting(path, tensors: dict, method: nn.Module, start: str | tuple = "") -> dict:
    """A checkpoint's tensors whose names begin with `start`; ValueError names the first that does not fit."""
    both = method.state_dict(), tensors
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
    check_state(path, state)
    return path, state


def load_run(path, method: type[Method] | None = None) -> Run:
    """The run kept in a folder (or checkpoint file): config, history and the method, on the CPU.

    method: the class that was given to `fit`, if one was. A missing, damaged or foreign checkpoint raises ValueError;
    of a folder, the newest whole one is taken.
    """
    path, state = read_state(path)
    config = read_config(path, state)
    kind = kept_class(path, state, config, method)
    images = kind.images_in(state["method"])
    with torch.device("meta"):  # shapes only: a lying config cannot make us allocate what the file does not hold
        tensors = fitting(path, state["method"], kind(config, state["classes"], images))
    made = kind(config, state["classes"], images).to(torch.float64 if config.precision == "fp64" else None)
    made.load_state_dict(tensors)
    return Run(config, made, state["history"], path.parent, state["data"], state["steps"])


def start_from(weights, method: Method) -> str:
    """Give a new method what it `starts` from: the networks of another run, whose queues stay behind, or an encoder.

    weights: the run's folder or checkpoint file, or the encoder itself; None changes nothing. Returns a digest of what
    was taken, "" for nothing. ValueError if it does not fit.
    """
    if weights is None:
        return ""
    if isinstance(weights, nn.Module):
        parts = [part for part in ("online", "target") if "encoder" in getattr(method, part)]
        named = {f"{part}.encoder.{name}": x for part in parts for name, x in weights.state_dict().items()}
        networks = fitting("The encoder", named, method, tuple(f"{part}.encoder." for part in parts))
    else:
        path, state = read_state(weights)
        networks = fitting(path, source_of(state, method), method, method.starts)
    method.load_state_dict(networks, strict=False)
    return digest(networks.values())


def source_of(state: dict, method: Method) -> dict:
    """A run's tensors as `method` names them: who starts from an encoder alone takes the one that is read out."""
    if method.starts != method.reads + ".":
        return state["method"]
    reads = relatives.METHODS.get(state["config"].get("method"), Method).reads + "."
    encoder = {name.removeprefix(reads): x for name, x in state["method"].items() if name.startswith(reads)}
    return {method.starts + name: x for name, x in encoder.items()}


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
