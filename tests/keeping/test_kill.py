"""Processes that are killed, asked to stop, or run out of disk: what they leave, and how they go on."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torture
from core_checks import tiny_data
from jupyter_client import KernelManager
from processes import steps_logged, wait_for_steps
from torture import SMALL

from semppl_mini.files import checkpoint

ROOT = Path(__file__).resolve().parents[2]
def command(folder, *more, through=()):
    """scale/train.py on 3,600 images, 112 steps of a small network; everything it writes goes to `folder`."""
    args = [sys.executable, *through, ROOT / "scale" / "train.py", *SMALL, "--tune", "0", "--out", folder, *more]
    environment = os.environ | {"SEMPPL_RUNS": str(folder), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.Popen(args, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of scale/train.py that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    process = command(folder, "--name", "run", "--save-every", "5")
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return folder / "run"


def test_kill_a_handful_of_processes_at_random_moments():
    total = torture.torture(kills=6, seed=1, say=lambda *_, **__: None)
    assert total["kills"] >= 6 and total["mismatches"] == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers through /proc")
@pytest.mark.parametrize("files", [False, True], ids=["pack", "files"])
def test_kill_of_the_main_process_alone_frees_its_folder_at_once(files):
    """As by a machine out of memory: two workers are left, but neither the lock nor, for long, themselves."""
    total = torture.torture(kills=3, seed=1, say=lambda *_, **__: None, workers=2, files=files)
    assert total["kills"] >= 3 and total["mismatches"] == [] and total["orphans"] == []


def test_kill_torture_would_notice_another_end(tmp_path):
    """The proof that the comparison can fail: another seed, and a log with a line twice, are told apart."""
    for name, seed in (("one", 0), ("other", 1)):
        torture.fit(torture.config_of(seed), tiny_data(), tmp_path / name, progress=False)
    one, other = (torture.ended(tmp_path / name) for name in ("one", "other"))
    assert not torture.unequal(one, one)
    assert {"history", "log", "online.encoder.stem.0.weight", "queue.all_keys"} <= set(torture.unequal(one, other))
    assert torture.unequal(one, one | {"log": one["log"][:1] + one["log"]}) == ["log"]


def test_kill_the_command_and_give_it_again(whole, tmp_path):
    """SIGKILL of the real command, three times; the same command then ends with the bits of `whole`."""
    rng = random.Random(0)
    for count in sorted(rng.sample(range(2, 100), 3)):
        process = command(tmp_path, "--name", "run", "--save-every", "5")
        wait_for_steps(process, tmp_path / "run", count)
        process.kill()
        process.communicate()
    half = tmp_path / "run" / ".checkpoint-00000005.pt.1234.part"
    half.write_bytes(b"as a kill within a save leaves it")
    process = command(tmp_path, "--name", "run", "--save-every", "5")
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert torture.unequal(torture.ended(tmp_path / "run"), torture.ended(whole)) == []
    assert not half.exists()
    results = [json.loads((folder.parent / "run.json").read_text())["results"] for folder in (tmp_path / "run", whole)]
    assert results[0] == results[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_kill_politely_finishes_the_step_saves_and_says_how_to_resume(number, whole, tmp_path):
    process = command(tmp_path, "--name", "run")
    wait_for_steps(process, tmp_path / "run", 20)
    process.send_signal(number)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 128 + number and "Traceback" not in said
    done = steps_logged(tmp_path / "run")
    assert 20 <= done < 112 and f"Stopped after step {done} of 112: the same call or command goes on from" in said
    assert checkpoint.newest(tmp_path / "run")[1]["position"]["step"] == done
    assert not (tmp_path / "run.json").exists()
    process = command(tmp_path, "--name", "run")
    process.communicate(timeout=900)
    assert torture.unequal(torture.ended(tmp_path / "run"), torture.ended(whole)) == []


def test_kill_by_a_full_disk_leaves_the_last_good_checkpoint(whole, tmp_path):
    """No file may grow to the size of a checkpoint: one sentence, nothing half-written; with room again it goes on."""
    process = command(tmp_path, "--name", "run", "--save-every", "5")
    wait_for_steps(process, tmp_path / "run", 20)
    process.kill()
    process.communicate()
    kept = {path: path.read_bytes() for path in (tmp_path / "run").glob("checkpoint-*.pt")}
    limit = min(map(len, kept.values())) - 1
    full = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    full += "sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0]); "
    full += "runpy.run_path(sys.argv[0], run_name='__main__')"
    process = command(tmp_path, "--name", "run", "--save-every", "5", through=["-c", full])
    _, said = process.communicate(timeout=900)
    assert process.returncode == 1 and "Traceback" not in said
    assert "could not be written (File too large); what was saved before is whole: make room" in said
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("checkpoint-*.pt")} == kept
    assert not list((tmp_path / "run").glob(".*"))
    process = command(tmp_path, "--name", "run", "--save-every", "5")
    process.communicate(timeout=900)
    assert torture.unequal(torture.ended(tmp_path / "run"), torture.ended(whole)) == []


STOP_A_NOTEBOOK = """
import semppl_mini as s
from core_checks import tiny, tiny_data
config = tiny(epochs=2000)
run = s.fit(config, tiny_data(), progress=False, callbacks=[lambda run, record: print(record["epoch"], flush=True)])
"""


def test_kill_with_the_stop_button_keeps_the_history_and_goes_on():
    """A real kernel, interrupted while it trains: one line, no traceback; what was queued does not run; it goes on."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT / "tests" / "helpers"), env=os.environ | {"OMP_NUM_THREADS": "1"})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=900)
    said, stopped = [], []

    def hear(message):
        content = message["content"]
        said.append(content.get("text") or "\n".join(content.get("traceback", [])) or "")
        if "\n2\n" in "".join(said) and not stopped:
            stopped.append(True)
            manager.interrupt_kernel()

    def cell(code):
        said.clear()
        return client.execute_interactive(code, output_hook=hear, timeout=900)["content"]["status"], "".join(said)

    queued = []

    def hear_and_queue(message):  # as of Run All: all cells are sent before the first has ended
        if not queued:
            queued.append(client.execute("run = 'trained next'"))
        hear(message)

    said.clear()
    reply = client.execute_interactive(STOP_A_NOTEBOOK, output_hook=hear_and_queue, timeout=900)["content"]
    assert reply["status"] == "error" and reply["ename"] == "Interrupted"
    assert len(reply["traceback"]) == 1 and "fit(..., resume=sys.last_value.run) goes on" in reply["traceback"][0]
    reply = client.get_shell_msg(timeout=900)
    assert reply["parent_header"]["msg_id"] == queued[0] and reply["content"]["status"] == "aborted"
    status, text = cell("import sys\nrun = sys.last_value.run\nepochs = len(run.history)\nprint(epochs, run.finished)")
    assert status == "ok" and int(text.split()[0]) >= 3 and text.split()[1] == "False"
    go_on = "class Enough(Exception): pass\n"
    go_on += "def enough(run, record):\n    if len(run.history) > epochs + 1: raise Enough\n"
    go_on += "try: s.fit(config, tiny_data(), progress=False, callbacks=[enough], resume=run)\n"
    go_on += "except Enough: print('went on')"
    status, text = cell(go_on)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert (status, text.strip()) == ("ok", "went on")
