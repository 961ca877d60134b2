"""Where numbers are computed: processes, devices, precision, memory. This is the door; all else uses these names only.

Those about processes are, of one process on one device, the identity; nothing here knows of SemPPL.
"""

from .batch_norm import BatchNorm, share_batch_norm
from .device import at_least_float, autocast_of, device_of, uses_bf16
from .memory import in_parts, recomputed, together
from .pixels import blend, blur, crop_resize, hue, some
from .search import first_at_least, largest, neighbours
from .step import average_and_check, compiled, placed
from .workers import ahead
from .world import average_, gather, mean, most, rank, rows, size, start, stop, tell, total
from .xla import cut, place, run_pending, start_xla, uses_xla

__all__ = [
    "BatchNorm", "ahead", "at_least_float", "autocast_of", "average_", "average_and_check", "blend", "blur",
    "compiled", "crop_resize", "cut", "device_of", "first_at_least", "gather", "hue", "in_parts", "largest", "mean",
    "most", "neighbours", "place", "placed", "rank", "recomputed", "rows", "run_pending", "share_batch_norm", "size",
    "some", "start", "start_xla", "stop", "tell", "together", "total", "uses_bf16", "uses_xla",
]  # fmt: skip
