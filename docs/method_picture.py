"""Draw the method in one picture: `python docs/method_picture.py` writes docs/figures/method.svg.

The thumbnails are images of the embedded digits and true views of the first; the rest is a sketch with L = 2 large
views, V = 1 small one, k = 1, R = 3. Blue is what the gradient trains, grey the target; a slot's colour is its class.
"""

import base64
import io
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image

from semppl_mini import load_data, plots, presets, views
from semppl_mini.rng import VIEWS, generator

WIDTH, HEIGHT = 1000, 440
TEXT, BLUE, PUSH, PULL, GREY, PALE = plots.COLOUR[None], *plots.LINES[:3], "#767676", "#e5f1f8"
BATCH = {66: None, 316: 9, 8: None, 240: 4, 4: None}  # training images, and their labels where they are visible
SLOTS = [4, 1, 9, 1, 4, 9, 1, 4, 9, 1, 1, 4, 9, 1, 9, 4]  # labels in the queues; the batch's have just come in
NEAREST = [[4, 7], [7, 12]]  # of each queue, the slot nearest to o_1 and the one nearest to o_2
MINE = 4  # the pseudo-label by these four votes
COLUMNS = (586, 624)  # where o_1 and o_2 go down to the queues

STORY = """Views of a batch pass the online network, which gives predictions o; large views also pass the target
network, its moving average without a gradient, which gives t. The t of labelled images wait in queues, one a large
view. Every o of a large view asks every queue for its nearest neighbours; the majority of these votes is the image's
pseudo-label, and queue entries with that label become its semantic positives z. The loss pulls o to the t of the same
image and to z, and pushes it from the t of N other images; an invariance penalty makes two views compare alike. The
gradient improves the online network, this the votes, and these the positives."""


def text(x, y, words, size=14, anchor="middle", fill=TEXT, weight="normal") -> str:
    """Words on a baseline. Between dollar signs they are maths, in italic serif, and _ begins a subscript."""
    spans, low = "", 0
    for i, part in enumerate(words.split("$")):
        for n, piece in enumerate(re.split(r"_(\w+)", part)):
            if piece:
                font = f' font-family="serif" font-size="{13 if n % 2 else size + 3}"' if i % 2 else ""
                font += ' font-style="italic"' if i % 2 and not (n % 2 and len(piece) > 2) else ""
                spans += f'<tspan dy="{4 * (n % 2) - low}"{font}>{escape(piece)}</tspan>'
                low = 4 * (n % 2)
    font = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" fill="{fill}" {font}>{spans}</text>'


def box(x, y, width, height, fill="none", stroke="none", line=1.5, radius=6) -> str:
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"'
    return f'<rect {place} fill="{fill}" stroke="{stroke}" stroke-width="{line}"/>'


def disc(x, y, label, fill="white", stroke=GREY, radius=16, ink=TEXT) -> str:
    circle = f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
    return circle + text(x - 1, y + 5, label, fill=ink)


def chip(x, y, label, side=24) -> str:
    """A class: its colour and digit, centred at (x, y); a white square with "?" where the label is None."""
    fill, edge = ("white", GREY) if label is None else (plots.CLASSES[label], "none")
    ink = "white" if label in (0, 2, 4, 5, 8) else TEXT  # on the dark colours
    square = box(x - side / 2, y - side / 2, side, side, fill, edge, radius=4)
    return square + text(x, y + 5, "?" if label is None else str(label), fill=ink)


def line(points, colour=TEXT, width=1.5, head="arrow") -> str:
    """A line through the points, its corners round; the head is an "arrow", a "bar" or None."""
    *points, tip = (np.array(point, float) for point in points)
    size, along = 4 + 2 * width, (tip - points[-1]) / np.linalg.norm(tip - points[-1])
    across, back = np.array([-along[1], along[0]]), tip - size * along
    path, points = "M{:g},{:g}".format(*points[0]), [*points, back if head == "arrow" else tip]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = (corner + 8 * (p - corner) / np.linalg.norm(p - corner) for p in (before, after))
        path += "L{:g},{:g}Q{:g},{:g} {:g},{:g}".format(*start, *corner, *end)
    path += "L{:.5g},{:.5g}".format(*points[-1])
    drawn = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
    if head == "bar":
        drawn += line([tip - 6 * across, tip + 6 * across], colour, width + 1, None)
    elif head == "arrow":
        corners = (tip, back + size / 2 * across, back - size / 2 * across)
        listed = " ".join("{:.5g},{:.5g}".format(*corner) for corner in corners)
        drawn += f'<polygon points="{listed}" fill="{colour}"/>'
    return drawn


def heading(x, y, number, words) -> str:
    """A step of the loop: its number in a blue disc, and its name."""
    return disc(x + 10, y - 5, str(number), BLUE, BLUE, 10, "white") + text(x + 27, y, words, 15, "start", BLUE, "bold")


def picture(x, y, side, pixels) -> str:
    """An image, uint8 (3, H, W), as an embedded PNG."""
    png = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(png, "PNG", optimize=True)
    data = f'href="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"'
    return f'<image x="{x}" y="{y}" width="{side}" height="{side}" style="image-rendering:pixelated" {data}/>'


def draw() -> str:
    config = presets.digits().replace(small_views=1)
    train = load_data("digits", config.labels, config.label_seed).train

    # The batch, and views of its first image.
    out = [text(16, 44, "batch", anchor="start"), text(126, 44, "views", anchor="start"), line([(89, 74), (124, 74)])]
    for row, (index, label) in enumerate(BATCH.items()):
        assert train.labels[index] == (-1 if label is None else label)
        out += [picture(16, 54 + 47 * row, 40, train.images[index]), chip(72, 74 + 47 * row, label)]
    first = train.take(torch.tensor(list(BATCH)[:1]))
    draws = views.draw_views(config, 1, generator(0, 8, VIEWS), *first.images.shape[2:])
    seen = views.make_views(first.images, draws, config, first.masks)
    for v, (y, side, size) in enumerate([(54, 54, "large"), (116, 54, "large"), (178, 36, "small")]):
        x = seen[v][0] * config.std[0] + config.mean[0]  # the same for all three colours
        out.append(picture(126, y, side, (x.clamp(0, 1) * 255).round().byte()))
        out.append(text(188, y + side / 2 - 2, f"$x_{v + 1}$", anchor="start"))
        out.append(text(188, y + side / 2 + 18, size, anchor="start"))
    out += [line([(234, 54), (234, 214)], head=None), line([(234, 92), (290, 92)]), line([(234, 202), (290, 202)])]
    out += [text(260, 84, "all"), text(260, 194, "large")]

    # The two networks.
    out += [box(292, 50, 232, 84, PALE, BLUE), heading(304, 72, 1, "online network")]
    out += [box(292, 160, 160, 84, "#f2f2f2", GREY), text(304, 181, "target network", 15, "start", GREY, "bold")]
    for x, name, part in [(335, "f", "encoder"), (409, "g", "projector"), (483, "h", "predictor")]:
        out += [text(x, 101, f"${name}$"), text(x, 124, part)]
        out += [text(x, 211, f"${name}_t$"), text(x, 234, part)] if name != "h" else []
    out += [line([(335, 134), (335, 158)], GREY), text(346, 152, "EMA, no gradient", anchor="start", fill=GREY)]
    out += [line([(524, 92), (568, 92)], BLUE, 3), line([(452, 202), (474, 202)], GREY)]

    # The t of labelled images wait in the queues; every o of a large view goes down to ask every queue.
    out += [box(476, 181, 82, 42, "white", GREY, radius=21), disc(498, 202, "$t_1$"), disc(536, 202, "$t_2$")]
    out += [line([(558, 202), (728, 202)], GREY), line([(517, 223), (517, 330)], GREY)]
    out += [text(508, 286, "if labelled,", anchor="end"), text(508, 304, "with its label", anchor="end")]
    for x in COLUMNS:
        out += [line([(x, 92), (x, 330)], "white", 9, None), line([(x, 92), (x, 376)], BLUE, 3, None)]
    out.append(line([(662, 92), (728, 92)], BLUE))
    out += [disc(x, 92, f"$o_{v + 1}$", PALE, BLUE) for v, x in enumerate((*COLUMNS, 662))]
    out.append(text(100, 322, "queues: target embeddings of labelled images", anchor="start"))
    for q, y in enumerate((344, 376)):
        out += [text(90, y + 5, f"$Q_{q + 1}$", anchor="end"), line([(532, y), (650, y)], GREY, head=None)]
        out += [box(99 + 27 * i, y - 13, 26, 26, "none", BLUE, 2.5) for i in NEAREST[q]]
        out += [chip(112 + 27 * i, y, label, 22) for i, label in enumerate(SLOTS)]
        out += [chip(x, y, SLOTS[i]) for x, i in zip(COLUMNS, NEAREST[q], strict=True)]

    # The majority of the votes, and the positives drawn by it.
    out += [heading(640, 262, 2, "votes"), text(640, 284, "$k$-NN in", anchor="start")]
    out += [text(640, 302, "each queue", anchor="start"), line([(650, 330), (650, 390)], BLUE, 3, None)]
    out += [line([(650, 360), (721, 360)], BLUE, 3), text(684, 351, "majority"), chip(742, 360, MINE, 38)]
    out += [text(742, 332, "pseudo-label $ȳ$"), text(742, 400, "(or $y$, if labelled)")]
    start, *others = (112 + 27 * i for i, label in enumerate(SLOTS) if label == MINE)
    out += [line([(x, 391), (x, 414)], plots.CLASSES[MINE], head=None) for x in others]
    out.append(line([(start, 391), (start, 414), (853, 414), (853, 374)], plots.CLASSES[MINE]))
    out.append(text(460, 431, "drawn from the entries with that label", fill=plots.CLASSES[MINE]))
    out += [line([(761, 360), (812, 360)], BLUE, 3), *(chip(x, 360, MINE) for x in (826, 853, 880))]
    out += [line([(853, 348), (853, 296)], BLUE, 3), text(900, 366, "$z_1 z_2 z_3$", anchor="start")]
    out += [heading(868, 322, 3, "semantic"), text(895, 340, "positives", 15, "start", BLUE, "bold")]

    # The loss, and the gradient that closes the loop.
    out += [box(730, 50, 254, 244, "white", BLUE), heading(742, 72, 4, "loss")]
    out += [line([(780, 106), (780, 148)], PULL, 2), line([(780, 106), (844, 156)], PULL, 2)]
    for y in (92, 124, 156):
        out += [line([(780, 106), (926, 106 + 0.88 * (y - 106))], PUSH, 2, "bar"), disc(946, y, "$t_j$", radius=13)]
    out += [disc(780, 106, "$o_i$", PALE, BLUE), disc(780, 166, "$t_j$"), chip(858, 166, MINE)]
    out += [text(798, 146, "pull", 13, fill=PULL), text(860, 92, "push", 13, fill=PUSH)]
    out += [text(779, 200, "same image", 13, fill=PULL), text(862, 200, "same label", 13, fill=PULL)]
    out += [text(945, 200, "$N$ others", 13, fill=PUSH), text(875, 172, "$z$", anchor="start")]
    out += [text(741, 225, "contrast", 13, "start"), text(976, 225, "$c (L_augm + α L_sempos)$", 13, "end")]
    out += [line([(731, 236), (983, 236)], plots.FAINT, head=None), text(741, 259, "invariance", 13, "start")]
    for left, heights in ((858, (16, 5, 9, 3)), (906, (14, 6, 8, 4))):
        bars = enumerate(heights)
        out += [box(left + 7 * n, 261 - h, 5, h, PUSH if n else PULL, radius=0) for n, h in bars]
    out += [text(854, 259, "$p_ij$", 13, "end"), text(895, 260, "≈", 16), text(938, 259, "$p_ji$", 13, "start")]
    out.append(text(976, 284, "$+ λ (I_augm + I_sempos)$", 13, "end"))
    out.append(line([(946, 50), (946, 31), (408, 31), (408, 48)], BLUE, 3))
    out.append(text(632, 21, "better embedding, better labels, better embedding", 15, "middle", BLUE, "bold"))
    out.append(text(946, 21, "gradient", anchor="end", fill=BLUE))

    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    top = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif" xml:space="preserve">'
    title = f"<title>SemPPL in one picture</title>\n<desc>{STORY}</desc>"
    return "\n".join([top, title, box(0, 0, WIDTH, HEIGHT, "white"), *out, "</svg>\n"])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures" / "method.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(draw(), encoding="utf-8", newline="\n")
