"""Worker processes that prepare what a training will ask for."""

import signal
from collections.abc import Callable, Iterable

import torch
from torch.utils.data import DataLoader


def deaf(worker: int) -> None:
    """Workers leave Ctrl-C to the process they work for, and end at once on SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ahead(make: Callable, first: int, last: int, workers: int = 0) -> Iterable:
    """make(first), ..., make(last - 1), in order, made ahead in so many processes; 0: here, when asked for.

    A ValueError of `make` is raised here as it is; raised by a worker, it would become a traceback.
    """

    def attempt(i: int):
        try:
            return make(i)
        except ValueError as error:
            return error

    made = map(attempt, range(first, last))
    if workers:
        more = {"num_workers": workers, "worker_init_fn": deaf, "generator": torch.Generator()}
        made = DataLoader(range(first, last), batch_size=None, collate_fn=attempt, **more)
    for item in made:
        if isinstance(item, ValueError):
            raise item
        yield item
