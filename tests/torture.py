"""SIGKILL a real training at random moments, go on, and compare the end with a run that was left alone.

    python tests/torture.py --kills 300

One training after the other, each with a seed of its own: its process is killed after a random time, a new process
goes on in the same folder, until the run is complete. Weights, queues, optimizer, history and log must then be those of
an uninterrupted process, to the bit (times of the clock aside). A kill counts as *inside a save* if it left the
half-written file of a save behind. Every process is forked from one that has only imported the module.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from checks import differing, tiny, tiny_data

from semppl_mini import checkpoint, fit
from semppl_mini.command import Parser

TIMES = {"images_per_second", "data_share", "seconds"}
EPOCHS, STEPS = 3, 4  # of each training; it saves after every step


def train(config, folder) -> None:
    """What a process does: train, or go on. A damaged checkpoint would be an error: a kill must not make one."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    fit(config, tiny_data(), folder, progress=False, save_every=1)


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


def punish(seed: int, folder: Path, processes, rng) -> dict:
    """Train with `seed` in `folder`, killing and going on until the run is complete: kills, saves hit, what differs."""
    config, start = config_of(seed), time.time()
    whole = processes.Process(target=train, args=(config, folder / "whole"))
    whole.start()
    whole.join()
    patience, kills, saves = 0.7 * (time.time() - start), 0, 0
    while True:
        process = processes.Process(target=train, args=(config, folder / "broken"))
        process.start()
        process.join(rng.uniform(0, patience))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode >= 0:
            break
        kills += 1
        saves += bool(list((folder / "broken").glob(".*.part")))
    if process.exitcode or whole.exitcode:
        raise SystemExit(f"seed {seed}: a training failed with status {process.exitcode or whole.exitcode}.")
    mismatches = unequal(ended(folder / "broken"), ended(folder / "whole"))
    return {"trainings": 1, "kills": kills, "inside a save": saves, "mismatches": mismatches}


def torture(kills: int, seed: int = 0, say=print) -> dict:
    """Punish one training after the other until `kills` processes were killed; the sums, and the seconds it took."""
    processes = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # for the server's import
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # the killed cannot give back tqdm's locks
    processes.set_forkserver_preload(["torture"])
    rng, start, total = random.Random(seed), time.time(), {}
    while total.get("kills", 0) < kills:
        with tempfile.TemporaryDirectory() as folder:
            one = punish(total.get("trainings", 0), Path(folder), processes, rng)
        total = {name: total.get(name, type(value)()) + value for name, value in one.items()}
        say(f"training {total['trainings']}: {one}", flush=True)
    return total | {"seconds": round(time.time() - start)}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse_args()
    parser.whole("--kills", args.kills, 1)
    total = torture(args.kills, args.seed)
    print(json.dumps(total))
    sys.exit(bool(total["mismatches"]))


tiny_data()  # once, before processes are forked from the one that imported this file
if __name__ == "__main__":
    main()
