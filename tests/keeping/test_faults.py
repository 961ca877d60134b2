"""Several processes and what befalls them: a worker killed, the job preempted, another number of processes after it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torture
from processes import wait_for_steps
from torture import SMALL

from semppl_mini.files import checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers through /proc")
ROOT = Path(__file__).resolve().parents[2]
RUN = ["--name", "run", "--tune", "0", "precision='fp64'", "batch_size=128", "small_views=0"]  # 56 steps


def launched(folder, processes, *more):
    """scale/train.py in so many processes, under torchrun if more than one, in the background."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, "--max-restarts", 3]
    args = [*(torchrun if processes > 1 else []), ROOT / "scale" / "train.py", *SMALL, *RUN, "--out", folder, *more]
    environment = os.environ | {"SEMPPL_RUNS": str(folder), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # restarted workers must not find the dead ones' addresses
    return subprocess.Popen([sys.executable, *map(str, args)], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def finish(process):
    said, _ = process.communicate(timeout=900)
    return process.returncode, said


def workers(agent):
    """The processes that an agent of torchrun has started to train."""
    found = []
    for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        if b"scale/train.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(int(pid))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two processes that was left alone."""
    folder = tmp_path_factory.mktemp("two")
    status, said = finish(launched(folder, 2, "--save-every", "5"))
    assert status == 0, said[-3000:]
    assert (folder / "run.json").exists()  # the first process has read out
    return folder / "run"


@pytest.mark.parametrize("which", [0, 1])  # the one that saves, and the other
def test_fault_a_killed_worker_is_restarted_and_ends_with_the_same_bits(which, whole, tmp_path):
    agent = launched(tmp_path, 2, "--save-every", "5")
    wait_for_steps(agent, tmp_path / "run", 13)
    os.kill(sorted(workers(agent))[which], signal.SIGKILL)
    status, said = finish(agent)
    assert status == 0, said[-3000:]
    assert "exitcode: -9" in said  # torchrun has seen it die
    assert torture.unequal(torture.ended(tmp_path / "run"), torture.ended(whole)) == []


def test_fault_preemption_saves_once_and_one_process_goes_on_with_the_same_run(whole, tmp_path):
    """SIGTERM reaches torchrun; all processes agree on the step after which they stop."""
    agent = launched(tmp_path, 2)
    wait_for_steps(agent, tmp_path / "run", 10)
    agent.send_signal(signal.SIGTERM)
    status, said = finish(agent)
    assert status != 0 and said.count("Stopped after step") == 1 and "goes on from None" not in said
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*.pt"))
    assert len(kept) == 2 and kept[0] == checkpoint.path_of(tmp_path, 0).name  # the untrained one, and this
    step = int(kept[1].removeprefix("checkpoint-").removesuffix(".pt"))
    assert 10 <= step < 28 and f"Stopped after step {step} of 56" in said
    status, said = finish(launched(tmp_path, 1))
    assert status == 0, said[-3000:]
    ours, theirs = torture.ended(tmp_path / "run"), torture.ended(whole)
    assert len(ours["log"]) == len(theirs["log"])
    torch.testing.assert_close(ours["method"], theirs["method"], rtol=1e-3, atol=1e-5)


def test_fault_loaders_of_several_processes_change_nothing(whole, tmp_path):
    status, said = finish(launched(tmp_path, 2, "--workers", "1"))
    assert status == 0, said[-3000:]
    assert torture.unequal(torture.ended(tmp_path / "run"), torture.ended(whole)) == []
