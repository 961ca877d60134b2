"""Every read-out of a kept run, on the data it was trained on or on another set (transfer), as one JSON file.

    python scale/evaluate.py runs/semppl-500-seed0 --data cifar10 --name semppl-500-seed0-measures
    python scale/evaluate.py pixels --data cifar10 --labels 500 --name pixels
    python scale/evaluate.py runs/semppl-500-seed0 --data flowers --labels 200 --name semppl-on-flowers
    torchrun --nproc-per-node 8 scale/evaluate.py runs/semppl --on linear --data IMAGENET --name linear

DATA is a pack: digits, cifar10, or one made of an image folder by `data/prepare.py folder --from FOLDER --name flowers
--size 32`. The encoder stays frozen; k-NN, linear probe and SVMs see the labelled images alone.

With --on one read-out of the papers, of a run, an export or a converted checkpoint, in one process or several:

    linear, finetune                                          their protocols and sweeps, on a pack or on ImageNet
    imagenet-v2, imagenet-c, imagenet-r, imagenet-sketch      a classifier of ImageNet on images from elsewhere
    food, cifar10, ..., flowers; folders                      frozen features of others' sets, from their folders

docs/readouts.md has them all.
"""

import argparse
import json
import shlex
import sys
import time
import warnings
from pathlib import Path

import encoders
import frozen
import image_sets
import protocols
import shifts
from export import MAX_SIDE
from launch import RESULTS, check_file_name, hardware
from measures import Pixels, measure

import semppl_mini as s
from semppl_mini import parallel
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping import runs_dir
from semppl_mini.keeping.command import Parser, command
from semppl_mini.parallel import device_of
from semppl_mini.readout import within_reach

ON = dict.fromkeys(("linear", "finetune"), protocols) | dict.fromkeys(shifts.SETS, shifts)
ON |= dict.fromkeys(image_sets.SETS, frozen)
LABELS = ("labels", "label_list")
USED = {  # by what of --on: these arguments and no others
    None: (*LABELS, "split", "tune", "all_labels"),
    protocols: (*LABELS, "val", "protocol", "rates", "epochs", "batch", "workers"),
    shifts: ("workers",),
    frozen: ("by", "features", "size", "workers"),
}
MISSING = {"split": "test", "tune": 0, "all_labels": False, "protocol": "semppl", "workers": 0}


def arguments():
    parser = Parser(__doc__)
    parser.add_argument("run", help="the folder of a run, or one of its checkpoints; or pixels, the raw ones")
    parser.add_argument("--data", required=True, help="a pack, by name or path; with --on a folder, too")
    parser.add_argument("--name", required=True, help="of the JSON file")
    parser.add_argument("--on", choices=ON, metavar="WHAT", help=f"one of {', '.join(ON)}")
    parser.add_argument("--labels", type=int, help="how many images keep theirs (default: as the run; with --on all)")
    parser.add_argument("--label-list", help="a file of names of images in the pack: these keep their labels instead")
    parser.add_argument("--split", choices=("val", "test"), help="what to evaluate on (default: test)")
    parser.add_argument("--tune", type=int, help="steps of few-label fine-tuning (default: 0, leaves it out)")
    parser.add_argument("--all-labels", action="store_true", default=None, help="also read out with all labels")
    parser.add_argument("--val", type=int, help="training images to hold out (default: 10%%, of ImageNet ten a class)")
    papers = sorted({paper for _, paper in protocols.PROTOCOLS})
    parser.add_argument("--protocol", choices=papers, help="default: semppl")
    parser.add_argument("--rates", type=floats, help="instead of the protocol's, with commas: 0.1,0.2")
    parser.add_argument("--epochs", type=wholes, help="likewise: 30,50")
    parser.add_argument("--batch", type=int, help="likewise")
    parser.add_argument("--by", nargs="+", choices=frozen.READ_OUTS, help="default: logistic")
    parser.add_argument("--features", type=Path, help="a file, .npz: the features, written once and then read")
    parser.add_argument("--size", type=int, help="pixels a side (default: as the run's images)")
    parser.add_argument("--workers", type=int, help="processes a process that read images ahead (default: 0)")
    parser.add_argument("--device", help="where to compute (default: the CPU; --tune, --on as the run, if there)")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: notebooks/results/measures, with "
                        "--on that of the runs)")  # fmt: skip
    return checked(parser, parser.parse_args())


def checked(parser, args):
    """The arguments, if they go together, with what is left out filled in."""
    for name, least in (("labels", 1), ("tune", 0), ("val", 1), ("batch", 2), ("size", 8), ("workers", 0)):
        parser.whole("--" + name, getattr(args, name), least)
    used = USED[ON.get(args.on)]
    for name in {name for names in USED.values() for name in names} - {*used}:
        if getattr(args, name) is not None:
            where = f"with --on {args.on}" if args.on else "without --on"
            parser.error(f"--{name.replace('_', '-')} is not used {where}; leave it out")
    for name in used:
        setattr(args, name, MISSING.get(name) if getattr(args, name) is None else getattr(args, name))
    if args.run == "pixels" and (args.on or args.tune):
        what = f"--on {args.on} needs an encoder's weights" if args.on else f"--tune {args.tune} needs weights to tune"
        parser.error(f"{what}, and pixels have none; leave it out")
    if args.size and args.size > MAX_SIDE:
        parser.error(f"--size {args.size} is too large; give {MAX_SIDE} or less")
    if args.features and (args.features.is_dir() or not args.features.absolute().parent.is_dir()):
        parser.error(f"--features {args.features} can be no file; name one in a folder that is there")
    check_file_name(parser, args.name)
    args.out = args.out or (runs_dir() if args.on else RESULTS / "measures")
    return args


def floats(text: str) -> tuple[float, ...]:
    return numbers(text, float)


def wholes(text: str) -> tuple[int, ...]:
    return numbers(text, int)


def numbers(text: str, kind) -> tuple:
    """Positive numbers with commas between them."""
    try:
        found = tuple(map(kind, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 < x < 1e6 for x in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers; write for example 1,2")
    return found


def compare(run, data) -> None:
    """Warn if a run saw other training images or labels of the same set: read-outs would see more labels than it."""
    if run.data == data.provenance and run.images != data.train.digest():
        words = f"{run.folder} was trained with other labels or images of {data.provenance} than it is read out with"
        warnings.warn(f"{words}; give its --label-list, if it had one.", stacklevel=2)


def of_all(args, start: float) -> dict:
    """Every read-out of a pack, by one process."""
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
    return result | {**read, "wall_seconds": time.time() - start, "config": config.to_dict()}


def of_one(args, start: float) -> dict:
    """What --on names, by all processes."""
    run, told = encoders.load(args.run)
    config = run.config.replace(device=args.device or run.config.device)
    run.config = within_reach(config, run.method) if args.device is None else config
    run.method.to(device_of(run.config))
    result = {"name": args.name, "trained_on": run.data, "on": args.on, "data": str(args.data)}
    result |= {"hardware": hardware(run.config), "command": shlex.join(["python", "scale/evaluate.py", *sys.argv[1:]])}
    result["results"] = ON[args.on].read(run, told, args.on, args)
    return result | {"wall_seconds": time.time() - start, "config": run.config.to_dict()}


def main() -> None:
    args, start = arguments(), time.time()
    parallel.start()
    make_folder(args.out)  # before hours of work, not after
    result = of_one(args, start) if args.on else of_all(args, start)
    if parallel.rank() == 0:
        write_json(path := args.out / f"{args.name}.json", result)
        print(f"written to {path}:", file=sys.stderr)
        print(json.dumps({part: result[part] for part in ("results", "measures") if part in result}, indent=1))


if __name__ == "__main__":
    command(main, "scale/evaluate.py")
