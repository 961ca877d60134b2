"""Train and evaluate one run of a preset, and write what came out as one JSON file. No maths here: it calls `fit`.

    python scale/train.py cifar10_cpu --name semppl-500-seed0 labels=500 seed=0
    python scale/train.py cifar10_cpu --name supervised-500-seed0 --supervised 2000 labels=500 seed=0

Any field of `Config` can be given as field=value. The run's folder is RUNS/NAME (environment variable SEMPPL_RUNS,
default runs/); a run that was stopped continues there. The test images are read once, at the end.
"""

import json
import os
import platform
import re
import shlex
import sys
import time
from pathlib import Path

import torch

import semppl_mini as s
from semppl_mini import checkpoint
from semppl_mini.command import Parser, command, override
from semppl_mini.device import device_of, uses_bf16
from semppl_mini.evaluate import classifier_accuracy
from semppl_mini.runs import keep_encoders, runs_dir

RESULTS = Path(__file__).resolve().parents[1] / "notebooks" / "results"


def arguments():
    parser = Parser(__doc__)
    parser.add_argument("preset", help="digits, cifar10_cpu, cifar10 or cifar100")
    parser.add_argument("changes", nargs="*", help="field=value ...")
    parser.add_argument("--name", required=True, help="of the run: its folder and its JSON file")
    parser.add_argument("--data", help="name or path of the data pack (default: digits, cifar10 or cifar100)")
    parser.add_argument("--weights", help="start from the networks of this run (folder or checkpoint), all else new")
    parser.add_argument("--save-every", type=int, metavar="STEPS", help="save within an epoch, too")
    parser.add_argument("--supervised", type=int, metavar="STEPS", help="train the supervised-only baseline instead")
    parser.add_argument("--tune", type=int, default=600, help="steps of few-label fine-tuning; 0 leaves it out")
    parser.add_argument("--all-labels", action="store_true", help="also read out with the labels of all images")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="what to evaluate on")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    args = parser.parse_intermixed_args()  # field=value may stand anywhere
    parser.whole("--supervised", args.supervised, 1)
    parser.whole("--save-every", args.save_every, 1)
    parser.whole("--tune", args.tune, 0)
    if args.supervised and (args.weights or args.save_every):
        parser.error("--supervised trains from scratch and keeps no checkpoint; leave out --weights and --save-every")
    if not re.fullmatch(r"[\w.-]{1,100}", args.name) or args.name.startswith("."):
        parser.error(f"--name {args.name!r} cannot name a folder; use up to 100 letters, digits, _ . and -")
    return args


def hardware() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpu": model[0] if model else platform.processor(), "cores": os.cpu_count(), "gpu": gpu}
    software = {"torch": torch.__version__, "python": platform.python_version()}
    return machine | {"threads": torch.get_num_threads()} | software


def main() -> None:
    args, start = arguments(), time.time()
    config = s.presets.named(args.preset).replace(**dict(override(text) for text in args.changes))
    name = args.data or ("digits" if args.preset == "digits" else args.preset.removesuffix("_cpu"))
    data = s.load_data(name, config.labels, config.label_seed)
    checkpoint.make_folder(args.out)  # before hours of training, not after
    result = {"name": args.name, "data": data.provenance, "hardware": hardware(), "config": config.to_dict()}
    if config.precision == "auto":
        result["hardware"]["precision"] = "bf16" if uses_bf16(config, device_of(config)) else "fp32"
    result["command"] = shlex.join(["python", "scale/train.py", *sys.argv[1:]])
    if args.supervised is not None:
        model = s.supervised(config, data, args.supervised, history=result.setdefault("history", []))
        accuracy = {split: classifier_accuracy(model, getattr(data, split), config) for split in ("val", args.split)}
        result["train_seconds"] = time.time() - start
        result["results"] = {"supervised": accuracy[args.split], "val": accuracy["val"]}
    else:
        callbacks = [keep_encoders(max(1, config.epochs // 4))]
        more = {"save_every": args.save_every, "weights": args.weights}
        run = s.fit(config, data, runs_dir() / args.name, callbacks, **more)
        result |= {"train_seconds": sum(r["seconds"] for r in run.history), "history": run.history}
        result["results"] = s.evaluate(run.method.encoder, config, data, args.split, args.tune, args.all_labels)
    result["wall_seconds"] = time.time() - start
    checkpoint.write_json(args.out / f"{args.name}.json", result)
    print(json.dumps(result["results"], indent=1))


if __name__ == "__main__":
    command(main, "scale/train.py")
