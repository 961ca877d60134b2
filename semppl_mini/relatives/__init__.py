"""The methods of this package by `config.method`: SemPPL, its relatives, and classifiers on what they learned."""

from ..method import Method
from ..semppl import SemPPL
from .carp import CARP
from .classifier import FineTuning, LinearEvaluation
from .ifnd import IFND

METHODS = {"semppl": SemPPL, "ifnd": IFND, "carp": CARP, "finetune": FineTuning, "linear": LinearEvaluation}


def named(name: str) -> type[Method]:
    """The class of that name; an unknown one raises ValueError."""
    if name not in METHODS:
        raise ValueError(f"method = {name!r} is not known; choose one of {', '.join(METHODS)}.")
    return METHODS[name]
