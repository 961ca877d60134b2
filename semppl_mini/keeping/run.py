"""A run, what a checkpoint holds of it, and what other runs left: to go on with (resume), or to start from."""

import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import relatives
from ..config import Config
from ..data import Data
from ..files import check_type, check_whole, checkpoint, digest, label_count, shown
from ..method import Method
from ..recipes.resnets import by_our_names

HELD = {"config": dict, "data": str, "images": str, "weights": str, "classes": int, "method": dict, "optimizer": dict,
        "history": list, "steps": list, "log": int, "position": dict, "software": dict}  # fmt: skip
ARCHITECTURE = ("backbone", "width", "stem", "stem_stride", "padding", "sk")  # what of a config makes its encoder
EXACT = ("recompute",)  # changes no bit
COMPUTING = (*EXACT, "device", "precision", "knn_chunk_mb", "microbatches", "compile", "graph")  # free on a resume


@dataclass
class Run:
    """A training run: config, method with its networks, a record an epoch, folder or None, provenance of its images.

    history[0] is the untrained network, its queues filled with the labelled images of an epoch; each record has epoch,
    loss and its terms, embedding_std, lr, what the method counts (see monitor), images_per_second, data_share, seconds.
    data_share: the part of these seconds that waited for views; read-outs are in neither."""

    config: Config
    method: nn.Module
    history: list[dict] = field(default_factory=list)
    folder: Path | None = None
    data: str = ""
    unfinished: list[dict] = field(default_factory=list)  # a record a step, until their epoch ends
    state: dict | None = None  # a checkpoint's, of a stopped run without a folder
    images: str = ""  # digest of the training images and their labels, of a run that was loaded

    @property
    def finished(self) -> bool:
        return len(self.history) > self.config.epochs


def check_labels(config: Config, data: Data) -> None:
    """ValueError unless the data have the labels that the config asks for."""
    check_type("config", config, Config), check_type("data", data, Data)
    n, known = len(data.train), int((data.train.labels >= 0).sum())
    if config.labels is not None and known != (asked := label_count(config.labels, n)):
        of = f"config.labels = {config.labels} asks for {asked} of {n} images"
        raise ValueError(f"{of}, but {known} have a label; give load_data the same `labels`.")
    if None not in (config.labels, data.label_seed) and config.label_seed != data.label_seed:
        of = f"config.label_seed = {config.label_seed}, but the data's labels were drawn by {data.label_seed}"
        raise ValueError(f"{of}; give load_data the same `label_seed`.")


def check(config: Config, data: Data, folder, resume, callbacks, **whole) -> None:
    """ValueError for arguments of `fit` that cannot be."""
    check_labels(config, data), check_type("resume", resume, Run | None)
    if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
        raise ValueError(f"callbacks = {shown(callbacks)} is no list of functions of (run, record); give [function].")
    for name, value in whole.items():
        if value is not None:
            check_whole(name, value, 0 if name == "workers" else 1)
    if folder is not None and (not isinstance(folder, (str, os.PathLike)) or not str(folder)):
        raise ValueError(f"folder = {shown(folder)} names no folder; give its path, or None to keep nothing.")
    if folder is not None and resume is not None:
        raise ValueError(f"resume= is for runs without a folder; give fit folder={str(folder)!r} alone to go on there.")


def class_of(config, method: type[Method] | None = None) -> type[Method]:
    """The class that `fit` trains: `method`, or the one that the config names. ValueError: neither is one."""
    if method is None:
        return relatives.named(config.method)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ValueError(f"method = {shown(method)} is no class of methods; give a subclass of semppl_mini.Method.")
    return method


def class_name(config, kind: type[Method]) -> str:
    """How a checkpoint names the class: the config's own name for it, or module and name of a foreign one."""
    return config.method if kind is relatives.METHODS.get(config.method) else f"{kind.__module__}.{kind.__qualname__}"


def facts(config: Config, provenance: str, size=(None, None), classes=(), versions=()) -> dict:
    """What run.json tells those who take the encoder: what builds it, what its images were; nothing here reads it.

    size: (H, W) of the images; None, where they differ, is the size of the large crops. versions: of `software`."""
    own = {name: getattr(config, name) for name in ("mean", "std", "method", "seed")}
    own["architecture"] = {name: getattr(config, name) for name in ARCHITECTURE}
    own["size"] = [side or config.large_size for side in size]
    return own | {"classes": list(classes), "provenance": provenance, "versions": dict(versions)}


def config_in(path, state) -> Config:
    """The config in what a checkpoint holds; ValueError if that is no run, or one of another version."""
    state = state if isinstance(state, dict) else {}
    if wrong := [name for name, kind in HELD.items() if not isinstance(state.get(name), kind)]:
        raise ValueError(f"{path} is no checkpoint of a run (without {wrong[0]}); give one that fit() wrote.")
    try:
        return Config.from_dict(state["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another version ({str(error).rstrip('.')}); train again.") from None


def fitting(path, tensors: dict, method: nn.Module, start: str | tuple = "") -> dict:
    """A checkpoint's tensors whose names begin with `start`; ValueError names the first that does not fit."""
    own, theirs = ({name: t for name, t in x.items() if name.startswith(start)} for x in (method.state_dict(), tensors))
    for name in [*own, *theirs]:
        here, there = (tuple(s[name].shape) if name in s else "none" for s in (own, theirs))
        if here != there:
            raise ValueError(f"{path} does not fit: {name} has shape {there} there and {here} here; give the config "
                             "and the classes it was made with.")  # fmt: skip
    return theirs


def read_state(path) -> tuple[Path, dict, Config]:
    """A run's folder (its newest whole checkpoint) or one checkpoint file -> its path, what it holds, the config."""
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise ValueError(f"{shown(path)} names no run; give its folder, or one of its checkpoints.")
    path = Path(path)
    found = (path, checkpoint.load(path)) if path.suffix == ".pt" else checkpoint.newest(path)
    if found is None:
        others = checkpoint.others(path)
        raise ValueError(f"There is no checkpoint in {path}{others}; give the folder of a run, or train first.")
    return *found, config_in(*found)


def load_run(path, method: type[Method] | None = None) -> Run:
    """The run kept in a folder (its newest whole checkpoint) or checkpoint file: config, history, method on the CPU.

    method: the class that was given to `fit`, if one was. ValueError: a missing, damaged or foreign checkpoint."""
    path, state, config = read_state(path)
    kind = class_of(config, method)
    if (given := class_name(config, kind)) != (kept := state.get("class", config.method)):
        raise ValueError(f"{path} was trained by the class {kept}, not by {given}; give it: load_run(..., method=...).")
    images = kind.images_in(state["method"])
    with torch.device("meta"):  # shapes only: a lying config cannot make us allocate what the file does not hold
        tensors = fitting(path, state["method"], kind(config, state["classes"], images))
    made = kind(config, state["classes"], images).to(torch.float64 if config.precision == "fp64" else None)
    made.load_state_dict(tensors)
    return Run(config, made, state["history"], path.parent, state["data"], state["steps"], images=state["images"])


def start_from(weights, method: Method) -> str:
    """Give a new method what it `starts` from: another run's networks, not its queues, or an encoder -> their digest.

    weights: the run's folder or checkpoint; an encoder, ours or a ResNet of torchvision or timm, as module, state_dict
    or file of one; None: nothing, and "". Of a classifier's run the encoder. ValueError: it does not fit."""
    if weights is None:
        return ""
    path, tensors, config = _given(weights)
    kind, starts = relatives.METHODS.get(config.method, Method) if config else None, method.starts
    if config and config.padding != method.config.padding:
        raise ValueError(f"{path} has padding = {config.padding!r}, not {method.config.padding!r}; give the same.")
    if not kind or any(side.starts == side.reads + "." for side in (kind, method)):  # an encoder is all there is
        reads = kind.reads + "." if kind else ""
        encoder = {name.removeprefix(reads): x for name, x in tensors.items() if name.startswith(reads)}
        parts = {"online.encoder.": method.online, "target.encoder.": method.target}
        starts = tuple(start for start, part in parts.items() if "encoder" in part)
        if not starts:
            raise ValueError(f"{method.title} has no part called encoder; give weights= the folder of a run.")
        if encoder.keys() != method.encoder.state_dict().keys():
            encoder = by_our_names(encoder)
        tensors = {start + name: x for start in starts for name, x in encoder.items()}
    networks = fitting(path, tensors, method, starts)
    if odd := [name for name, x in networks.items() if not x.isfinite().all()]:
        raise ValueError(f"{path} is of no use: {odd[0]} has numbers that are not finite; give other weights.")
    method.load_state_dict(networks, strict=False)
    return digest(networks.values())


def _given(weights) -> tuple[str | Path, dict, Config | None]:
    """What to call them in a message, their tensors, and the config if they are a run's."""
    path, found = "The encoder", weights.state_dict() if isinstance(weights, nn.Module) else weights
    if isinstance(weights, (str, os.PathLike)) and Path(weights).is_file():
        path = Path(weights)
        found = _safetensors(path) if path.suffix == ".safetensors" else checkpoint.load(path, signed=False)
    elif not isinstance(found, dict):
        path, found, _ = read_state(weights)
    if isinstance(found, dict) and "config" in found:
        return path, found.get("method"), config_in(path, found)
    named = found.items() if isinstance(found, dict) else {type(found).__name__: found}.items()
    if others := [name for name, x in named if not (isinstance(name, str) and isinstance(x, Tensor))]:
        raise ValueError(f"{path} holds more than tensors ({shown(others[0])}); give an encoder's state_dict alone.")
    return path, found, None


def _safetensors(path: Path) -> dict:
    try:
        from safetensors.torch import load_file

        return load_file(path)
    except Exception as error:  # no such package, or a damaged file: a class of its own
        words = f"{type(error).__name__}: {shown(str(error))}"
        raise ValueError(f"{path} cannot be read ({words}); pip install safetensors, or fetch it again.") from None


def software() -> dict:
    """What else the bits of a run depend on, and the git revision of this code, if it has one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        git = ""
    versions = {"torch": str(torch.__version__), "python": platform.python_version(), "git": git}
    versions |= {found.metadata["Name"]: found.version for found in distributions(name="semppl-mini")}
    return {"threads": torch.get_num_threads(), "processor": platform.machine(), **versions}


def runs_dir() -> Path:
    """Where runs live: the environment variable SEMPPL_RUNS, or runs/ beside the package."""
    return Path(os.environ.get("SEMPPL_RUNS") or Path(__file__).parents[2] / "runs")


def keep_encoders(every: int):
    """A callback for `fit` with a folder: writes encoder-EPOCH.pt there every so many epochs, epoch 0 included."""
    check_whole("every", every, 1)

    def keep(run: Run, record: dict) -> None:
        folder = check_type("keep_encoders: the run's folder", run.folder, Path)
        if record["epoch"] % every == 0:
            checkpoint.save(folder / f"encoder-{record['epoch']:04d}.pt", run.method.encoder.state_dict())

    return keep
