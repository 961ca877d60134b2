"""How bytes are kept, and what is asked of them: whole files, checkpoints, packs, checks. The door to this folder."""

from . import checkpoint
from .checks import check_fields, check_name, check_parameters, label_count, number, one_of, pair
from .digits import colour_digits
from .packs import data_dir, find_listed, read_pack, write_pack
from .whole import digest, make_folder, write_json, write_whole
