"""Where numbers are computed: processes, devices, precision, memory, pixels. The door; nothing here knows of SemPPL."""

from .device import at_least_float, autocast_of, cut, device_of, far, place, run_pending, start_xla, uses_bf16, uses_xla
from .graph import replayed
from .memory import apart, in_parts, recomputed, together
from .norm import BatchNorm, share_batch_norm
from .pixels import blend, blur, constant, crop_resize, hue, some
from .search import first_at_least, largest, neighbours
from .step import NotFinite, ahead, averaged, compiled, one_early, placed
from .world import gather, mean, most, rank, rows, share, size, start, stop, tell, total, wait
