"""The door to how a run is kept: `fit` opens it, nothing else of the core does."""

from .keeper import Keeper
from .run import Run, check, check_labels, class_of, keep_encoders, load_run, runs_dir, start_from
from .signals import Interrupted, StopTraining
