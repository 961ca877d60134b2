"""fit(): epochs, schedules, log, checkpoints.

An epoch draws as many images as the training set has, in floor(n / B) batches. With `labelled_share` s each batch is
round(s B) labelled and B - round(s B) unlabelled images, each kind in its own endless shuffle; else one shuffle of all.
"""

import copy
import math
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from . import monitor, parallel
from . import relatives as methods
from .config import Config
from .data import Data, ImageSet
from .files import checkpoint, label_count
from .keeping.run import Keeper, Run, start_from
from .keeping.signals import Listen, deaf, stop
from .lars import LARS, param_groups
from .networks import compiled
from .parallel import device_of
from .rng import ORDER, VIEWS, generator
from .semppl import Batch
from .views import draw_views

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


class Prepared(NamedTuple):
    """This process's rows of a step, on the CPU: images, the parameters of their views, the method's draws, and what
    `images.finish` needs for the views.
    """

    images: ImageSet
    views: list[dict]
    draws: NamedTuple
    pixels: list[Tensor]


class Steps:
    """The CPU's part of a run: item i is what this process needs of step i, a function of (config, images, i)."""

    def __init__(self, config: Config, train: ImageSet):
        self.config, self.train, self.epoch = config, train, None
        self.own = parallel.rows(config.batch_size)
        self.each = steps_per_epoch(config, len(train))  # steps an epoch

    def __getitem__(self, step: int) -> Prepared:
        epoch, i = divmod(step, self.each)
        if self.epoch != epoch:
            self.epoch, self.order = epoch, epoch_order(self.config, self.train.labels, epoch)
        return self.prepare(step, self.order[i])

    def try_item(self, step: int) -> Prepared | ValueError:
        """Step `step`, or what is wrong with one of its images: raised by a worker, it would become a traceback."""
        try:
            return self[step]
        except ValueError as error:
            return error

    def prepare(self, step: int, index: Tensor) -> Prepared:
        """The images `index` (B,) of the global batch: all draws are made for all of them, then cut to our rows."""
        views = draw_views(self.config, len(index), generator(self.config.seed, step, VIEWS), *self.train.size)
        views = [{name: value[self.own] for name, value in draw.items()} for draw in views]
        draws = methods.my_draws(self.config, step, self.own)
        mine = index[self.own]
        return Prepared(self.train.take(mine), views, draws, self.train.prepare(mine, views, self.config))

    def loader(self, first: int, last: int, workers: int = 0):
        """Steps first to last - 1 in order, prepared ahead in so many worker processes; 0: here, when asked for."""
        ready = map(self.try_item, range(first, last))
        if workers:
            more = {"num_workers": workers, "worker_init_fn": deaf, "generator": torch.Generator()}
            ready = DataLoader(range(first, last), batch_size=None, collate_fn=self.try_item, **more)
        for step in ready:
            if isinstance(step, ValueError):
                raise step
            yield step


class Trainer:
    """What a step needs and a checkpoint keeps: the method, the optimizer, the training images."""

    def __init__(self, config: Config, train: ImageSet, method: nn.Module):
        train = train.labelled() if config.method in methods.CLASSIFIERS else train
        self.config, self.train, self.source = config, train, Steps(config, train)
        self.device = device_of(config)
        self.truth_of = torch.full((image_count(train),), -1).index_put_((train.ids,), train.truth).to(self.device)
        self.method = method.to(self.device, torch.float64 if config.precision == "fp64" else None)
        if self.device.type != "xla":  # which chooses memory layouts itself
            self.method.to(memory_format=torch.channels_last)
        parallel.share_batch_norm(self.method)
        if config.compile:
            compiled(method.online)
            compiled(method.target)
        self.optimizer = make_optimizer(config, method.online)
        self.steps = self.source.each

    def load(self, ready: Prepared) -> tuple[list[Tensor], Batch, Tensor]:
        """Views, batch and (for the monitor alone) true classes of a step, on the device."""
        images = ready.images
        draws = [{name: self._place(value) for name, value in draw.items()} for draw in ready.views]
        views = images.finish([self._place(x) for x in ready.pixels], draws, self.config)
        labels, ids, truth = (self._place(x) for x in (images.labels, images.ids, images.truth))
        parallel.run_pending(self.device)
        return views, Batch(labels, ids, truth if self.config.oracle else None), truth

    def _place(self, x: Tensor) -> Tensor:
        return parallel.place(x, self.device)

    def step(self, step: int, ready: Prepared, learn: bool = True, start: float | None = None) -> dict:
        """One training step: the global batch's loss terms, counts, and the times since `start`."""
        start = time.perf_counter() if start is None else start
        views, batch, truth = self.load(ready)
        draws = methods.place_draws(ready.draws, self.device)
        loaded = time.perf_counter()
        with torch.set_grad_enabled(learn):
            loss, seen = self.method(views, batch, draws)
        terms = {"loss": loss, **seen["terms"], "embedding_std": monitor.embedding_std(seen["o"])}
        terms = {name: value.detach().clone() for name, value in terms.items()}
        counts = methods.count(self.config, seen, batch.labels, truth, self.truth_of)
        lr = lr_at(self.config, step / self.steps) if learn else 0.0
        if learn:
            self._learn(loss, terms, lr, (step + 1) / (self.steps * self.config.epochs))
        else:
            parallel.average_(list(terms.values()))
        parallel.run_pending(self.device)
        terms = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        times = {"data": loaded - start, "all": time.perf_counter() - start}
        return {"terms": terms, "lr": lr, "counts": counts, "times": times}

    def embed(self) -> tuple[Tensor, Tensor]:
        """The method's keys (n, D) of all training images, each process embedding its part, and their ids (n,)."""
        n = len(self.train)
        rows = torch.arange(-(-n // parallel.size()) * parallel.size()) % n  # the last part begins again from the front
        part = self.train.take(rows[parallel.rows(len(rows))])
        return parallel.gather(self.method.embed(part).to(self.device))[:n].cpu(), self.train.ids

    def _learn(self, loss: Tensor, terms: dict, lr: float, progress: float) -> None:
        """Gradients of the global batch, a step of the optimizer, a move of the target; nothing if not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = {name: p.grad for name, p in self.method.online.named_parameters() if p.grad is not None}
        parallel.average_([*gradients.values(), *terms.values()])
        sums = {f"the term {name}": value for name, value in terms.items()}
        sums["the term loss"] = sums.pop("the term loss")  # named only if it is alone
        _finite(sums | {f"the gradient of {name}": g.sum() for name, g in gradients.items()}, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.method.before_step(progress)
        self.optimizer.step()
        self.method.after_step(progress)


def _finite(sums: dict, device: torch.device) -> None:
    """FloatingPointError names the first of these numbers, 0-d tensors, that is not finite."""
    every = torch.stack(list(sums.values()))
    parallel.run_pending(device)
    if not bool(every.isfinite().all()):
        i = every.isfinite().tolist().index(False)
        raise FloatingPointError(f"{list(sums)[i]} is {float(every[i])}")


def _record(epoch: int, steps: list[dict], batch_size: int) -> dict:
    """The epoch's line: mean terms, shares over its images, speed."""
    seconds, data = (sum(s["times"][name] for s in steps) for name in ("all", "data"))
    shares = monitor.shares([s["counts"] for s in steps])
    terms = {name: sum(s["terms"][name] for s in steps) / len(steps) for name in steps[0]["terms"]}
    speed = {"images_per_second": len(steps) * batch_size / seconds, "data_share": data / seconds, "seconds": seconds}
    return {"epoch": epoch, **terms, "lr": steps[-1]["lr"], **shares, **speed}


def image_count(train: ImageSet) -> int:
    """The largest id of a training image plus one."""
    return int(train.ids.max()) + 1


def untrained_record(trainer: Trainer, measured: int = 8) -> dict:
    """Epoch 0: what the untrained network's votes are worth once its queues are full. Trains nothing."""
    probe, B = copy.copy(trainer), trainer.config.batch_size
    probe.method = copy.deepcopy(trainer.method)
    order = epoch_order(trainer.config, trainer.train.labels, 0)
    labelled = order[trainer.train.labels[order] >= 0][: trainer.config.queue]
    if (n := len(labelled)) and trainer.config.method == "semppl":
        for index in labelled[torch.arange(-(-n // B) * B) % n].split(B):  # whole batches, so the last begins again
            probe.method.remember(*probe.load(probe.source.prepare(0, index))[:2])
    steps = [probe.step(i, probe.source[i], learn=False) for i in range(min(measured, trainer.steps))]
    return _record(0, steps, B)


def fit(
    config: Config, data: Data, folder=None, callbacks=(), progress: bool = True, *, save_every: int | None = None,
    keep_last: int = 2, weights=None, resume: Run | None = None, workers: int = 0, steps: int | None = None,
) -> Run:
    """Train the method of `config.method` on data.train and return the run; a classifier, on its labelled images.

    folder: where to keep log.jsonl (a line a step and a line an epoch), the `keep_last` newest checkpoints (one after
    every epoch, and every `save_every` steps) and, at the end, encoder.pt, the bare encoder's state_dict; None keeps
    nothing. A folder with a checkpoint is resumed. resume: go on with a run without a folder that was stopped.
    weights: start from the networks of the run in this folder or checkpoint file, or from this encoder, with all else
    new. callbacks: functions of (run, record), called after every epoch, 0 (untrained) included. workers: processes
    that prepare images ahead. steps: go on to this step of the run and no further now; schedules are those of the whole
    run.

    Started by torchrun, after `parallel.start()`, the processes share every batch, and process 0 alone logs, saves and
    calls back: the run is the same run, and another number of processes can go on with it.

    Ctrl-C or SIGTERM end the step, save, and raise Interrupted (a notebook's stop button returns the run instead).
    ValueError: the folder's config, images or weights differ, or config.labels is not what data.train has.
    FloatingPointError: a loss or gradient is not finite; weights and target are then still those before the step.
    """
    _check(config, data, folder, resume, save_every=save_every, keep_last=keep_last, workers=workers, steps=steps)
    method = methods.make(config, len(data.classes), image_count(data.train))
    start = start_from(weights, method) if weights is not None else ""
    trainer = Trainer(config, data.train, method)
    run = Run(config, method, [], None if folder is None else Path(folder), data.provenance)
    hidden = {} if progress and parallel.rank() == 0 else {"disable": True}  # without the key, tqdm minds TQDM_DISABLE
    bar = tqdm(total=config.epochs * trainer.steps, desc=methods.name_of(config), **hidden)
    with bar, Keeper(run, trainer, keep_last, data.train.digest(), start) as keeper, Listen() as asked:
        keeper.resume(resume)
        bar.update(keeper.step)
        if not run.history:
            _finish_epoch(run, untrained_record(trainer), keeper, callbacks)
        last = min(bar.total, steps or bar.total)
        batches = trainer.source.loader(keeper.step, last, workers)
        while not run.finished and (keeper.step < last or len(run.steps) == trainer.steps):
            if not run.steps and hasattr(method, "before_epoch"):
                method.before_epoch(len(run.history) - 1, config.epochs, trainer.embed)
            for _ in range(min(trainer.steps - len(run.steps), last - keeper.step)):
                run.steps.append(_step(trainer, keeper, batches))
                bar.update()
                signal = parallel.most(asked.signal or 0, trainer.device)
                due = save_every and keeper.step % save_every == 0 and len(run.steps) < trainer.steps
                if signal or due:  # an epoch's end saves
                    keeper.save()
                if signal:
                    return stop(run, signal, keeper.stopped())
            if len(run.steps) == trainer.steps:
                record = _record(len(run.history), run.steps, config.batch_size)
                accuracy = record.get("pseudo_label_accuracy")
                bar.set_postfix(epoch=record["epoch"], loss=f"{record['loss']:.3f}", pseudo=f"{accuracy or 0:.1%}")
                _finish_epoch(run, record, keeper, callbacks)
        if run.finished and keeper.writes:
            checkpoint.save(run.folder / "encoder.pt", method.encoder.state_dict())
        elif not run.finished:
            keeper.save()
            keeper.stopped()
        signal = parallel.most(asked.signal or 0, trainer.device)
        return stop(run, signal, keeper.stopped()) if signal else run


def _check(config: Config, data: Data, folder, resume, **whole) -> None:
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


def _step(trainer: Trainer, keeper: Keeper, batches) -> dict:
    """The run's next step, logged; numbers that go wrong say where to look."""
    step, start = keeper.step, time.perf_counter()
    try:
        seen = trainer.step(step, next(batches), start=start)
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
    for callback in callbacks if parallel.rank() == 0 else ():
        callback(run, record)
