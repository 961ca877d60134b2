"""`fit` is the loop and nothing else that could change a bit: the bare loop below ends with the same tensors."""

import pytest
import torch
from core_checks import differing, tiny, tiny_data, weights

from semppl_mini import SemPPL, fit, relatives
from semppl_mini.batches import epoch_order
from semppl_mini.files import checkpoint
from semppl_mini.method import Batch
from semppl_mini.networks import begin
from semppl_mini.optim import lr_at, make_optimizer
from semppl_mini.rng import VIEWS, generator
from semppl_mini.views import draw_views, make_views


def bare(config, data):
    """Train a method from the pieces: no folder, no processes, no resume -> its state_dict and its optimizer's."""
    train, kind = data.train, relatives.METHODS[config.method]
    method = kind(config, len(data.classes), int(train.ids.max()) + 1).to(memory_format=torch.channels_last)
    train = train.labelled() if kind.labelled_only else train
    begin(method, train, config)
    optimizer, each = make_optimizer(config, method.online), len(train) // config.batch_size
    for step in range(config.epochs * each):
        epoch, i = divmod(step, each)
        if i == 0:
            method.before_epoch(epoch, config.epochs, lambda: (method.embed(train), train.ids))
        images = train.take(epoch_order(config, train.labels, epoch)[i])
        draws = draw_views(config, config.batch_size, generator(config.seed, step, VIEWS), *images.images.shape[2:])
        views = make_views(images.images, draws, config, images.masks)
        batch = Batch(images.labels, images.ids, images.truth if config.oracle else None)
        loss, _ = method(views, batch, method.draw(config, step))
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr_at(config, step / each)
        method.before_step((step + 1) / (each * config.epochs))
        optimizer.step()
        method.after_step((step + 1) / (each * config.epochs))
    return method.state_dict(), optimizer.state_dict()


CLASSIFIER = {"large_views": 1, "small_views": 0, "optimizer": "sgd", "lr": 0.1, "epochs": 4}
RUNS = {
    "lars": {}, "sgd, cosine EMA": {"optimizer": "sgd", "lr": 0.5, "gamma_schedule": "cosine"},
    "adamw": {"optimizer": "adamw", "lr": 0.01}, "a share of labels": {"labelled_share": 0.25},
    "airbench, muon": {"backbone": "airbench", "small_size": 9, "optimizer": "muon", "lr": 0.02},
    "augmentation-only": {"semantic_positives": 0}, "oracle": {"oracle": True}, "masks": {"mask_p": 0.5},
    "microbatches": {"microbatches": 2}, "recompute": {"recompute": True}, "bf16": {"precision": "bf16"},
    "ifnd": {"method": "ifnd", "clusters": (4, 8), "recluster": 1, "lr": 0.1, "epochs": 3},
    "ifnd, online keys": {"method": "ifnd", "clusters": (4,), "keys": "online", "optimizer": "adamw", "lr": 0.01},
    "ifnd, queue": {"method": "ifnd", "clusters": (4,), "recluster": 1, "key_queue": 40, "lr": 0.1},
    "carp": {"method": "carp", "prototypes": 60, "block": 16, "lr": 0.1, "gamma_schedule": "cosine"},
    "fine-tuning": {"method": "finetune", **CLASSIFIER}, "linear": {"method": "linear", **CLASSIFIER},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_fit_is_the_bare_loop_to_the_bit(name, tmp_path):
    """Weights, running statistics, queues, clusters, and every tensor of the optimizer."""
    config = tiny(**RUNS[name])
    run = fit(config, tiny_data(), tmp_path, progress=False)
    ours, optimizer = bare(config, tiny_data())
    assert not differing(ours, weights(run))
    kept = checkpoint.newest(tmp_path)[1]["optimizer"]
    assert optimizer["state"] and str(optimizer) == str(kept)
    for i, state in optimizer["state"].items():
        assert all(torch.equal(value, kept["state"][i][name]) for name, value in state.items() if value is not None)


def test_the_loop_notices_what_it_should(monkeypatch):
    """A planted bug in `fit` alone: the target moves twice."""
    right = SemPPL.after_step
    ours, _ = bare(tiny(), tiny_data())
    monkeypatch.setattr(SemPPL, "after_step", lambda self, progress: right(self, progress) or right(self, progress))
    assert differing(ours, weights(fit(tiny(), tiny_data(), progress=False)))
