"""How bytes are kept, and what is asked of them: whole files, checkpoints, packs, checks. The door to this folder."""

from . import checkpoint  # noqa: I001
from .checks import check_fields, check_labels, check_name, check_parameters, check_type, check_whole
from .checks import label_count, number, one_of, pair, shown
from .digits import colour_digits
from .packs import data_dir, find_listed, read_pack, write_pack
from .sets import check_classes, check_data, check_tensor, pixels_of
from .whole import digest, make_folder, write_json, write_whole
