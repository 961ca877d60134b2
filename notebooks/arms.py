"""The arms of the board: how each is trained and read out, and the runs, one JSON file each.

An arm is a preset with some fields changed; some also take a class of interventions.py, or other images. Arms with
*oracle* in their names train with true labels: references. Every read-out is of validation images; the test images are
not touched. A seed stands for the start, the order, all draws, and which images are labelled.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import interventions as change
import sweep

import semppl_mini as s
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping import class_of
from semppl_mini.keeping.run import software
from semppl_mini.readout import classifier_accuracy, tuning, untrained_encoder

sys.path.append(str(Path(__file__).resolve().parents[1] / "scale"))
from measures import clustering  # noqa: E402

RESULTS = Path(__file__).resolve().with_name("results") / "claims"


@dataclass(frozen=True)
class Setting:
    presets: dict[str, s.Config]  # of semppl, ifnd, carp
    epochs: int
    seeds: int  # a row with fewer is open
    val: int | None  # validation images; None: a tenth of all
    steps: int  # of supervised-only


PRESETS = s.presets
SETTINGS = {
    "digits": Setting(
        {"semppl": PRESETS.digits(), "ifnd": PRESETS.digits_ifnd(), "carp": PRESETS.digits_carp()},
        epochs=12, seeds=5, val=1000, steps=1000,
    ),
    "cifar10": Setting(
        {"semppl": PRESETS.cifar10_cpu(), "ifnd": PRESETS.cifar10_cpu_ifnd(), "carp": PRESETS.cifar10_cpu_carp()},
        epochs=4, seeds=3, val=None, steps=2000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A preset's method with some fields changed; and a class instead of it, other images, other read-outs."""

    method: str = "semppl"
    changes: dict = field(default_factory=dict)
    kind: type[s.Method] | None = None
    labels: float = 1  # times the preset's
    images: Callable[[s.Data], s.Data] = lambda data: data
    read: Callable[[s.Run, s.Data], dict] = lambda run, data: {}
    supervised: bool = False  # a classifier on the labelled images alone
    by_epoch: bool = False  # k-NN after every epoch


def classifier(run: s.Run, data: s.Data) -> dict:
    return {"classifier": classifier_accuracy(run.method.model, data.val, run.config)}


def teacher_and_student(run: s.Run, data: s.Data) -> dict:
    """The student's read-out, and how well k-means finds the classes, in the teacher and before training."""
    config, val = run.config, data.val
    teacher, untrained = run.method.encoder, untrained_encoder(run.config, data)
    clusters = [clustering(s.method.encode(f, val, config), val.truth, len(data.classes)) for f in (teacher, untrained)]
    student = s.evaluate(run.method.online["encoder"], config, data, "val")
    return {"student": student, "clusters": clusters[0], "clusters, untrained": clusters[1]}


def semppl(**changes) -> Arm:
    return Arm("semppl", changes)


def ifnd(**changes) -> Arm:
    return Arm("ifnd", changes)


def carp(**changes) -> Arm:
    return Arm("carp", changes)


INFONCE, ELIMINATE = {"acceptance": (0.0, 0.0)}, {"oracle": True}
FLIP, SUPERVISED = functools.partial(change.with_, change.Flipped), {"supervised": True, "read": classifier}
ARMS = {
    "semppl": Arm(by_epoch=True),
    "augmentation-only": semppl(semantic_positives=0),
    "frozen": Arm(kind=change.Frozen),
    "4-views": semppl(large_views=4),
    "4-views-one-vote": semppl(large_views=4, voting_views=1),
    "4-views-one-asks": Arm("semppl", {"large_views": 4}, change.OneView),
    "k=5": semppl(k=5),
    "k=20": semppl(k=20),
    "flips=0.1": Arm(kind=FLIP(share=0.1)),
    "flips=0.2": Arm(kind=FLIP(share=0.2)),
    "flips=0.4": Arm(kind=FLIP(share=0.4)),
    "oracle": semppl(oracle=True),
    "byol": Arm("semppl", {"semantic_positives": 0}, change.BYOLLike),
    "byol-semantic": Arm(kind=change.BYOLLike),
    "simclr": Arm("semppl", {"semantic_positives": 0}, change.SimCLRLike),
    "simclr-semantic": Arm(kind=change.SimCLRLike),
    "labels-x0.2": Arm(labels=0.2),
    "labels-x5": Arm(labels=5),
    "labels-x15": Arm(labels=15),
    "supervised-x0.2": Arm(labels=0.2, **SUPERVISED),
    "supervised": Arm(**SUPERVISED),
    "supervised-x5": Arm(labels=5, **SUPERVISED),
    "supervised-x15": Arm(labels=15, **SUPERVISED),
    "textures-mask=0": Arm("semppl", {"mask_p": 0.0}, images=change.textured),
    "textures-mask=0.1": Arm("semppl", {"mask_p": 0.1}, images=change.textured),
    "textures-mask=0.5": Arm("semppl", {"mask_p": 0.5}, images=change.textured),
    "positives=1": semppl(semantic_positives=1),
    "queue=128": semppl(queue=128),
    "negatives=10": semppl(negatives=10),
    "negatives=127": semppl(negatives=127),
    "ifnd": ifnd(),
    "ifnd-attract": ifnd(false_negatives="attract"),
    "infonce": ifnd(**INFONCE),
    "oracle-eliminate": ifnd(**ELIMINATE),
    "oracle-attract": ifnd(**ELIMINATE, false_negatives="attract"),
    "infonce-5-classes": Arm("ifnd", INFONCE, images=change.five_classes),
    "oracle-eliminate-5-classes": Arm("ifnd", ELIMINATE, images=change.five_classes),
    "infonce-2-classes": Arm("ifnd", INFONCE, images=change.two_classes),
    "oracle-eliminate-2-classes": Arm("ifnd", ELIMINATE, images=change.two_classes),
    "ifnd-fixed-rate": ifnd(acceptance=(0.5, 0.5)),
    "ifnd-one-level": ifnd(clusters=(30,)),
    "carp": Arm("carp", read=teacher_and_student),
    "carp-one-block": carp(block=1024),
    "carp-block=4": carp(block=4),
    "carp-fixed": Arm("carp", kind=change.FixedPartitions),
}

# ---- runs ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(2)
def images_for(on: str, labels: int, seed: int, images: Callable) -> s.Data:
    return images(s.load_data(on, labels, seed, val=SETTINGS[on].val))


@functools.cache
def digest_of(on: str, images: Callable) -> str:
    return sweep.images_of(images_for(on, SETTINGS[on].presets["semppl"].labels, 0, images))


def config_of(arm: Arm, on: str, seed: int) -> s.Config:
    """Of supervised-only, `tuning` makes another one of it, in `prepared`."""
    config = SETTINGS[on].presets[arm.method]
    config = config.replace(labels=round(arm.labels * config.labels), label_seed=seed, seed=seed)
    return config.replace(**{"epochs": SETTINGS[on].epochs, **arm.changes})


def prepared(arm: Arm, on: str, seed: int) -> tuple[s.Config, s.Data]:
    config = config_of(arm, on, seed)
    data = images_for(on, config.labels, seed, arm.images)
    return tuning(config, data, SETTINGS[on].steps) if arm.supervised else config, data


def train(name: str, on: str, seed: int) -> dict:
    """One run, and what is kept of it."""
    arm, start, made_by = ARMS[name], time.process_time(), software()  # the commit of the code as it is now
    (config, data), by_epoch = prepared(arm, on, seed), []
    bank, val = data.train.labelled(), data.val

    def look(run: s.Run, record: dict) -> None:
        features = [run.method.encode(images) for images in (bank, val)]
        by_epoch.append(s.knn_accuracy(features[0], bank.labels, features[1], val.truth))

    run = sweep.whole_run(config, data, [look] if arm.by_epoch else [], arm.kind)
    read = s.evaluate(run.method.encoder, config, data, "val") | arm.read(run, data)
    votes = [record.get("pseudo_label_accuracy") for record in run.history]
    return {
        "arm": name, "class": class_of(config, arm.kind).__name__, "data": data.provenance,
        "images": digest_of(on, arm.images), "config": config.to_dict(), "read": read,
        "pseudo_label_accuracy": votes, "knn20_by_epoch": by_epoch, "last": run.history[-1],
        "cpu_seconds": time.process_time() - start, "software": made_by,
    }  # fmt: skip


def is_kept(path: Path, name: str, on: str, seed: int) -> bool:
    """Whether the file is of this arm as it is now; if it is of another, a line says so."""
    if not path.exists():
        return False
    arm = ARMS[name]
    config = prepared(arm, on, seed)[0]
    try:
        run = json.loads(path.read_text())
        same = run["class"] == class_of(config, arm.kind).__name__ and run["images"] == digest_of(on, arm.images)
        same = same and s.Config.from_dict(run["config"]).to_dict() == config.to_dict() and "read" in run
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        print(f"{path.name} is of another arm, or damaged: this run is done again.", flush=True)
    return same


def run_missing(runs: list[tuple], folder=RESULTS) -> None:
    """Train (arm, data, seed) where there is no file yet; one that another process left meanwhile counts."""
    folder = make_folder(folder)
    for i, (name, on, seed) in enumerate(runs):
        path = folder / f"{on}-{name}-seed={seed}.json"
        if not is_kept(path, name, on, seed):
            write_json(path, result := train(name, on, seed))
            done = f"{result['cpu_seconds']:.0f} s of a core, linear {result['read']['linear']:.1%}"
            print(f"{i + 1}/{len(runs)} {path.stem}: {done}", flush=True)
