"""Every read-out of a kept run, on the data it was trained on or on another set (transfer), as one JSON file.

    python scale/evaluate.py runs/semppl-500-seed0 --data cifar10 --name semppl-500-seed0-measures
    python scale/evaluate.py pixels --data cifar10 --labels 500 --name pixels
    python scale/evaluate.py runs/semppl-500-seed0 --data flowers --labels 200 --name semppl-on-flowers

DATA is a pack: digits, cifar10, or one made of an image folder by `data/prepare.py folder --from FOLDER --name flowers
--size 32`. The encoder stays frozen; k-NN, linear probe and SVMs see the labelled images alone.
"""

import json
import re
import shlex
import sys
import time
import warnings
from pathlib import Path

from launch import RESULTS, hardware
from measures import Pixels, measure

import semppl_mini as s
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping.command import Parser, command
from semppl_mini.parallel import device_of
from semppl_mini.readout import within_reach


def arguments():
    parser = Parser(__doc__)
    parser.add_argument("run", help="the folder of a run, or one of its checkpoints; or pixels, the raw ones")
    parser.add_argument("--data", required=True, help="a pack, by name or path")
    parser.add_argument("--name", required=True, help="of the JSON file")
    parser.add_argument("--labels", type=int, help="how many of the pack's images keep theirs (default: as the run)")
    parser.add_argument("--label-list", help="a file of names of images in the pack: these keep their labels instead")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="what to evaluate on")
    parser.add_argument("--tune", type=int, default=0, help="steps of few-label fine-tuning; 0 leaves it out")
    parser.add_argument("--all-labels", action="store_true", help="also read out with the labels of all images")
    parser.add_argument("--device", help="where to compute (default: the CPU, and --tune as the run, if that is there)")
    parser.add_argument("--out", type=Path, default=RESULTS / "measures", help="folder of the JSON file")
    args = parser.parse_args()
    parser.whole("--labels", args.labels, 1)
    parser.whole("--tune", args.tune, 0)
    if args.run == "pixels" and args.tune:
        parser.error(f"--tune {args.tune} needs weights to tune, and pixels have none; leave it out")
    if not re.fullmatch(r"\w[\w.-]{0,99}", args.name):
        parser.error(f"--name {args.name!r} cannot name a file; use up to 100 letters, digits, _ . and -")
    return args


def compare(run, data) -> None:
    """Warn if a run saw other training images or labels of the same set: read-outs would see more labels than it."""
    if run.data == data.provenance and run.images != data.train.digest():
        words = f"{run.folder} was trained with other labels or images of {data.provenance} than it is read out with"
        warnings.warn(f"{words}; give its --label-list, if it had one.", stacklevel=2)


def main() -> None:
    args, start = arguments(), time.time()
    if args.run == "pixels":
        config, encoder, result = s.presets.cifar10(), Pixels(), {"name": args.name, "trained_on": "nothing"}
    else:
        run = s.load_run(args.run)
        config, encoder = run.config, run.method.encoder
        result = {"name": args.name, "trained_on": run.data, "epoch": max(0, len(run.history) - 1)}
    if args.device:
        config = config.replace(device=args.device)
        encoder.to(device_of(config))
    config = within_reach(config, encoder)
    labels = args.labels or (None if args.label_list else config.labels)
    own = config.replace(labels=labels)  # of the read-outs
    data = s.load_data(args.data, labels, config.label_seed, label_list=args.label_list)
    if args.run != "pixels" and not (args.labels or args.label_list):
        compare(run, data)
    result |= {"data": data.provenance, "hardware": hardware(config)}
    result["command"] = shlex.join(["python", "scale/evaluate.py", *sys.argv[1:]])
    read = {
        "results": s.evaluate(encoder, own, data, args.split, args.tune, args.all_labels),
        "measures": measure(encoder, own, data, args.split),
    }
    result |= {**read, "wall_seconds": time.time() - start, "config": config.to_dict()}
    write_json(make_folder(args.out) / f"{args.name}.json", result)
    print(json.dumps(read, indent=1))


if __name__ == "__main__":
    command(main, "scale/evaluate.py")
