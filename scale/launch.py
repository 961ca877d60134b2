"""What both launchers share: arguments, data, one call of `fit`, the read-out, one JSON file. No maths here."""

import contextlib
import inspect
import json
import os
import platform
import re
import shlex
import sys
import time
from pathlib import Path

import imagenet
import measures
import torch

import semppl_mini as s
from semppl_mini import parallel
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping import class_of, keep_encoders, runs_dir
from semppl_mini.keeping.command import Parser, override
from semppl_mini.parallel import device_of, uses_bf16
from semppl_mini.readout import classifier_accuracy, tuning

RESULTS = Path(__file__).resolve().parents[1] / "notebooks" / "results"


def fields() -> str:
    """Every field of a config with its default, limits, unit and source."""
    body = inspect.getsource(s.Config).split('"""')[2].split("\n    def ")[0]
    return f"fields, defaults, limits, sources (a preset changes some; give field=value):\n{body.rstrip()}\n"


def arguments(doc: str):
    parser = Parser(doc, fields())
    parser.add_argument("preset", help=", ".join(s.presets.NAMES))
    parser.add_argument("changes", nargs="*", metavar="field=value", help="any field of the list below")
    parser.add_argument("--name", required=True, help="of the run: its folder and its JSON file")
    parser.add_argument("--data", help="a data pack, name or path (default: digits, cifar10, cifar100), or a folder of "
                        "class folders or tar shards, see scale/imagenet.py")  # fmt: skip
    parser.add_argument("--label-list", help="a file of names of images in that pack or folder: these keep their "
                        "labels")  # fmt: skip
    parser.add_argument("--weights", help="start from the networks of this run (folder or checkpoint), or "
                        "this file of an encoder, all else new")  # fmt: skip
    parser.add_argument("--save-every", type=int, metavar="STEPS", help="save within an epoch, too")
    parser.add_argument("--steps", type=int, help="go on to this step and no further; the same command continues")
    parser.add_argument("--workers", type=int, default=0, help="processes a process that prepare images ahead")
    parser.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard, too (its package)")
    parser.add_argument("--supervised", type=int, metavar="STEPS", help="train the supervised-only baseline instead")
    parser.add_argument("--tune", type=int, default=600, help="steps of few-label fine-tuning; 0 leaves it out")
    parser.add_argument("--all-labels", action="store_true", help="also read out with the labels of all images")
    parser.add_argument("--measures", action="store_true", help="also clusters, retrieval, copies, robustness, ...")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="what to evaluate on")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: one of notebooks/results, or with "
                        "data of your own the run's folder)")  # fmt: skip
    parser.add_argument("--deterministic", action="store_true", help="the same bits again on a GPU, more slowly")
    parser.add_argument("--profile", action="store_true", help="write a trace of these --steps into the run's folder")
    args = parser.parse_intermixed_args()  # field=value may stand anywhere
    for name, least in (("supervised", 1), ("save_every", 1), ("steps", 1), ("workers", 0), ("tune", 0)):
        parser.whole("--" + name.replace("_", "-"), getattr(args, name), least)
    if args.profile and args.steps is None:
        parser.error("--profile traces every operation of every step; give --steps, a few more than are done")
    if args.supervised and args.weights:
        parser.error("--supervised trains from scratch; leave out --weights")
    if args.label_list and any(text.startswith("labels=") for text in args.changes):
        parser.error("--label-list and labels= both choose labels; give one")
    check_file_name(parser, args.name)
    return args


def check_file_name(parser: Parser, name: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
        parser.error(f"--name {name!r} cannot name a file or folder; use up to 100 letters, digits, _ . and -")


def hardware(config) -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpu": model[0] if model else platform.processor(), "cores": os.cpu_count(), "gpu": gpu}
    software = {"torch": torch.__version__, "python": platform.python_version()}
    precision = "bf16" if uses_bf16(config, device_of(config)) else "fp32"
    software |= {"precision": precision} if config.precision == "auto" else {}
    return machine | {"threads": torch.get_num_threads(), "processes": parallel.size()} | software


def main(doc: str, launcher: str) -> None:
    args, start = arguments(doc), time.time()
    if args.deterministic:
        deterministic()
    config = s.presets.named(args.preset).replace(**dict(override(text) for text in args.changes))
    config, data = load(args, config)
    folder = runs_dir() / args.name
    kept = RESULTS if class_of(config) is s.SemPPL else RESULTS / "relatives"
    out = args.out or (kept if args.data in (None, "digits", "cifar10", "cifar100") else folder)
    if args.supervised:
        config = tuning(config, data, args.supervised).replace(labels=config.labels)
    if args.steps is None and not len(getattr(data, args.split)):
        raise ValueError(f"There are no {args.split} images to read out on; add them, or give --steps to train alone.")
    make_folder(out)  # these before hours of training, not after
    result = {"name": args.name, "data": data.provenance, "hardware": hardware(config), "config": config.to_dict()}
    result["command"] = shlex.join(["python", launcher, *sys.argv[1:]])
    callbacks = [] if args.supervised else [keep_encoders(max(1, config.epochs // 4))]
    callbacks += [tensorboard(folder)] if args.tensorboard else []
    more = {"save_every": args.save_every, "weights": args.weights, "steps": args.steps, "workers": args.workers}
    with traced(folder) if args.profile else contextlib.nullcontext():
        run, first = s.fit(config, data, folder, callbacks, **more), parallel.rank() == 0
    if not run.finished:
        if first:
            print(f"{folder} is kept at --steps {args.steps}; the same command with more, or without --steps, goes on.")
        return
    reading = {"workers": args.workers, "together": True}  # in all processes
    result |= {"train_seconds": sum(r["seconds"] for r in run.history), "history": run.history}
    if run.method.labelled_only:
        names = {"supervised" if args.supervised else config.method: args.split, "val": "val"}
        result["results"] = {name: classifier_accuracy(run.method.model, getattr(data, split), config, **reading)
                             for name, split in names.items() if len(getattr(data, split))}  # fmt: skip
    else:
        if args.tune and first:
            print(f"Reading out, with {args.tune} steps of fine-tuning; --tune 0 leaves these out.", file=sys.stderr)
        of = run.method.encoder, config, data, args.split
        result["results"] = s.evaluate(*of, args.tune, args.all_labels, **reading)
        if args.measures and first:
            result["measures"] = measures.measure(*of)
    parallel.stop()
    if not first:
        return
    result["wall_seconds"] = time.time() - start
    write_json(out / f"{args.name}.json", result)
    print(json.dumps(result["results"], indent=1))


def deterministic() -> None:
    """Of cuBLAS, cuDNN and torch the algorithms that give the same bits again; torch warns where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at cuBLAS's first use
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


@contextlib.contextmanager
def traced(folder: Path):
    """Writes folder/trace-RANK.json.gz, for chrome://tracing or Perfetto: what every process and its GPU did when."""
    with torch.profiler.profile() as profile:  # of the CPU and what else is there
        yield
    profile.export_chrome_trace(str(make_folder(folder) / f"trace-{parallel.rank()}.json.gz"))


def load(args, config):
    """The data, and the config with as many labels as a list names."""
    name = args.data or args.preset.split("_")[0]
    if not (args.data and Path(name).is_dir()):
        if args.preset.startswith("imagenet"):
            raise ValueError(f"{name} is no folder of ImageNet; give --data a folder with train/SYNSET/*.JPEG or "
                             "train*.tar.")  # fmt: skip
        if args.label_list:
            data = s.load_data(name, label_list=args.label_list)
            return config.replace(labels=len(data.train.labelled())), data
        return config, s.data_for(config, name)
    if args.measures:
        raise ValueError(f"--measures needs images in memory and {name} is a folder; data/prepare.py makes it a pack.")
    if args.label_list:
        config = config.replace(labels=len(imagenet.read_list(args.label_list)))
        return config, imagenet.load_imagenet(name, label_list=args.label_list)
    return config, imagenet.load_imagenet(name, config.labels, label_seed=config.label_seed)


def tensorboard(folder: Path):
    """A callback that writes the new lines of a run's log, steps and epochs, as TensorBoard events."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs its package; pip install tensorboard, or leave it out.") from None
    read = 0

    def write(run, record) -> None:
        nonlocal read
        with open(folder / "log.jsonl", "rb") as log, SummaryWriter(folder / "tensorboard") as writer:
            log.seek(read)
            for line in map(json.loads, log):
                at = "step" if "step" in line else "epoch"
                numbers = {name: x for name, x in line.items() if name != at and type(x) in (int, float)}
                for name, x in numbers.items() if at in line else ():
                    writer.add_scalar(f"{at}/{name}", x, line[at])
            read = log.tell()

    return write
