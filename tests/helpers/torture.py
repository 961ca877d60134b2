"""SIGKILL a real training at random moments, go on, and compare the end with a run that was left alone.

    python tests/helpers/torture.py --kills 300
    python tests/helpers/torture.py --kills 20 --workers 2            kill the main process alone, not its workers
    python tests/helpers/torture.py --kills 20 --workers 2 --files    the same on image files

One training after the other, each with a seed of its own: its process is killed after a random time, a new process
goes on in the same folder, until the run is complete. Weights, queues, optimizer, history and log must then be those of
an uninterrupted process, to the bit (times of the clock aside). A kill counts as *inside a save* if it left the
half-written file of a save behind. Every process is forked from one that has only imported the module. The next one
starts at once: a folder that is still locked would end it. Of workers left behind those count as *orphans* that are
there 5 seconds after the last kill. At last, without workers, two agents of torchrun train together, one is killed
with its worker, and another joins the survivor.
"""

import importlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from core_checks import differing, tiny, tiny_data
from PIL import Image
from processes import gone, running, workers_of

from semppl_mini import fit
from semppl_mini.files import checkpoint
from semppl_mini.keeping.command import Parser

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
imagenet = importlib.import_module("imagenet")
TIMES = {"images_per_second", "data_share", "seconds"}
EPOCHS, STEPS = 3, 4  # of each training; it saves after every step


def write_files(root: Path) -> Path:
    """The images of `tiny_data` to train on as files in class folders."""
    for i, (image, label) in enumerate(zip(tiny_data().train.images, tiny_data().train.truth, strict=True)):
        (folder := root / "train" / f"n{int(label):08}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:04}.png")
    return root


def train(config, folder, workers: int = 0, files: Path | None = None) -> None:
    """What a process does: train, or go on. A damaged checkpoint would be an error: a kill must not make one."""
    torch.set_num_threads(1)
    if workers:  # forked, which is what inherits a lock; this process has inherited another way
        multiprocessing.set_start_method("fork", force=True)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "This DataLoader will create|.* cannot be measured")  # on one core; without val/
    data = imagenet.load_imagenet(files, labels=20) if files else tiny_data()
    fit(config, data, folder, progress=False, save_every=1, workers=workers)


def config_of(seed: int):
    optimizer = ("lars", "sgd", "adamw")[seed % 3]
    return tiny(seed=seed, epochs=EPOCHS, labelled_share=0.25, optimizer=optimizer, lr=0.05)


def untimed(records) -> list[dict]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def ended(folder) -> dict:
    """What a run left, without times of the clock: the last checkpoint's contents, and the lines of the log."""
    _, state = checkpoint.newest(folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "method": state["method"], "optimizer": str(state["optimizer"]),
        "history": untimed(state["history"]), "log": untimed(lines),
    }  # fmt: skip


def unequal(one: dict, other: dict) -> list[str]:
    """Which parts of two ends differ, in as much as a bit."""
    parts = [name for name in ("optimizer", "history", "log") if one[name] != other[name]]
    return parts + differing(one["method"], other["method"])


def kill(process, wait: float, workers: int) -> list[int]:
    """SIGKILL a process alone after `wait` seconds (of its workers' lives), unless it has ended: the workers left."""
    while workers and process.exitcode is None and not workers_of(process.pid):
        time.sleep(0.005)
    process.join(wait)
    left = workers_of(process.pid)
    if process.exitcode is None:
        process.kill()
    process.join()
    return left


def punish(seed: int, folder: Path, processes, rng, workers: int = 0, files: bool = False) -> dict:
    """Train with `seed` in `folder`, killing and going on until the run is complete: kills, saves hit, what differs."""
    config, start, left = config_of(seed), time.time(), []
    more = (workers, write_files(folder / "images") if files else None)
    whole = processes.Process(target=train, args=(config, folder / "whole", *more))
    whole.start()
    whole.join()
    patience, kills, saves = 0.7 * (time.time() - start), 0, 0
    while True:
        process = processes.Process(target=train, args=(config, folder / "broken", *more))
        process.start()
        left += kill(process, rng.uniform(0, patience), workers)
        if process.exitcode >= 0:
            break
        kills += 1
        saves += bool(list((folder / "broken").glob(".*.part")))
    if process.exitcode or whole.exitcode:
        raise SystemExit(f"seed {seed}: a training failed with status {process.exitcode or whole.exitcode}.")
    mismatches = unequal(ended(folder / "broken"), ended(folder / "whole"))
    orphans = [] if gone(left, 5) else [pid for pid in left if running(pid)]
    return {"trainings": 1, "kills": kills, "inside a save": saves, "orphans": orphans, "mismatches": mismatches}


def torture(kills: int, seed: int = 0, say=print, **more) -> dict:
    """Punish one training after the other until `kills` processes were killed; the sums, and the seconds it took."""
    processes = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # for the server's import
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # the killed cannot give back tqdm's locks
    processes.set_forkserver_preload(["torture"])
    rng, start, total = random.Random(seed), time.time(), {}
    while total.get("kills", 0) < kills:
        with tempfile.TemporaryDirectory() as folder:
            one = punish(total.get("trainings", 0), Path(folder), processes, rng, **more)
        total = {name: total.get(name, type(value)()) + value for name, value in one.items()}
        say(f"training {total['trainings']}: {one}", flush=True)
    return total | {"seconds": round(time.time() - start)}


# ---- two agents of torchrun, one of which dies and comes back -------------------------------------------------------

STORE = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
print("ready", flush=True)
time.sleep(3600)
"""
SMALL = [
    "digits", "width=8", "batch_size=64", "large_size=16", "projector_hidden=16", "predictor_hidden=16", "queue=64",
    "embedding_dim=8", "negatives=8", "epochs=2", "warmup_epochs=1", "device='cpu'",
]  # fmt: skip


def agent(folder: Path, port: int | None) -> subprocess.Popen:
    """scale/train.py under torchrun: two processes, or (port) one of two nodes with a process each."""
    where = ["--standalone", "--nproc-per-node=2"] if port is None else [
        "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=torture", "--rdzv-conf=is_host=0", "--local-addr=127.0.0.1", "--max-restarts=5"]  # fmt: skip
    script = [ROOT / "scale" / "train.py", *SMALL, "--name", "run", "--tune", 0, "--save-every", 5]
    command = [sys.executable, "-m", "torch.distributed.run", *where, *script, "--out", folder]
    environment = os.environ | {"SEMPPL_RUNS": str(folder), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # restarted workers must not find the dead ones' addresses
    log = open(folder / f"agent-{time.time():.2f}.log", "w")
    return subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log,
                            start_new_session=True)  # fmt: skip


def rejoin(folder: Path, after: int = 23) -> dict:
    """Two agents train together; one is killed with its worker, and another joins the survivor: what differs then.

    The rendezvous' store is in a third process, so either agent may die.
    """
    (folder / "two").mkdir()
    whole = agent(folder / "two", None)
    if whole.wait():
        raise SystemExit(f"two processes: a training failed, see {folder / 'two'}.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nodes").mkdir()
    store = subprocess.Popen([sys.executable, "-c", STORE, str(port)], stdout=subprocess.PIPE)
    store.stdout.readline()
    agents, log = [agent(folder / "nodes", port) for _ in range(2)], folder / "nodes" / "run" / "log.jsonl"
    try:
        while not log.exists() or log.read_text().count('"step"') < after:
            if any(a.poll() is not None for a in agents):
                raise SystemExit(f"an agent ended too early, see {folder / 'nodes'}.")
            time.sleep(0.05)
        for pid in Path(f"/proc/{agents[1].pid}/task/{agents[1].pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        agents[1].kill()
        agents[1].wait()
        agents[1] = agent(folder / "nodes", port)
        if any([a.wait() for a in agents]):
            raise SystemExit(f"an agent failed, see {folder / 'nodes'}.")
    finally:
        for process in (*agents, store):
            process.kill()
    return {"rejoined": 1, "mismatches": unequal(ended(folder / "nodes" / "run"), ended(folder / "two" / "run"))}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--workers", type=int, default=0, help="that prepare images, and are left alive")
    parser.add_argument("--files", action="store_true", help="train on image files")
    args = parser.parse_args()
    parser.whole("--kills", args.kills, 1)
    parser.whole("--workers", args.workers, 0)
    total = torture(args.kills, args.seed, workers=args.workers, files=args.files)
    if Path("/proc/self/task").exists() and not args.workers:
        with tempfile.TemporaryDirectory() as folder:
            joined = rejoin(Path(folder))
        total = {**total, "rejoined": joined["rejoined"], "mismatches": total["mismatches"] + joined["mismatches"]}
    print(json.dumps(total))
    sys.exit(bool(total["mismatches"] or total["orphans"]))


tiny_data()  # once, before processes are forked from the one that imported this file
if __name__ == "__main__":
    main()
