"""fit(): the loop. What keeps a run (log, checkpoints, signals, progress) stands behind `keeping`."""

import copy

import torch
from torch import Tensor

from . import keeping, monitor, parallel
from .batches import Batches, epoch_order
from .config import Config
from .data import Data
from .method import Method
from .networks import begin
from .optim import lr_at, make_optimizer, set_lr


def fit(
    config: Config, data: Data, folder=None, callbacks=(), progress: bool = True, *, method: type[Method] | None = None,
    save_every: int | None = None, keep_last: int = 2, weights=None, resume: keeping.Run | None = None,
    workers: int = 0, steps: int | None = None,
) -> keeping.Run:
    """Train the method of `config.method`, or the class `method`, on data.train and return the run.

    folder: where to keep run.json, log.jsonl (a line a step and an epoch), the `keep_last` newest checkpoints (one of
    every epoch, and every `save_every` steps) and, at the end, encoder.pt, the bare encoder's state_dict; None keeps
    nothing. A folder with a checkpoint is resumed. resume: go on with a run without a folder that was stopped.
    weights: start from the networks of the run in this folder or checkpoint file, or from this encoder (a module, its
    state_dict or a file of it; torchvision's and timm's ResNets, too), with all else new. callbacks: functions of (run,
    record), called after every epoch, 0 (untrained) included; one may raise StopTraining. workers: processes that
    prepare images ahead. steps: go on to this step of the run and no further now; schedules are those of the whole run.

    Started by torchrun, after `parallel.start()`, the processes share every batch, and process 0 alone logs, saves and
    calls back: the run is the same run, and another number of processes can go on with it.

    Ctrl-C, a notebook's stop button or SIGTERM end the step, save, and raise Interrupted, which has the run.
    ValueError: the folder's config (but for computing), images or weights differ, or data.train has other labels.
    FloatingPointError: a loss or gradient is not finite; all is as it was before the step."""
    counts = dict(save_every=save_every, keep_last=keep_last, workers=workers, steps=steps)
    keeping.check(config, data, folder, resume, callbacks, **counts)
    kind = keeping.class_of(config, method)
    kind.check(config, data)
    method = kind(config, len(data.classes), int(data.train.ids.max()) + 1)
    digests = {"images": data.train.digest(), "weights": keeping.start_from(weights, method)}
    batches = Batches(config, data.train.labelled() if kind.labelled_only else data.train, kind.draw)
    train, reading = batches.train, {"workers": workers, "together": True}  # each of several processes reads its part
    method = parallel.placed(method, batches.device, config)
    optimizer = make_optimizer(config, method.online)
    gradient = gradient_of(method, optimizer, batches)
    run = keeping.Run(config, method, [], folder, data.provenance)
    options = dict(callbacks=callbacks, progress=progress, save_every=save_every, keep_last=keep_last, last=steps)
    with keeping.Keeper(run, optimizer, batches, digests, **options) as keeper:
        keeper.resume(resume)
        keeper.describe(data.train.size, data.classes)
        if not run.history:
            if weights is None:
                begin(method, batches.train, config)  # airbench's first layer; nothing in other encoders
            measure_untrained(method, batches, keeper)
            keeper.close_epoch()
        for epoch in keeper.epochs(workers):
            if not run.unfinished:  # not in the middle of it, after a resume
                method.before_epoch(epoch, config.epochs, lambda: (method.embed(train, **reading), train.ids))
            for step, views, batch, draws in keeper.steps():  # prepared by `batches`, on the device
                terms, counts = gradient(views, batch, draws)
                terms = parallel.averaged(method.online, terms)  # of the global batch, or not finite
                lr, done = lr_at(config, step / batches.each), (step + 1) / (batches.each * config.epochs)
                set_lr(optimizer, lr)
                method.before_step(done)
                optimizer.step()
                method.after_step(done)  # the target follows

                keeper.record(terms, counts, lr)
        return keeper.end()


def gradient_of(method: Method, optimizer, batches: Batches):
    """The function of (views, batch, draws) that leaves a step's gradient in the online weights -> terms, counts."""

    def gradient(views: list[Tensor], batch, draws) -> tuple[dict, dict]:
        loss, seen = method(views, batch, draws)  # embeds, enqueues, votes, draws, compares
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return monitor.terms_of(loss, seen), method.count(seen, batch, batches.truth_of)

    return parallel.replayed(gradient, method.config, batches.device)  # as a CUDA graph, with config.graph


@torch.no_grad()
def measure_untrained(method: Method, batches: Batches, keeper: keeping.Keeper) -> None:
    """Epoch 0: what the untrained network's votes are worth once its queues are full. Trains nothing."""
    probe, kind, config, labels = copy.deepcopy(method), type(method), method.config, batches.train.labels
    order = epoch_order(config, labels, 0)
    labelled, B = order[labels[order] >= 0][: config.queue], config.batch_size
    if (n := len(labelled)) and kind.warm is not Method.warm:
        for index in labelled[torch.arange(-(-n // B) * B) % n].split(B):  # whole batches, so the last begins again
            probe.warm(*batches.place(batches.prepare(0, index))[:2])
    for views, batch, draws in keeper.timed(batches.ahead(0, min(8, batches.each))):
        loss, seen = probe(views, batch, draws)
        terms = parallel.averaged(probe.online, monitor.terms_of(loss, seen))
        keeper.record(terms, probe.count(seen, batch, batches.truth_of), 0.0)
