"""Randomness as a function of (seed, step, purpose): nothing to save, nothing to restore.

Every step opens fresh CPU generators and draws for the whole batch, so the draws are the same on any device and
after a resume. `SeedSequence` mixes the three numbers: torch keeps only the low 32 bits of a CPU seed, so sums or
shifts of them would collide."""

import numpy as np
import torch

VIEWS, NEGATIVES, POSITIVES, ORDER, LABELS, INIT, EVALUATION, CLUSTERS, PARTITION = range(9)


def generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """A CPU generator that depends on all three arguments (each a non-negative int) and on nothing else."""
    (mixed,) = np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(mixed))
