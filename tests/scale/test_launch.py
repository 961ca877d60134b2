"""What scale/train.py says on the command line, in real processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = "width=8 batch_size=16 negatives=4 queue=16 large_size=16 projector_hidden=16 predictor_hidden=16"


def train(folder, *arguments):
    command = [sys.executable, "scale/train.py", "digits", "--name", "x", "--out", folder, "device=cpu", *TINY.split()]
    environment = os.environ | {"SEMPPL_RUNS": str(folder), "TQDM_DISABLE": "1"}
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_run_kept_at_steps_and_resumed_another_way_says_so_in_a_sentence_each(tmp_path):
    out, err = train(tmp_path, "--steps", "1")
    assert out.endswith("/x is kept at --steps 1; the same command with more, or without --steps, goes on.\n")
    assert not err
    _, err = train(tmp_path, "--steps", "2", "recompute=True", "microbatches=2")
    (line,) = err.splitlines()  # no line of code beneath it
    assert line.startswith("scale/train.py: ") and line.count("was made with another") == 1
    assert "microbatches (1 there, 2 now), recompute (False there, True now)" in line
    assert "perhaps not to the bits" in line
