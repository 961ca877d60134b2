"""What scale/train.py says on the command line, in real processes."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from semppl_mini.files import write_pack

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


def test_a_trace_of_some_steps_is_written_beside_the_run(tmp_path):
    train(tmp_path, "--steps", "2", "--profile")
    with gzip.open(tmp_path / "x" / "trace-0.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"aten::conv2d", "Optimizer.step#AdamW.step"} <= names


def test_deterministic_algorithms_take_the_same_steps(tmp_path):
    """Those of a CPU are: no warning, the same log."""
    logs = []
    for more in ([], ["--deterministic"]):
        _, err = train(tmp_path / str(len(more)), "--steps", "2", *more)
        assert not err
        logs.append((tmp_path / str(len(more)) / "x" / "log.jsonl").read_text().splitlines()[1:])
    assert logs[0] == logs[1] and len(logs[0]) == 2


def test_what_was_made_of_data_of_ones_own_lies_with_the_run(tmp_path):
    """Not among the tracked results."""
    images = torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    split = images, torch.arange(60) % 2, None
    write_pack(tmp_path / "mine.npz", {"train": split, "test": split}, ["a", "b"], "drawn at random")
    command = [sys.executable, "scale/train.py", "digits", "--name", "own", "--data", tmp_path / "mine.npz",
               "labels=20", "epochs=1", "device=cpu", "--tune", "0", *TINY.split()]  # fmt: skip
    environment = os.environ | {"SEMPPL_RUNS": str(tmp_path), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own" / "own.json").exists()
