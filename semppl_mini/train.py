"""fit(): epochs, schedules, log, checkpoints.

An epoch draws as many images as the training set has, in floor(n / B) batches. With `labelled_share` s each batch is
round(s B) labelled and B - round(s B) unlabelled images, each kind in its own endless shuffle; else one shuffle of all.
"""

import copy
import math
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import checkpoint, monitor
from .config import Config
from .data import Data, ImageSet, label_count
from .device import device_of
from .interrupt import Listen, stop
from .lars import LARS, param_groups
from .rng import ORDER, VIEWS, generator
from .runs import Keeper, Run, start_from
from .semppl import Batch, Draws, SemPPL, draw_step
from .views import draw_views, make_views

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
        terms = {"loss": loss, **seen["terms"], "embedding_std": monitor.embedding_std(seen["o"])}
        terms = {name: float(value.detach()) for name, value in terms.items()}
        lr = lr_at(self.config, step / self.steps) if learn else 0.0
        if learn:
            _finite(terms, "the term ")
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            progress = (step + 1) / (self.steps * self.config.epochs)
            self.method.before_step(progress)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            gradients = {name: p.grad for name, p in self.method.online.named_parameters() if p.grad is not None}
            _finite(gradients, "the gradient of ")
            self.optimizer.step()
            self.method.after_step(progress)
        times = {"data": loaded - start, "all": time.perf_counter() - start}
        return {"terms": terms, "lr": lr, "counts": monitor.count(seen, batch.labels, truth), "times": times}


def _finite(values: dict, what: str) -> None:
    """FloatingPointError names the first of these numbers or tensors that is not finite; the loss only if alone."""
    sums = torch.stack([torch.as_tensor(value).sum() for value in values.values()])
    if not bool(sums.isfinite().all()):
        broken = {name: float(value) for name, value in zip(values, sums, strict=True) if not value.isfinite()}
        name = next((name for name in broken if name != "loss"), "loss")
        raise FloatingPointError(f"{what}{name} is {broken[name]}")


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


def fit(
    config: Config, data: Data, folder=None, callbacks=(), progress: bool = True, *, save_every: int | None = None,
    keep_last: int = 2, weights=None, resume: Run | None = None,
) -> Run:
    """Train SemPPL on data.train and return the run.

    folder: where to keep log.jsonl (a line a step and a line an epoch), the `keep_last` newest checkpoints (one after
    every epoch, and every `save_every` steps) and, at the end, encoder.pt, the bare encoder's state_dict; None keeps
    nothing. A folder with a checkpoint is resumed. resume: go on with a run without a folder that was stopped.
    weights: start from the networks of the run in this folder or checkpoint file, with all else new. callbacks:
    functions of (run, record), called after every epoch, 0 (untrained) included.

    Ctrl-C or SIGTERM end the step, save, and raise Interrupted (a notebook's stop button returns the run instead).
    ValueError: the folder's config, images or weights differ, or config.labels is not what data.train has.
    FloatingPointError: a loss or gradient is not finite; weights and target are then still those before the step.
    """
    _check(config, data, save_every, keep_last, folder, resume)
    method = SemPPL(config, len(data.classes))
    start = start_from(weights, method) if weights is not None else ""
    trainer = Trainer(config, data.train, method)
    run = Run(config, method, [], None if folder is None else Path(folder), data.provenance)
    name = "SemPPL" if config.semantic_positives else "augmentation-only"
    hidden = {} if progress else {"disable": True}  # without the key, tqdm minds TQDM_DISABLE
    bar = tqdm(total=config.epochs * trainer.steps, desc=name + " ORACLE" * config.oracle, **hidden)
    with bar, Keeper(run, trainer, keep_last, data.train.digest(), start) as keeper, Listen() as asked:
        keeper.resume(resume)
        bar.update(keeper.step)
        if not run.history:
            _finish_epoch(run, untrained_record(trainer), keeper, callbacks)
        for epoch in range(len(run.history), config.epochs + 1):
            order = epoch_order(config, data.train.labels, epoch - 1)
            for i in range(len(run.steps), trainer.steps):
                run.steps.append(_step(trainer, keeper, order[i]))
                bar.update()
                due = save_every and keeper.step % save_every == 0 and i + 1 < trainer.steps  # an epoch's end saves
                if asked.signal or due:
                    keeper.save()
                if asked.signal:
                    return stop(run, asked.signal, keeper.stopped())
            record = _record(epoch, run.steps, config.batch_size)
            accuracy = record["pseudo_label_accuracy"]
            bar.set_postfix(epoch=epoch, loss=f"{record['loss']:.3f}", pseudo=f"{accuracy or 0:.1%}")
            _finish_epoch(run, record, keeper, callbacks)
        if run.folder:
            checkpoint.save(run.folder / "encoder.pt", method.encoder.state_dict())
        return stop(run, asked.signal, keeper.stopped()) if asked.signal else run


def _check(config: Config, data: Data, save_every, keep_last, folder, resume) -> None:
    n, known = len(data.train), int((data.train.labels >= 0).sum())
    if config.labels is not None and known != (asked := label_count(config.labels, n)):
        of = f"config.labels = {config.labels} asks for {asked} of {n} images"
        raise ValueError(f"{of}, but {known} have a label; give load_data the same `labels`.")
    for name, value in (("save_every", 1 if save_every is None else save_every), ("keep_last", keep_last)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} = {value!r} is no whole number above 0; give 1 or more.")
    if folder is not None and resume is not None:
        raise ValueError(f"resume= is for runs without a folder; give fit folder={str(folder)!r} alone to go on there.")


def _step(trainer: Trainer, keeper: Keeper, index: Tensor) -> dict:
    """The run's next step, logged; numbers that go wrong say where to look."""
    step = keeper.step
    try:
        seen = trainer.step(step, index)
    except FloatingPointError as error:
        place = f"look at {keeper.saved}" if keeper.saved else "no checkpoint was kept"
        where = f"Step {step} (epoch {step // trainer.steps + 1})"
        remedy = "try a lower lr or precision='fp32'"
        raise FloatingPointError(f"{where}: {error}; no weight has seen it, {place}, {remedy}.") from None
    keeper.write({"step": step, **seen["terms"], "lr": seen["lr"]})
    return seen


def _finish_epoch(run: Run, record: dict, keeper: Keeper, callbacks) -> None:
    record |= {"oracle": True} if run.config.oracle else {}
    run.history.append(record)
    run.steps = []
    keeper.write(record)
    if record["epoch"] and record["embedding_std"] < monitor.COLLAPSED:
        message = f"collapse in epoch {record['epoch']}: embedding_std = {record['embedding_std']:.1e}, spread is 1"
        keeper.write({"warning": message})
        warnings.warn(f"{message}; all images embed alike: try a lower lr, or other gamma and lam.", stacklevel=3)
    keeper.save()
    for callback in callbacks:
        callback(run, record)
