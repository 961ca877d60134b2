"""Where numbers are computed: processes, devices, precision, memory. The door; nothing here knows of SemPPL."""

from .device import at_least_float, autocast_of, cut, device_of, place, run_pending, start_xla, uses_bf16, uses_xla
from .memory import in_parts, recomputed, together
from .search import first_at_least, largest
from .step import ahead, average_and_check, compiled, placed
from .world import BatchNorm, average_, gather, mean, most, rank, rows, share_batch_norm, size, start, stop, tell, total
