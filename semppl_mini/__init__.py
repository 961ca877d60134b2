"""semppl-mini: SemPPL (Bosnjak et al., ICLR 2023) in code you can read in one sitting."""

from . import lars
from . import recipes as presets
from .config import Config
from .data import Data, ImageSet, data_for, load_data
from .keeping import Interrupted, Run, StopTraining, load_run
from .method import Method
from .readout import evaluate, fine_tune, inspect, knn_accuracy, linear_probe, raw_pixel_accuracy, supervised
from .recipes import own
from .semppl import SemPPL
from .show import plots
from .train import fit

__all__ = [
    "Config", "Data", "ImageSet", "Interrupted", "Method", "Run", "SemPPL", "StopTraining", "data_for", "evaluate",
    "fine_tune", "fit", "inspect", "knn_accuracy", "lars", "linear_probe", "load_data", "load_run", "own", "plots",
    "presets", "raw_pixel_accuracy", "supervised",
]  # fmt: skip
