"""The film of a run: where its images lie in a map of the embedding, moment by moment, as one small JSON file.

    python notebooks/film.py runs/mine --data digits --name digits --epochs 0 1 2 4 8 24

RUN is a folder whose checkpoints (all of them: `fit(..., save_every=7, keep_last=1000)`) or encoders (`keep_encoders`)
were kept; the epochs default to all that are there. Maps of neighbouring moments are laid out together (AlignedUMAP),
so that a point moves as its neighbourhood changes. The file holds no image: pictures are drawn of it beside the data
(explorer.py, docs/film_picture.py). Coordinates are whole numbers from 0 to 1000, y downwards.
"""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import torch

import semppl_mini as s
from semppl_mini.batches import Batches
from semppl_mini.files import checkpoint, make_folder, write_whole
from semppl_mini.keeping.command import Parser, command
from semppl_mini.method import Method, encode
from semppl_mini.readout import inspect, untrained_encoder
from semppl_mini.rng import EVALUATION, generator

FILMS = Path(__file__).parent / "films"


def load(name: str) -> dict:
    """A kept film. ValueError: there is none of that name."""
    path = FILMS / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in FILMS.glob("*.json")))
        raise ValueError(f"There is no film {name!r}; choose one of {there}.")
    return json.loads(path.read_text())


def moments_of(folder) -> dict:
    """{epoch: path} of every checkpoint and encoder in a run's folder; of both at one epoch, the checkpoint."""
    run, steps = s.load_run(folder), {int(path.stem[-8:]): path for path in Path(folder).glob("checkpoint-*.pt")}
    each = max(1, max(steps) - len(run.unfinished)) / max(1, len(run.history) - 1)  # steps of an epoch
    paths = {float(path.stem[-4:]): path for path in Path(folder).glob("encoder-*.pt")}
    return dict(sorted((paths | {step / each: path for step, path in steps.items()}).items()))


def network_at(path: Path, config, data):
    """The whole method of a checkpoint, or the encoder alone."""
    if path.name.startswith("checkpoint"):
        return s.load_run(path).method
    encoder = untrained_encoder(config, data).cpu()
    encoder.load_state_dict(checkpoint.load(path))
    return encoder


def held_out(data):
    """The validation images; of a set without any the test images, of which nothing may then be chosen by a film."""
    return data.val if len(data.val) else data.test


def make(moments, config, data, shown: int = 400) -> dict:
    """moments: pairs (epoch, Method or encoder) -> the film of `shown` held-out images among the labelled (the bank).

    Of each moment: "knn", k-NN accuracy on all that are held out; "xy", the shown ones and then the bank; of a SemPPL
    method also its votes on the shown ones: "y_bar", "voters" and "positives", the latter two as places in the bank.
    """
    bank, held, rng = data.train.labelled(), held_out(data), generator(0, 0, EVALUATION)
    rows = torch.randperm(len(held), generator=rng)[:shown].sort().values
    asked, features, told = held.take(rows), [], []
    for epoch, network in moments:
        encoder = network.encoder if isinstance(network, Method) else network
        x, q = encode(encoder, bank.images, config), encode(encoder, held.images, config)
        knn = s.knn_accuracy(x, bank.labels, q, held.truth, min(20, len(bank)))
        features.append(torch.cat([q[rows], x]))
        told.append({"epoch": round(epoch, 2), "knn": round(knn, 4)})
        if isinstance(network, s.SemPPL):
            told[-1] |= votes(filled(network, data), asked, bank)
    for moment, xy in zip(told, layout(features), strict=True):
        moment["xy"] = xy.tolist()
    return {"data": data.provenance, "classes": list(data.classes), "rows": rows.tolist(),
            "truth": asked.truth.tolist(), "labels": bank.labels.tolist(), "moments": told}  # fmt: skip


def filled(method, data):
    """A method whose queues hold entries: before the first step they are filled as `fit` does for its record 0."""
    if not int(method.queue.filled):
        batches, B = Batches(method.config, data.train, method.draw), method.config.batch_size
        labelled = (data.train.labels >= 0).nonzero().squeeze(1)
        for index in labelled[torch.arange(-(-method.config.queue // B) * B) % len(labelled)].split(B):
            method.warm(*batches.place(batches.prepare(0, index))[:2])
    return method


def votes(method, asked, bank) -> dict:
    """What `inspect` says of images, queue entries being places in the bank: of k voters the nearest."""
    report, place = inspect(method, asked), {int(id_): i for i, id_ in enumerate(bank.ids)}
    voters = [[place[id_] for id_ in ids] for ids in report["neighbour_ids"][:, :, 0].tolist()]
    positives = [[place[id_] for id_ in ids] if ok else []
                 for ids, ok in zip(report["positive_ids"].tolist(), report["valid"], strict=True)]  # fmt: skip
    return {"y_bar": report["y_bar"].tolist(), "voters": voters, "positives": positives}


def layout(features: list, seed: int = 0) -> np.ndarray:
    """Features (n, dim) of each of m moments -> places (m, n, 2), whole numbers in one box for all."""
    from umap import AlignedUMAP

    same = {i: i for i in range(len(features[0]))}
    x = [torch.nn.functional.normalize(f, dim=1).numpy() for f in features]
    umap = AlignedUMAP(metric="cosine", random_state=seed, alignment_regularisation=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        xy = np.stack(umap.fit(x, relations=[same] * (len(x) - 1)).embeddings_)
    low, high = xy.min((0, 1)), xy.max((0, 1))
    return (1000 * (xy - low) / (high - low)).round().astype(int)


def of(folder, data, epochs=None, shown: int = 400) -> dict:
    """The film of a run's folder, of some epochs or all that it kept. ValueError: an epoch that is not there."""
    config, paths = s.load_run(folder).config, moments_of(folder)
    there = ", ".join(f"{epoch:g}" for epoch in paths)
    for epoch in epochs or ():
        if epoch not in paths:
            raise ValueError(f"{folder} kept nothing of epoch {epoch:g}; choose of {there}.")
    if len(epochs or paths) < 2:
        raise ValueError(f"A film needs two moments or more, and {folder} kept {there}; give two epochs of these.")
    return make(((epoch, network_at(paths[epoch], config, data)) for epoch in epochs or paths), config, data, shown)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--data", required=True, help="a pack, by name or path: the one it was trained on")
    parser.add_argument("--name", required=True, help="of the film")
    parser.add_argument("--epochs", type=float, nargs="+", help="which moments (default: all)")
    parser.add_argument("--shown", type=int, default=400, help="how many held-out images")
    parser.add_argument("--out", type=Path, default=FILMS, help="folder of the JSON file")
    args = parser.parse_args()
    parser.whole("--shown", args.shown, 1)
    config = s.load_run(args.run).config
    film = of(args.run, s.data_for(config, args.data), args.epochs, args.shown)
    film = {"name": args.name, "config": config.to_dict()} | film
    text = re.sub(r', (?="\w+":)', ",\n", json.dumps(film)) + "\n"  # a line a field
    write_whole(make_folder(args.out) / f"{args.name}.json", lambda file: file.write(text.encode()))


if __name__ == "__main__":
    command(main, "notebooks/film.py")
