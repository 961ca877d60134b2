"""Linear evaluation and few-label fine-tuning by the papers' protocols: a grid of rates and epochs, chosen on held-out
training images; the test images are read once, by the chosen one.

    torchrun --nproc-per-node 8 scale/evaluate.py runs/semppl --on linear --data IMAGENET --name linear
    torchrun --nproc-per-node 8 scale/evaluate.py runs/semppl --on finetune --data IMAGENET --label-list 1percent.txt
        --name tuned

Each point of the grid is a run of `fit` in a folder of its own, RUNS/NAME-RATE-EPOCHS, all processes sharing every
batch; the same command goes on where it stopped. RATE is what the optimizer takes with the protocol's batch; a
smaller batch, of fewer images, takes as much less.
"""

from pathlib import Path

from encoders import top
from imagenet import load_imagenet

import semppl_mini as s
from semppl_mini import parallel
from semppl_mini.keeping import runs_dir
from semppl_mini.keeping.run import ARCHITECTURE
from semppl_mini.method import encode

# Crops, flips, Nesterov SGD unless said, cosine, no decay: `presets.imagenet_linear`, all protocols. From memory: all
# of BYOL's, and MoCo v2's rate; theirs are steps by ten after 60 and 80 epochs, ours a cosine
PROTOCOLS = {
    ("linear", "semppl"): {"rates": (1.2,), "epochs": (100,), "batch": 1024},  # [official code]
    ("linear", "byol"): {"rates": (0.05, 0.1, 0.2, 0.3, 0.4), "epochs": (80,), "batch": 1024},
    ("linear", "ifnd"): {"rates": (30.0,), "epochs": (100,), "batch": 256},  # [MoCo v2], on which it builds
    ("linear", "carp"): {"rates": (1.0,), "epochs": (100,), "batch": 2048, "optimizer": "lars"},  # [official code]
    ("finetune", "semppl"): {"rates": (0.005, 0.01, 0.02, 0.05, 0.1), "epochs": (30, 50), "batch": 1024},  # [BYOL]
}


def read(run: s.Run, told: dict, on: str, args) -> dict:
    """What came of every point of the grid, and of the best on the test images."""
    if (on, args.protocol) not in PROTOCOLS:
        others = ", ".join(paper for what, paper in PROTOCOLS if what == on)
        raise ValueError(f"--protocol {args.protocol} has no {on} evaluation of its own; give one of {others}.")
    protocol = PROTOCOLS[on, args.protocol] | {name: getattr(args, name) for name in ("rates", "epochs", "batch")
                                               if getattr(args, name)}  # fmt: skip
    data = data_of(args, run.config.label_seed)
    grid = [(rate, epochs) for rate in protocol["rates"] for epochs in protocol["epochs"]]
    if len(grid) > 1 and not len(data.val):
        raise ValueError(f"{args.data} holds out no training image to choose one of {len(grid)} settings by; give "
                         "--val, or one rate and one number of epochs.")  # fmt: skip
    if not len(data.test):
        raise ValueError(f"{args.data} has no test images to read out on; add them.")
    tried, best = [], None
    for rate, epochs in grid:
        config = config_of(run, told, on, protocol, data).replace(lr=rate * 256 / protocol["batch"], epochs=epochs)
        config = config.replace(device=args.device or config.device)
        folder = runs_dir() / f"{args.name}-{rate:g}-{epochs}"
        fitted = s.fit(config, data, folder, weights=run.method.encoder, workers=args.workers, keep_last=1)
        val = score(fitted, data.val, args.workers)["top1"] if len(data.val) else None
        tried.append({"rate": rate, "epochs": epochs, "val": val, "classifier": str(folder)})
        if not best or val > best[0]:  # of equals the first
            best = val, fitted, tried[-1]
    told = {"protocol": args.protocol, "labelled": len(data.train.labelled()), "held_out": len(data.val)}
    test = score(best[1], data.test, args.workers)
    return told | {"batch": config.batch_size, "tried": tried, "chosen": best[2], "test": test}


def data_of(args, label_seed: int) -> s.Data:
    """A pack, or ImageNet in a folder, with the labels that are asked for."""
    labels = {"labels": args.labels, "label_list": args.label_list, "label_seed": label_seed, "val": args.val}
    return load_imagenet(args.data, **labels) if Path(args.data).is_dir() else s.load_data(args.data, **labels)


def config_of(run: s.Run, told: dict, on: str, protocol: dict, data: s.Data) -> s.Config:
    preset = {"linear": s.presets.imagenet_linear, "finetune": s.presets.imagenet_finetune_1pct}[on]()
    same = {name: getattr(run.config, name) for name in (*ARCHITECTURE, "mean", "std", "seed", "precision")}
    batch = min(protocol["batch"], len(data.train.labelled())) // parallel.size() * parallel.size()
    own = {"labels": None, "large_size": told["size"][0], "optimizer": protocol.get("optimizer", "sgd")}
    return preset.replace(**same, **own, batch_size=batch)


def score(run: s.Run, images, workers: int) -> dict:
    """Of a fitted classifier on images of known class."""
    known = images.take((images.truth >= 0).nonzero().squeeze(1))
    return top(encode(run.method.model, known, run.config, 64, workers, together=True), known.truth)
