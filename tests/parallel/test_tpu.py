"""device="tpu" by torch_tpu, as far as a machine without a chip can tell: `make test-tpu`, an environment of its own.

What a chip would do is not tested. Two hosts are two copies of the launching script on this machine: without chips
their processes share batches by gloo.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semppl_mini import Config
from semppl_mini.parallel import device_of

ROOT = Path(__file__).resolve().parents[2]
HERE = importlib.util.find_spec("torch_tpu") is not None
NO_CHIP = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # else a gradient starts libtpu, which waits for chips, or ends it all
# The Python of the script: torch_tpu finds out addresses and ranks, then torchrun and training do without it.
PYTHON = f"""#!/usr/bin/env bash
case "$*" in
  *torch.tpu.distributed*) ;;
  *) export TORCH_DEVICE_BACKEND_AUTOLOAD=0; echo "topology $TORCH_TPU_TOPOLOGY, this is host $NODE_RANK of $NNODES" ;;
esac
exec {sys.executable} "$@"
"""
needs = pytest.mark.skipif(not HERE, reason="this is for `make test-tpu`")
HOST = ROOT / "scale" / "scripts" / "tpu_host.sh"
RUN = """digits --name x --steps 3 --out . epochs=1 width=8 batch_size=16 negatives=4 queue=16 large_size=16
         small_size=8 projector_hidden=16 predictor_hidden=16 precision=fp64 device=cpu""".split()
# A chip is what stands on the PCI bus; here the bus is said to have one. Nothing is computed on it.
ONE_CHIP = """
import torch, torch_tpu
from torch_tpu import _loader
from torch_tpu._internal.utils import hardware
hardware.get_tpu_device_count = lambda: 1
_loader._init_device("tpu")
from semppl_mini import Config, parallel
"""


def said_by(code, **environment):
    """What a Python process prints, its errors included."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=os.environ | environment, cwd=ROOT,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    return done.stdout + done.stderr


def test_a_tpu_that_is_not_there_is_named_in_one_sentence():
    why = "finds no chip" if HERE else "is not installed"
    with pytest.raises(ValueError, match=rf"^device = 'tpu' is unknown to torch \(torch_tpu {why}\); give auto, cpu,"):
        device_of(Config(device="tpu"))
    assert device_of(Config()).type != "tpu"


@needs
def test_a_chip_is_what_auto_takes_and_computes_in_bf16():
    said = said_by(ONE_CHIP + """
for name in ("auto", "tpu", "tpu:0", "cpu"):
    config = Config(device=name)
    device = parallel.device_of(config)
    with parallel.autocast_of(config, device):
        print(name, "->", device, torch.is_autocast_enabled(device.type))
print(parallel.uses_bf16(Config(precision="fp32"), torch.device("tpu")))
parallel.device_of(Config(device="tpu:1"))
""")
    assert "auto -> tpu True\ntpu -> tpu True\ntpu:0 -> tpu:0 True\ncpu -> cpu" in said and "\nFalse\n" in said
    assert "device = 'tpu:1' is not there: of these this machine has 1, and auto is tpu; give auto" in said


@needs
def test_tpu_votes_and_losses_multiply_in_float32():
    """torch_tpu's own choice is bf16; `placed` is stopped where it would send the first weight to the chip."""
    said = said_by(ONE_CHIP + """
from torch import nn
class Method(nn.Module):
    def to(self, *where, memory_format=None):
        assert memory_format is None, "channels_last"
online = target = nn.ModuleDict()
print(torch.get_float32_matmul_precision())
parallel.placed(Method(), torch.device("tpu"), Config())
print(torch.get_float32_matmul_precision())
""")
    assert "medium\nhighest\n" in said


@needs
def test_processes_of_a_tpu_that_cannot_meet_say_so():
    said = said_by(ONE_CHIP + "parallel.start()", WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert said.rstrip().endswith("TORCH_TPU_SLICEBUILDER_ADDRESSES is not set, so that 2 TPU processes cannot meet; "
                                  "use scale/scripts/tpu_pod.sh.")  # fmt: skip


def hosts(folder, number, *arguments, port="29517"):
    """tpu_host.sh on so many hosts at once, all of them this machine, with a process each; their exit codes and words.

    Names of one machine in two spellings: torch_tpu counts them.
    """
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    names = ["localhost", "127.0.0.1"][:number]
    environment = os.environ | {
        "PYTHON": str(python), "SEMPPL_RUNS": str(folder), "TPU_WORKER_HOSTNAMES": ",".join(names),
        "TORCH_TPU_TOPOLOGY": f"1x{number}", "TORCH_TPU_DEVICES_PER_HOST": "1", "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # fmt: skip
    started = [subprocess.Popen([HOST, *arguments], env=environment | {"NODE_RANK": str(n)}, cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for n in range(number)]  # fmt: skip
    return [(process.communicate(timeout=300)[0], process.returncode) for process in started]


def logged(folder):
    lines = map(json.loads, (folder / "x" / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "step" in line]


@needs
def test_two_hosts_take_the_steps_of_one_process(tmp_path):
    """The script, addresses by torch_tpu, two torchruns that meet, one process that logs and saves."""
    (tmp_path / "two").mkdir()
    for n, (said, code) in enumerate(hosts(tmp_path / "two", 2, *RUN)):
        assert code == 0, said
        assert f"topology 1,2,1, this is host {n} of 2" in said
    command = [sys.executable, "scale/train.py", *RUN]
    environment = os.environ | NO_CHIP | {"SEMPPL_RUNS": str(tmp_path / "one"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    two, one = logged(tmp_path / "two"), logged(tmp_path / "one")
    assert len(two) == 3 and two == pytest.approx(one, rel=1e-9)


@needs
def test_the_script_says_that_there_is_no_chip():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "TORCH_TPU_"))}
    done = subprocess.run([HOST, *RUN], env=environment | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines()[-1].endswith(
        f"torch_tpu is not installed for {sys.executable} or finds no TPU, see above; use torchrun scale/train.py.")
