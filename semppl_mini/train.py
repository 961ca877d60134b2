"""fit(): epochs, schedules, log, checkpoints.

An epoch draws as many images as the training set has, in floor(n / B) batches. With `labelled_share` s each batch is
round(s B) labelled and B - round(s B) unlabelled images, each kind in its own endless shuffle; else one shuffle of all.
"""

import copy
import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import checkpoint, monitor
from .config import Config
from .data import Data, ImageSet
from .device import device_of
from .lars import LARS, param_groups
from .rng import ORDER, VIEWS, generator
from .semppl import Batch, Draws, SemPPL, draw_step
from .views import draw_views, make_views


@dataclass
class Run:
    """A training run: config, method with its networks, a record an epoch, folder or None, provenance of its images.

    history[0] is the untrained network, its queues filled with the labelled images of an epoch; each record has epoch,
    loss and its terms, lr, pseudo_label_accuracy, coverage, vote_agreement, purity, false_negatives,
    images_per_second, data_share, seconds.
    """

    config: Config
    method: SemPPL
    history: list[dict] = field(default_factory=list)
    folder: Path | None = None
    data: str = ""


# ---- what depends on (config, epoch or step) only ---------------------------------------------------------------


def steps_per_epoch(config, n: int) -> int:
    """floor(n / B); a training set smaller than one batch raises ValueError."""
    if n < config.batch_size:
        raise ValueError(f"batch_size = {config.batch_size} exceeds the {n} training images; choose {n} or less.")
    return n // config.batch_size


def _endless(rows: Tensor, epoch: int, need: int, seed: int) -> Tensor:
    """Entries [epoch * need, (epoch + 1) * need) of an endless sequence of fresh shuffles of `rows`."""
    n, chosen, at = len(rows), [], epoch * need
    while at < (epoch + 1) * need:
        shuffle, offset = divmod(at, n)
        part = torch.randperm(n, generator=generator(seed, shuffle, ORDER))[offset : offset + (epoch + 1) * need - at]
        chosen.append(rows[part])
        at += len(part)
    return torch.cat(chosen)


def epoch_order(config, labels: Tensor, epoch: int) -> Tensor:
    """Which training images each step of an epoch sees: indices (steps, B), labelled ones first in a batch."""
    n, B = len(labels), config.batch_size
    steps, share = steps_per_epoch(config, n), config.labelled_share
    if share is None:
        order = torch.randperm(n, generator=generator(config.seed, epoch, ORDER))
        return order[: steps * B].view(steps, B)
    counts = {True: round(share * B), False: B - round(share * B)}
    parts = []
    for labelled, count in counts.items():
        rows = ((labels >= 0) == labelled).nonzero().squeeze(1)
        if count and not len(rows):
            kind = "labelled" if labelled else "unlabelled"
            raise ValueError(f"labelled_share = {share} asks for {kind} images: there are none; change `labels`, or "
                             "give labelled_share=None.")  # fmt: skip
        if count:
            parts.append(_endless(rows, epoch, steps * count, 2 * config.seed + labelled).view(steps, count))
    return torch.cat(parts, 1)


def lr_at(config, epoch: float) -> float:
    """Learning rate at a fractional epoch: linear warm-up from 0 to lr B / 256, then cosine to 0."""
    peak, warm = config.lr * config.batch_size / 256, min(config.warmup_epochs, config.epochs)
    if epoch < warm:
        return peak * epoch / warm
    return peak * (1 + math.cos(math.pi * (epoch - warm) / max(config.epochs - warm, 1e-9))) / 2


def make_optimizer(config, module) -> torch.optim.Optimizer:
    """LARS, Nesterov SGD or AdamW (betas: momentum, 0.99); biases and batch norm: no decay, no LARS adaptation."""
    groups, rate = param_groups(module), dict(lr=0.0, weight_decay=config.weight_decay)
    if config.optimizer == "lars":
        return LARS(groups, momentum=config.momentum, eta=config.eta, **rate)
    groups[1]["weight_decay"] = 0.0
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(config.momentum, 0.99), **rate)
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0, **rate)


# ---- one step, one epoch, one run ---------------------------------------------------------------------------------


class Trainer:
    """What a step needs and a checkpoint keeps: the method, the optimizer, the training images."""

    def __init__(self, config: Config, train: ImageSet, method: SemPPL):
        self.config, self.train = config, train
        self.device = device_of(config)
        self.method = method.to(self.device, torch.float64 if config.precision == "fp64" else None)
        self.method.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(config, method.online)
        self.steps = steps_per_epoch(config, len(train))

    def load(self, step: int, index: Tensor) -> tuple[list[Tensor], Batch, Tensor]:
        """Views, batch and (for the monitor alone) true classes of the images of a step."""
        config, images = self.config, self.train.take(index)
        height, width = images.images.shape[2:]
        draws = draw_views(config, len(index), generator(config.seed, step, VIEWS), height, width)
        masks = None if images.masks is None else images.masks.to(self.device)
        views = make_views(images.images.to(self.device), draws, config, masks)
        if config.precision == "fp64":
            views = [view.double() for view in views]
        labels, ids, truth = (x.to(self.device) for x in (images.labels, images.ids, images.truth))
        return views, Batch(labels, ids, truth if config.oracle else None), truth

    def step(self, step: int, index: Tensor, learn: bool = True) -> dict:
        """One training step on the images `index` (B,): its loss terms, counts and times."""
        start = time.perf_counter()
        views, batch, truth = self.load(step, index)
        draws = Draws(*(x.to(self.device) for x in draw_step(self.config, step)))
        loaded = time.perf_counter()
        with torch.set_grad_enabled(learn):
            loss, seen = self.method(views, batch, draws)
        lr = lr_at(self.config, step / self.steps)
        if learn:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            progress = (step + 1) / (self.steps * self.config.epochs)
            self.method.before_step(progress)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.method.after_step(progress)
        terms = {name: float(value.detach()) for name, value in {"loss": loss, **seen["terms"]}.items()}
        times = {"data": loaded - start, "all": time.perf_counter() - start}
        return {"terms": terms, "lr": lr, "counts": monitor.count(seen, batch.labels, truth), "times": times}


def _record(epoch: int, steps: list[dict], batch_size: int) -> dict:
    """The epoch's line: mean terms, shares over its images, speed."""
    seconds, data = (sum(s["times"][name] for s in steps) for name in ("all", "data"))
    shares = monitor.shares([s["counts"] for s in steps])
    terms = {name: sum(s["terms"][name] for s in steps) / len(steps) for name in steps[0]["terms"]}
    speed = {"images_per_second": len(steps) * batch_size / seconds, "data_share": data / seconds, "seconds": seconds}
    return {"epoch": epoch, **terms, "lr": steps[-1]["lr"], **shares, **speed}


def untrained_record(trainer: Trainer, measured: int = 8) -> dict:
    """Epoch 0: what the untrained network's votes are worth once its queues are full. Trains nothing."""
    probe = copy.copy(trainer)
    probe.method = copy.deepcopy(trainer.method)
    order = epoch_order(trainer.config, trainer.train.labels, 0)
    labelled = order[trainer.train.labels[order] >= 0]
    queue = probe.method.queue
    for index in labelled[: queue.capacity].split(trainer.config.batch_size):  # only targets enter the queue
        if len(index) == 1:  # no batch for a batch norm
            break
        views, batch, _ = probe.load(0, index)
        t = torch.stack([probe.method.project(x) for x in views[: trainer.config.large_views]])
        queue.enqueue(t, batch.labels, batch.ids)
    steps = [probe.step(i, order[i], learn=False) for i in range(min(measured, len(order)))]
    return _record(0, steps, trainer.config.batch_size)


def fit(config: Config, data: Data, folder=None, callbacks=(), progress: bool = True) -> Run:
    """Train SemPPL on data.train and return the run.

    folder: where to keep log.jsonl (a line a step and a line an epoch), checkpoint.pt (after every epoch) and, at the
    end, encoder.pt, the bare encoder's state_dict; None keeps nothing. A folder with a checkpoint is resumed, and
    raises ValueError if its config or data differ. callbacks: functions of (run, record), called after every epoch,
    0 (untrained) included. Raises ValueError if `config.labels` is a count and data.train has another one.
    """
    known = int((data.train.labels >= 0).sum())
    if isinstance(config.labels, int) and config.labels != known:
        raise ValueError(f"config.labels = {config.labels}, but {known} images have a label; give load_data the same.")
    method = SemPPL(config, len(data.classes))
    trainer = Trainer(config, data.train, method)
    run = Run(config, method, [], None if folder is None else Path(folder), data.provenance)
    if run.folder:
        run.folder.mkdir(parents=True, exist_ok=True)
        _resume(run, trainer)
    name = "SemPPL" if config.semantic_positives else "augmentation-only"
    hidden = {} if progress else {"disable": True}  # without the key, tqdm minds TQDM_DISABLE
    bar = tqdm(total=config.epochs * trainer.steps, desc=name + " ORACLE" * config.oracle, **hidden)
    with bar, open(run.folder / "log.jsonl" if run.folder else os.devnull, "a") as log:
        if not run.history:
            _finish_epoch(run, trainer, untrained_record(trainer), log, callbacks)
        bar.update((len(run.history) - 1) * trainer.steps)
        for epoch in range(len(run.history), config.epochs + 1):
            steps = []
            for i, index in enumerate(epoch_order(config, data.train.labels, epoch - 1)):
                steps.append(trainer.step((epoch - 1) * trainer.steps + i, index))
                _write(log, {"step": (epoch - 1) * trainer.steps + i, **steps[-1]["terms"], "lr": steps[-1]["lr"]})
                bar.update()
            record = _record(epoch, steps, config.batch_size)
            accuracy = record["pseudo_label_accuracy"]
            bar.set_postfix(epoch=epoch, loss=f"{record['loss']:.3f}", pseudo=f"{accuracy or 0:.1%}")
            _finish_epoch(run, trainer, record, log, callbacks)
    if run.folder:
        checkpoint.save(run.folder / "encoder.pt", method.encoder.state_dict())
    return run


def _write(log, line: dict) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()


def _finish_epoch(run: Run, trainer: Trainer, record: dict, log, callbacks) -> None:
    record |= {"oracle": True} if run.config.oracle else {}
    run.history.append(record)
    _write(log, record)
    if run.folder:
        state = {"config": run.config.to_dict(), "data": run.data, "classes": run.method.num_classes}
        state |= {"method": run.method.state_dict(), "optimizer": trainer.optimizer.state_dict()}
        state |= {"history": run.history, "log": log.tell()}
        checkpoint.save(run.folder / "checkpoint.pt", state)
    for callback in callbacks:
        callback(run, record)


def _resume(run: Run, trainer: Trainer) -> None:
    """Continue from the folder's checkpoint, if there is one."""
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        return
    state = checkpoint.load(path, trainer.device)
    old = {"data": state["data"], **Config.from_dict(state["config"]).to_dict()}
    new = {"data": run.data, **run.config.to_dict()}
    differing = [f"{name} ({old[name]} there, {new[name]} now)" for name in new if old[name] != new[name]]
    if differing:
        raise ValueError(f"{path} is of a run with other settings: {', '.join(differing)}; choose another folder.")
    run.method.load_state_dict(state["method"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    run.history = state["history"]
    if (run.folder / "log.jsonl").exists():  # drop what an unfinished epoch wrote: it runs again
        os.truncate(run.folder / "log.jsonl", state["log"])


def load_run(path) -> Run:
    """The run kept in a folder (or checkpoint file): config, history and the method, on the CPU."""
    path = Path(path) if Path(path).suffix == ".pt" else Path(path) / "checkpoint.pt"
    state = checkpoint.load(path)
    config = Config.from_dict(state["config"])
    method = SemPPL(config, state["classes"]).to(torch.float64 if config.precision == "fp64" else None)
    method.load_state_dict(state["method"])
    return Run(config, method, state["history"], path.parent, state["data"])


def runs_dir() -> Path:
    """Where runs live: the environment variable SEMPPL_RUNS, or runs/ beside the package."""
    return Path(os.environ.get("SEMPPL_RUNS") or Path(__file__).parents[1] / "runs")


def keep_encoders(every: int):
    """A callback for `fit` with a folder: writes encoder-EPOCH.pt there every so many epochs, epoch 0 included."""

    def keep(run: Run, record: dict) -> None:
        if record["epoch"] % every == 0:
            checkpoint.save(run.folder / f"encoder-{record['epoch']:04d}.pt", run.method.encoder.state_dict())

    return keep
