"""A function of tensors as one CUDA graph: its hundreds of small kernels start at once, not one by one from Python."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from . import world
from .device import place

WARM = 3  # calls before the capture, in which libraries choose their algorithms


def replayed(function: Callable, config, device: torch.device) -> Callable:
    """The function itself; with config.graph, one process and CUDA as a graph: it may not ask the device anything."""
    return Replayed(function) if config.graph and device.type == "cuda" and world.size() == 1 else function


class Replayed:
    """The first calls of a function run as they are; then one is captured, it and all later ones are replays.

    Arguments (tensors of the same shapes in each call) are copied to where the graph reads them, results from where it
    writes them. ValueError: the function waits for the device."""

    def __init__(self, function: Callable):
        self.function, self.calls, self.graph, self.stream = function, 0, None, torch.cuda.Stream()

    def __call__(self, *given):
        values, shape = tree_flatten([place(x, torch.device("cuda")) for x in given])
        if self.calls == 0:
            self.values = tree_map_only(Tensor, lambda x: torch.empty_like(x, device="cuda"), values)
        for own, x in zip(self.values, values, strict=True):
            if isinstance(x, Tensor):
                own.copy_(x, non_blocking=True)
        self.calls, given = self.calls + 1, tree_unflatten(self.values, shape)
        if self.calls <= WARM:  # on the stream of the capture: a gradient is added up where it was first
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.function(*given)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.graph is None:
            self.capture(given)
        self.graph.replay()
        return tree_map_only(Tensor, Tensor.clone, self.result)

    def capture(self, given) -> None:
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.result = self.function(*given)
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise ValueError(f"graph = True cannot capture this method's step ({why}); give graph=False.") from error
