"""Checks of what a user gives: the fields of a dataclass, against their types and the limits that stand beside them.

Limits are generous, but no slip of the hand and no lying file asks for terabytes. Each error is a ValueError."""

import ast
import dataclasses
import difflib
import math
import sys


def number(default, least=-math.inf, most=math.inf, above=None, entries=None, whole=False, empty=False):
    """A field of numbers from `least` to `most`, more than `above`: one, or a tuple of `entries` (None: 1 or more, with
    `empty` 0, too); `whole`: of whole numbers."""
    limits = {"least": least if above is None else above, "most": most, "above": above}
    return dataclasses.field(default=default, metadata={**limits, "entries": entries, "whole": whole, "empty": empty})


def pair(default: tuple, *limits, **more):
    """A field of two numbers, the smaller first; limits as of `number`."""
    return number(default, *limits, entries=2, **more)


def one_of(*choices: str):
    """A field of one of these words, by default the first."""
    return dataclasses.field(default=choices[0], metadata={"choices": choices})


def check_fields(config) -> None:
    """Check each field of a dataclass; lists become tuples, since JSON and YAML know no tuples."""
    for field in dataclasses.fields(config):
        name, value, limits = field.name, getattr(config, field.name), field.metadata
        if isinstance(value, list):
            object.__setattr__(config, name, value := tuple(value))  # as of a frozen one
        check_type(name, value, field.type)
        if value not in limits.get("choices", (value,)):
            raise ValueError(f"{name} = {shown(value)} is not known; choose one of {', '.join(limits['choices'])}.")
        if "most" in limits and value is not None:
            _check_numbers(name, value, **limits)


def shown(value) -> str:
    """A value in a message: its start, if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else text[:40] + "..."


def check_type(name: str, value, kind):
    """The value; ValueError unless it is of this type or union of types."""
    whole = type(value) is int and isinstance(1.0, kind)  # a whole number may stand where a fraction may
    if not (isinstance(value, kind) or whole) or (type(value) is bool and kind is not bool):
        wanted = kind.__name__ if isinstance(kind, type) else kind
        raise ValueError(f"{name} = {shown(value)} is a {type(value).__name__}; give {wanted}.")
    return value


def _check_numbers(name: str, value, least, most, above, entries, whole, empty) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) != (entries or max(len(numbers), not empty)):
        raise ValueError(f"{name} = {value} has {len(numbers)} entries; give {entries or '1 or more'}.")
    for number in numbers:
        if type(number) is not int and (type(number) is not float or not math.isfinite(number)):
            raise ValueError(f"{name} = {shown(value)} must be of finite numbers, not {shown(number)}; give numbers.")
        if whole and type(number) is not int:
            raise ValueError(f"{name} = {value} must be of whole numbers, not {number}; give for example (10, 30).")
        if above is not None and not number > above:
            raise ValueError(f"{name} = {shown(value)} must be more than {above}; give a positive number.")
        if not least <= number <= most:
            raise ValueError(f"{name} = {shown(value)} lies outside [{least}, {most}]; give a value between them.")
    if entries == 2 and value[0] > value[1]:
        raise ValueError(f"{name} = {value} is no range; give the smaller number first.")


ELSEWHERE = {  # how others call a field
    "temperature": "tau", "learning_rate": "lr", "ema": "gamma", "momentum_ema": "gamma", "target_decay": "gamma",
    "arch": "backbone", "model": "backbone", "bs": "batch_size", "num_epochs": "epochs", "max_epochs": "epochs",
    "n_labels": "labels", "num_labels": "labels", "queue_size": "queue", "num_neighbors": "k", "wd": "weight_decay",
    "num_negatives": "negatives", "num_prototypes": "prototypes", "amp": "precision", "image_size": "large_size",
}  # fmt: skip


def check_name(name: str, known, there_is_none: str) -> None:
    """ValueError names the nearest of the known names; its sentence begins as told: "There is no parameter"."""
    if name not in known:
        near = ELSEWHERE.get(name)
        near = near if near in known else difflib.get_close_matches(name, known, 1, 0)[0]
        raise ValueError(f"{there_is_none} {name!r}; the nearest is {near!r}.")


def check_parameters(values: dict, types: dict) -> None:
    """ValueError unless notebook parameters are of their types {name: type or union of types}.

    Nor may papermill, which only warns, have been given others: its cell begins with "# Parameters"."""
    cells = getattr(sys.modules.get("__main__"), "In", ())  # of a notebook's kernel
    injected = [ast.parse(cell) for cell in cells if cell.startswith("# Parameters\n")]
    for name in [target.id for cell in injected for node in cell.body for target in getattr(node, "targets", ())]:
        check_name(name, types, "There is no parameter")
    for name, value in values.items():
        check_name(name, types, "There is no parameter")
        check_type(f"Parameter {name}", value, types[name])


def check_whole(name: str, value, least: int) -> int:
    """The value; ValueError unless it is a whole number of at least so much."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} = {shown(value)} is no whole number above {least - 1}; give {least} or more.")
    return value


def check_labels(labels, seed) -> None:
    """ValueError unless these tell how many labels are kept, and which, as in `load_data`."""
    check_whole("label_seed", seed, 0)
    if not (labels is None or type(labels) is int and labels > 0 or isinstance(labels, float) and 0 < labels <= 1):
        raise ValueError(f"labels = {shown(labels)} is neither a share in (0, 1] nor a count; give 0.1 or 500, say.")


def label_count(labels, n: int, least: int = 0, most: int | None = None) -> int:
    """How many of n images keep their label: `labels` is a count or a share; ValueError: out of these limits."""
    count = labels if isinstance(labels, int) else round(labels * n)
    if most is not None and not least <= count <= most:
        limits = f"at least one a class ({least}), at most {most}, those of known class that are not held out"
        raise ValueError(f"labels = {labels} keeps {count} labels; give {limits}.")
    return count
