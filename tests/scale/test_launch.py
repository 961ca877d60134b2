"""What scale/train.py says on the command line, in real processes."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
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


# ---- several processes

ONE_FINDS_IT = """
import warnings
from semppl_mini import parallel
from semppl_mini.keeping.command import command

def main():
    parallel.start()
    warnings.warn("both warn of this.")
    warnings.warn(f"process {parallel.rank()} warns of this.")
    parallel.wait()
    if parallel.rank():
        raise ValueError("only the second finds this.")

command(main, "mine")
"""


ONE_IS_LOST = """
import torch
from semppl_mini import parallel
from semppl_mini.keeping.command import command

def main():
    parallel.start()
    if parallel.rank() == 0:
        raise OSError("the disk is full.")
    parallel.mean(torch.ones(1))

command(main, "mine")
"""


def said_by_two(folder, *script):
    """Status and what two processes under torchrun wrote to stderr, but for torchrun's own report."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"SEMPPL_RUNS": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = list(map(str, [*launcher, *script]))
    done = subprocess.run(command, cwd=ROOT, env=environment | {"TQDM_DISABLE": "1"}, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if re.match(r"(scale/|train|mine)[\w.]*: ", line)]
    return done.returncode, lines


@pytest.mark.parametrize("arguments, words", [
    (["batch_size=7", "negatives=4"], "scale/train.py: A batch of 7 cannot be shared by 2 processes"),
    (["--workers", "-1"], "train.py: --workers -1 is too small; give 0 or more (see --help)."),
])  # fmt: skip
def test_bad_input_of_all_processes_is_said_once(arguments, words, tmp_path):
    command = ["scale/train.py", "digits", "--name", "x", "--out", tmp_path, "device=cpu", *TINY.split(), *arguments]
    status, lines = said_by_two(tmp_path, *command)
    assert status and len(lines) == 1 and lines[0].startswith(words)


def test_what_one_process_alone_finds_is_said_too(tmp_path):
    (tmp_path / "script.py").write_text(ONE_FINDS_IT)
    status, lines = said_by_two(tmp_path, tmp_path / "script.py")
    assert status and sorted(lines) == [
        "mine: both warn of this.", "mine: only the second finds this.", "mine: process 0 warns of this.",
        "mine: process 1 warns of this."]  # fmt: skip


def test_who_has_lost_another_one_says_so(tmp_path):
    (tmp_path / "script.py").write_text(ONE_IS_LOST)
    status, lines = said_by_two(tmp_path, tmp_path / "script.py")
    lost = "mine: process 1 has lost another one, whose own message says why."
    assert status and sorted(lines) == [lost, "mine: the disk is full."]


def test_two_processes_read_out_and_one_writes(tmp_path):
    """With workers, to the end: the JSON file holds what every process has encoded a part of."""
    more = ["--tune", "2", "--all-labels", "epochs=1", "batch_size=128", "small_views=0", "--workers", "1"]
    command = ["scale/train.py", "digits", "--name", "x", "--out", tmp_path, "device=cpu", *TINY.split(), *more]
    status, lines = said_by_two(tmp_path, *command)
    assert status == 0 and not lines
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["hardware"]["processes"] == 2
    assert {"knn20", "linear", "fine_tuned", "knn200_all", "linear_all"} < set(found["results"])
