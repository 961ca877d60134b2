"""Minutes of training to a few-label accuracy: one run of a recipe, one JSON file.

    python benchmarks/speedrun.py                                   the preset cifar10_cpu as it is
    python benchmarks/speedrun.py epochs=4 tau=0.1 --seeds 0 1 2    with changes, seed after seed
    python benchmarks/speedrun.py method=finetune labelled_share=None large_views=1 epochs=700   supervised-only

Few-label accuracy: logistic regression on the frozen features of the labelled images, read out on the validation
images, of which training sees nothing; the test images are not touched. Minutes: the sum of all training steps, views
included, read-outs left out. They depend on the machine and on what else it does, so a file says processor, threads
and steps a second; compare minutes of quiet machines only. A stopped run goes on; a finished one is only read.
"""

import json
from pathlib import Path

from timing import hardware

import semppl_mini as s
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping import runs_dir
from semppl_mini.keeping.command import Parser, command, override
from semppl_mini.keeping.run import software
from semppl_mini.readout import classifier_accuracy

ROOT = Path(__file__).resolve().parents[1]


def speedrun(name: str, config, data: s.Data, folder: Path, method=None, own=None, **more) -> dict:
    """Train (or go on), read out on validation images, write folder/NAME.json; a file that is there is read.

    method: a class to train instead of the config's; own: function of (run, data) that adds read-outs of its own.
    """
    path = make_folder(folder) / f"{name}.json"
    if path.exists():
        result = json.loads(path.read_text())
        if s.Config.from_dict(result["config"]) != config:
            raise ValueError(f"{path} is of other settings; give --name another name, or --out another folder.")
        return result

    def look(run, record: dict) -> None:
        shown = {key: record.get(key) for key in ("epoch", "loss", "pseudo_label_accuracy", "purity", "seconds")}
        print(name, json.dumps(shown), flush=True)

    run = s.fit(config, data, make_folder(runs_dir() / "speedrun" / name), [look], progress=False, method=method)
    read = s.evaluate(run.method.encoder, config, data, "val", **more) | (own(run, data) if own else {})
    if run.method.labelled_only:
        read["classifier"] = classifier_accuracy(run.method.model, data.val, config)
    seconds = sum(record["seconds"] for record in run.history[1:])
    result = {"name": name, "data": data.provenance, "config": config.to_dict(), "seconds": seconds, "read": read}
    result |= {"history": run.history, "hardware": hardware(), "software": software()}
    write_json(path, result)
    return result


def main(method=None, of=lambda data: data, own=None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("changes", nargs="*", help="field=value")
    parser.add_argument("--preset", default="cifar10_cpu")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--name", help="of the files; by default preset and changes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--tune-steps", type=int, default=0, help="fine-tune, too, for so many steps")
    parser.add_argument("--all-labels", action="store_true", help="and once with all labels in the read-out")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "speedruns")
    chosen = parser.parse_intermixed_args()  # field=value may stand anywhere
    if any(change.startswith("seed=") for change in chosen.changes):
        parser.error("seed= is not for the changes; give --seeds 1 2")
    config = s.presets.named(chosen.preset).replace(**dict(map(override, chosen.changes)))
    words = [method.__name__.lower() if method else chosen.preset, *chosen.changes]
    name, data = chosen.name or "-".join(words).replace("/", "_"), of(s.data_for(config, chosen.data))
    for seed in chosen.seeds:
        result = speedrun(f"{name}-seed{seed}", config.replace(seed=seed), data, chosen.out, method, own,
                          tune_steps=chosen.tune_steps, all_labels=chosen.all_labels)  # fmt: skip
        print(result["name"], f"{result['seconds'] / 60:.1f} min", json.dumps(result["read"]), flush=True)


if __name__ == "__main__":
    command(main, "speedrun")
