"""The embedding explorer: a film (film.py) and its images as one page of HTML that needs no kernel and no network.

Hover shows an image, a click its votes, neighbours and semantic positives, a slider goes through the training. The
same page (explorer.html) is the book's, and stands in a frame in notebooks: ipywidgets alone knows of no hovering.
"""

import base64
import html
import io
import json
from pathlib import Path

import film as films
import numpy as np
import torch
from IPython.display import display
from ipywidgets import HTML
from matplotlib.patheffects import withStroke
from PIL import Image

import semppl_mini as s
from semppl_mini.show.plots import CENTRED, CLASSES, COLOUR, figure, grid

TILE, COLUMNS = 32, 25  # pixels of an image's side, and images in a row, of the sheet that has all of them
NAME = CENTRED | {"weight": "bold", "zorder": 4, "path_effects": [withStroke(linewidth=3, foreground="white")]}


def fits(film: dict, data) -> bool:
    """Is the film of these very images and labels?"""
    if film["data"] != data.provenance or len(films.held_out(data)) <= max(film["rows"]):
        return False
    own = films.held_out(data).truth[film["rows"]].tolist(), data.train.labelled().labels.tolist()
    return own == (film["truth"], film["labels"])


def film_for(run, data) -> dict:
    """The kept film of a run of these settings, images and labels; where there is none, one of its folder, in a minute
    or two. ValueError: it has no folder."""
    for path in sorted(films.FILMS.glob("*.json")):
        if fits(kept := films.load(path.stem), data) and s.Config.from_dict(kept["config"]) == run.config:
            return kept
    if run.folder is None:
        raise ValueError("No film is kept of a run of these settings, images and labels; train it with a folder.")
    return films.of(run.folder, data)


def sheet(film: dict, data) -> str:
    """The images of a film, then the labelled ones, row by row in one JPEG, as an address that holds it."""
    tiles = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((TILE, TILE), Image.Resampling.BILINEAR))
             for images, rows in ((films.held_out(data), torch.tensor(film["rows"])),
                                  (data.train.labelled(), slice(None)))
             for image in images.whole(torch.arange(len(images))[rows], 2 * TILE)]  # fmt: skip
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    whole = np.concatenate([np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)])
    Image.fromarray(whole).save(file := io.BytesIO(), "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def page(film: dict, data) -> str:
    """The explorer as HTML, data, images and script in it. ValueError: the film is of other images."""
    if not fits(film, data):
        raise ValueError(f"The film is of other images or labels than {data.provenance}; give the data of its run.")
    told = film | {"sheet": sheet(film, data), "columns": COLUMNS, "colours": CLASSES, "pick": example(film)}
    text = json.dumps(told, separators=(",", ":")).replace("</", r"<\/")
    return Path(__file__).with_name("explorer.html").read_text(encoding="utf-8").replace("FILM", text)


def example(film: dict) -> int:
    """An image to begin with: its first votes disagree and its last ones, of several images, are right."""
    first, end = film["moments"][0], film["moments"][-1]
    names, truth = np.array(film["labels"]), film["truth"]
    for i, voters in enumerate(end.get("voters", [])):
        early = set(names[first["voters"][i]]) if "voters" in first else {0, 1, 2}
        if set(names[voters]) == {truth[i]} and len(set(voters)) > 2 and len(early) > 2:
            return i
    return 0


def explore(film: dict, data, height: int = 700):
    """A widget, the page in a frame. Still: up to three moments, and the votes on one image."""
    display(still(film))
    look = f"width: 100%; height: {height}px; border: 0"
    return HTML(f'<iframe title="explorer" srcdoc="{html.escape(page(film, data))}" style="{look}"></iframe>')


def middles(xy, y) -> dict:
    """{class: its middle (2,)} of those whose dots xy (n, 2) lie together: far nearer to it than all to theirs."""
    def far(dots):
        return np.median(np.linalg.norm(dots - np.median(dots, 0), axis=1))

    return {int(c): np.median(xy[y == c], 0) for c in np.unique(y) if far(xy[y == c]) < 0.42 * far(xy)}


@figure
def still(film: dict):
    """Maps of the first, an early and the last moment, of these the ones with votes, if any has; labelled images with a
    ring, and lines from one image to those that vote on it."""
    moments, n, i = film["moments"], len(film["truth"]), example(film)
    y = np.array(film["truth"] + film["labels"])
    seen = next((t for t, moment in enumerate(moments) if moment["knn"] > 0.5), 1)
    shown = [moments[0], moments[min(seen, len(moments) - 1)], moments[-1]]
    shown = [moment for moment in shown if "voters" in moment] or shown
    fig, axes = grid(len(shown), 3, 3.2, 3.5)
    for ax, moment in zip(axes, shown, strict=True):
        xy, colours = np.array(moment["xy"]), np.array(CLASSES)[y % len(CLASSES)]
        ax.scatter(*xy[:n].T, s=7, c=colours[:n], lw=0)
        ax.scatter(*xy[n:].T, s=14, c=colours[n:], lw=0.8, edgecolors="#222222")
        for j in moment.get("voters", [[]] * n)[i]:
            ax.plot(*xy[[i, n + j]].T, color=COLOUR[film["labels"][j] == y[i]], lw=1.4)
        ax.plot(*xy[i], "o", ms=7, color=colours[i], mec="black", mew=1.6)
        for c, middle in middles(xy, y).items():
            ax.text(*middle, film["classes"][c], **NAME)
        ax.set(title=f"epoch {moment['epoch']:g}: k-NN {moment['knn']:.1%}", xticks=[], yticks=[], aspect="equal")
        ax.set(xlim=(-20, 1020), ylim=(1020, -20))
    return fig
