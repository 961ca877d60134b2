"""A training with nothing around it, step by step: no folder, no log, no resume."""

from semppl_mini import monitor, parallel
from semppl_mini.batches import Batches
from semppl_mini.keeping import class_of
from semppl_mini.networks import begin
from semppl_mini.optim import lr_at, make_optimizer, set_lr


class Bare:
    """The method of a config on some training images, and its optimizer; `step(i)` is step i of `fit`."""

    def __init__(self, config, images, classes=10, kind=None):
        kind = class_of(config, kind)
        method = kind(config, classes, int(images.ids.max()) + 1)
        self.config = config
        self.batches = Batches(config, images.labelled() if kind.labelled_only else images, kind.draw)
        self.method = parallel.placed(method, self.batches.device, config)
        begin(self.method, self.batches.train, config)
        self.optimizer = make_optimizer(config, method.online)

    def step(self, step, ready=None):
        """Terms and counts of one step; at an epoch's start `before_epoch`. ready: a prepared step, instead of i's."""
        batches, method, config = self.batches, self.method, self.config
        if step % batches.each == 0:
            every, epoch = batches.train, step // batches.each
            method.before_epoch(epoch, config.epochs, lambda: (method.embed(every, together=True), every.ids))
        views, batch, draws = batches.place(ready or batches[step])
        loss, seen = method(views, batch, draws)
        terms = monitor.terms_of(loss, seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parallel.averaged(method.online, terms)
        set_lr(self.optimizer, lr_at(config, step / batches.each))
        progress = (step + 1) / (batches.each * config.epochs)
        method.before_step(progress)
        self.optimizer.step()
        method.after_step(progress)
        counts = method.count(seen, batch, batches.truth_of)
        parallel.run_pending(batches.device)
        return terms, counts
