"""Draw the embedding coming apart: `python docs/film_picture.py` writes docs/figures/film.svg, a film that loops.

Its places and numbers are those of notebooks/films/digits.json. Dots flow through all moments (Catmull-Rom), each
moment for one beat; where nothing moves (no SMIL) the picture is that of the last one.
"""

import sys
from pathlib import Path

import numpy as np
from method_picture import text

from semppl_mini.show.plots import CLASSES, COLOUR, FAINT, LINES

sys.path.append(str(Path(__file__).resolve().parents[1] / "notebooks"))
import explorer  # noqa: E402
import film as films  # noqa: E402

WIDTH, HEIGHT, MAP, SIDE = 860, 472, 456, 516  # pixels; the map's side; where what stands beside it begins
BEAT, FIRST, LAST, PARTS = 0.55, 2, 6, 2  # seconds; beats that the ends stay; values a beat


def flow(values: np.ndarray) -> np.ndarray:
    """Values (m, ...) of m moments -> PARTS a beat, between the moments by Catmull-Rom, held at both ends."""
    padded = np.concatenate([values[:1], values, values[-1:]]).astype(float)
    between = []
    for before, a, b, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.arange(PARTS) / PARTS:
            bend = (2 * before - 5 * a + 4 * b - after) * t**2 + (3 * a - before - 3 * b + after) * t**3
            between.append(a + ((b - before) * t + bend) / 2)
    ends = np.repeat(values[:1], FIRST * PARTS, 0), np.repeat(values[-1:], LAST * PARTS + 1, 0)
    return np.concatenate([ends[0], np.stack(between), ends[1]])


def animate(name: str, values, form: str = ".0f") -> str:
    """An attribute through the film; equal neighbours are written as they are, time is even."""
    listed = ";".join(f"{x:{form}}" for x in values)
    length = BEAT * (len(values) - 1) / PARTS
    return f'<animate attributeName="{name}" values="{listed}" dur="{length:g}s" repeatCount="indefinite"/>'


def dot(xy: np.ndarray, colour: str, ring: bool) -> str:
    """A dot on its way xy (frames, 2)."""
    edge = ' stroke="#222" stroke-width="3"' if ring else ""
    place = "{:.0f}\" cy=\"{:.0f}".format(*xy[-1])
    moved = animate("cx", xy[:, 0]) + animate("cy", xy[:, 1])
    return f'<circle cx="{place}" r="{9 if ring else 7}" fill="{colour}"{edge}>{moved}</circle>'


def name(words: str, xy: np.ndarray, seen: np.ndarray) -> str:
    """A class's name on its way, seen where its dots lie together."""
    place = "{:.0f}\" y=\"{:.0f}".format(*xy[-1])
    look = 'font-size="42" font-weight="bold" text-anchor="middle" dy="14" stroke="white" stroke-width="10"'
    moved = animate("x", xy[:, 0]) + animate("y", xy[:, 1]) + animate("opacity", seen, ".2g")
    return (f'<text x="{place}" opacity="{seen[-1]:.2g}" {look} paint-order="stroke" stroke-linejoin="round">{words}'
            f"{moved}</text>")  # fmt: skip


def told(moments: list[dict]) -> str:
    """Epoch and accuracy, one pair of words a moment."""
    out, frames = "", flow(np.arange(len(moments))).round().astype(int)
    for i, moment in enumerate(moments):
        shown = ";".join("visible" if frame == i else "hidden" for frame in frames)
        length = BEAT * (len(frames) - 1) / PARTS
        change = f'<animate attributeName="visibility" values="{shown}" dur="{length:g}s" calcMode="discrete" '
        change += 'repeatCount="indefinite"/>'
        words = text(SIDE, 62, f"epoch {moment['epoch']:g}", 34, "start", weight="bold")
        words += text(SIDE, 104, f"k-NN accuracy {moment['knn']:.1%}", 26, "start", LINES[0], "bold")
        out += f'<g visibility="{"hidden" if moment is not moments[-1] else "visible"}">{change}{words}</g>'
    return out


def curve(moments: list[dict]) -> str:
    """k-NN accuracy against epoch, and a dot that says where the film is."""
    epochs, knn = (np.array([moment[key] for moment in moments]) for key in ("epoch", "knn"))
    left, right, low, high = SIDE + 2, WIDTH - 66, 290, 150
    x, y = left + (right - left) * epochs / epochs[-1], low - (low - high) * knn
    out = "".join(f'<path d="M{left},{h}H{right}" stroke="{FAINT}"/>' for h in (low, (low + high) / 2, high))
    out += "".join(text(right + 8, h + 5, words, 13, "start", "#767676") for h, words in ((low, "0%"), (220, "50%")))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    out += f'<polyline points="{points}" fill="none" stroke="{LINES[0]}" stroke-width="2.5" stroke-linejoin="round"/>'
    out += text(left, low + 20, "epoch 0", 13, "start", "#767676")
    out += text(right, low + 20, f"{epochs[-1]:g}", 13, "end", "#767676")
    out += text(right + 8, y[-1] + 5, f"{knn[-1]:.1%}", 16, "start", LINES[0], "bold")
    moved = animate("cx", flow(x), ".1f") + animate("cy", flow(y), ".1f")
    return out + f'<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="6" fill="{LINES[0]}" stroke="white">{moved}</circle>'


def legend(lines: dict[str, bool]) -> str:
    """A line of words each, with a dot before it, in a ring or not."""
    out = ""
    for i, (words, ring) in enumerate(lines.items()):
        edge = ' stroke="#222" stroke-width="1.4"' if ring else ""
        out += f'<circle cx="{SIDE + 6}" cy="{364 + 26 * i}" r="{5 if ring else 4}" fill="{CLASSES[0]}"{edge}/>'
        out += text(SIDE + 20, 369 + 26 * i, words, 15, "start")
    return out


def draw(film: dict) -> str:
    moments, n, y = film["moments"], len(film["truth"]), np.array(film["truth"] + film["labels"])
    xy = np.array([moment["xy"] for moment in moments], float)  # (m, images, 2)
    ways, dots = flow(xy), []
    for i, label in enumerate(y):
        dots.append(dot(ways[:, i], CLASSES[label], i >= n))
    for c, words in enumerate(film["classes"]):
        middle = np.stack([np.median(places[y == c], 0) for places in xy])
        seen = np.array([float(c in explorer.middles(places, y)) for places in xy])
        dots.append(name(words, flow(middle), flow(seen).clip(0, 1)))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    look = f'role="img" font-family="sans-serif" fill="{COLOUR[None]}"'
    lines = {f"{n} validation images, coloured by true class": False, f"the {len(y) - n} labelled images": True}
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>', "<title>The embedding comes apart</title>",
        f"<desc>A map of the embedding through the training: {' and '.join(lines)}. k-NN accuracy of these "
        f"rises from {moments[0]['knn']:.1%} to {moments[-1]['knn']:.1%}.</desc>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<g transform="translate(10 8) scale({MAP / 1000})">', *dots, "</g>",
        told(moments), curve(moments), legend(lines), "</svg>\n"])  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures" / "film.svg"
    target.write_text(draw(films.load("digits")), encoding="utf-8", newline="\n")
