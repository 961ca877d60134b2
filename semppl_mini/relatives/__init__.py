"""The methods that `fit` can train, by `config.method`, and classifiers on what they learned. A method is one file:

    Method(config, classes[, images])    networks in .online (trained) and .target, its state in buffers, .encode
    loss, seen = method(views, batch, draws)          before_step(progress), after_step(progress)
    before_epoch(epoch, epochs, embed)                only if it wants the embeddings of all training images (IFND)
    draw_step(config, step) -> Draws                  a row an image, but for the fields named in Draws.shared
    seen["terms"], seen["o"] and what `monitor` counts of it
"""

from torch import Tensor, nn

from .. import monitor, parallel, semppl
from . import carp, ifnd
from . import classifier as classify

CLASSIFIERS = ("finetune", "linear")
MODULES = {"semppl": semppl, "ifnd": ifnd, "carp": carp} | dict.fromkeys(CLASSIFIERS, classify)


def make(config, classes: int, images: int) -> nn.Module:
    """The method of a config; images: the largest id of a training image plus one."""
    if config.method == "ifnd":
        return ifnd.IFND(config, classes, images)
    return {"semppl": semppl.SemPPL, "carp": carp.CARP}.get(config.method, classify.Classifier)(config, classes)


def name_of(config) -> str:
    """What a progress bar calls the run."""
    names = {"semppl": "SemPPL" if config.semantic_positives else "augmentation-only", "ifnd": "IFND", "carp": "CARP"}
    names |= {"finetune": "fine-tuning", "linear": "linear evaluation"}
    return names[config.method] + " ORACLE" * config.oracle


def my_draws(config, step: int, own: slice):
    """This process's rows `own` of a step's draws, and all of what is shared."""
    draws = MODULES[config.method].draw_step(config, step)
    shared = getattr(draws, "shared", ())
    return draws._replace(**{name: x[own] for name, x in draws._asdict().items() if name not in shared})


def place_draws(draws, device):
    """The draws on the device: rows cut over XLA's devices, what is shared on each of them."""
    shared = getattr(draws, "shared", ())
    place = {name: Tensor.to if name in shared else parallel.place for name in draws._fields}
    return draws._replace(**{name: place[name](x, device) for name, x in draws._asdict().items()})


def count(config, seen: dict, labels: Tensor, truth: Tensor, truth_of: Tensor) -> monitor.Counts:
    """What the monitor counts of a step: true classes (b,) of its rows and (n,) by image id; only numbers leave."""
    if config.method == "semppl":
        return monitor.count(seen, labels, truth)
    if config.method in CLASSIFIERS:
        return monitor.count_right(seen, labels)
    return monitor.count_carp(seen) if config.method == "carp" else monitor.count_ifnd(seen, truth_of)
