"""The door to where numbers are computed."""

from .device import at_least_float, autocast_of, device_of, uses_bf16
from .memory import in_parts, recomputed, together
from .workers import ahead
from .world import (
    average,
    cut,
    gather,
    largest,
    mean,
    place,
    rank,
    rows,
    run_pending,
    share_batch_norm,
    size,
    start,
    start_xla,
    stop,
    tell,
    total,
    uses_xla,
)
