"""How bytes are kept, and what is asked of them: whole files, checkpoints, packs, checks. The door to this folder."""

from . import checkpoint
from .counts import check_labels, check_left, check_val, label_count
from .digits import colour_digits
from .packs import data_dir, find_pack, read_pack, write_pack
from .whole import digest, make_folder, write_json, write_whole

__all__ = [
    "check_labels", "check_left", "check_val", "checkpoint",
    "colour_digits", "data_dir", "digest", "find_pack", "label_count", "make_folder", 
    "read_pack", "write_json", "write_pack", "write_whole",
]  # fmt: skip
