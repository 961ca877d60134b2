"""Films of the embedding, and what is drawn of them: true to their data, small, whole, asking nobody."""
import base64
import copy
import importlib
import io
import json
import re
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from core_checks import tiny, tiny_data
from PIL import Image

import semppl_mini as s
from semppl_mini.keeping import keep_encoders

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "notebooks"), str(ROOT / "docs")]
film, explorer, film_picture = map(importlib.import_module, ("film", "explorer", "film_picture"))
NAMES = sorted(path.stem for path in film.FILMS.glob("*.json"))


@pytest.fixture(scope="module")
def digits():
    return film.load("digits"), s.data_for(s.presets.digits())


@pytest.fixture(params=NAMES)
def kept(request):
    return film.load(request.param)


# ---- films

HELD_OUT = {"digits": 400, "cifar10": 5000}  # validation images


def test_a_kept_film_is_small_and_whole(kept):
    n, m, moments = len(kept["truth"]), len(kept["labels"]), kept["moments"]
    assert all(path.stat().st_size < 500_000 for path in film.FILMS.iterdir())
    assert max(kept["rows"]) < HELD_OUT[kept["name"]], "it is of test images"
    assert len(kept["rows"]) == n and len(moments) >= 5 and moments[0]["epoch"] == 0 and "voters" in moments[-1]
    assert [moment["epoch"] for moment in moments] == sorted({moment["epoch"] for moment in moments})
    for moment in moments:
        xy = np.array(moment["xy"])
        assert xy.shape == (n + m, 2) and xy.min() >= 0 and xy.max() <= 1000
        for name in {"voters", "positives", "y_bar"} & set(moment):
            assert len(moment[name]) == n


def test_votes_lead_to_pseudo_labels_and_these_to_positives(kept):
    labels = np.array(kept["labels"])
    for moment in (moment for moment in kept["moments"] if "voters" in moment):
        for voters, y_bar, positives in zip(moment["voters"], moment["y_bar"], moment["positives"], strict=True):
            counts = np.bincount(labels[voters], minlength=len(kept["classes"]))
            assert counts[y_bar] == counts.max() and (labels[positives] == y_bar).all() and len(positives) == 3


def test_digits_come_apart(digits):
    kept, data = digits
    knn = [moment["knn"] for moment in kept["moments"]]
    assert len(knn) == 17 and knn[0] < 0.25 and knn[-1] > 0.85 and (np.diff(knn) > -0.01).all()
    y = np.array(kept["truth"] + kept["labels"])
    first, last = (explorer.middles(np.array(kept["moments"][t]["xy"]), y) for t in (0, -1))
    assert not first and len(last) == 10


def test_a_film_is_of_its_images_and_no_others(digits):
    kept, data = digits
    assert explorer.fits(kept, data)
    assert not explorer.fits(kept, s.load_data("digits", 100, 1)) and not explorer.fits(kept, s.load_data("digits", 50))
    with pytest.raises(ValueError, match="of other images or labels than Colour digits"):
        explorer.page(kept, s.load_data("digits", 50))


def test_a_kept_film_is_of_its_run_and_of_no_other(kept):
    keep = importlib.import_module("keep")
    run = keep.load({"digits": "semppl-digits-seed0", "cifar10": "semppl-500-seed0"}[kept["name"]])
    assert s.Config.from_dict(kept["config"]) == run.config
    if kept["name"] == "digits":
        data = s.data_for(run.config)
        assert explorer.film_for(run, data) == kept
        for change in dict(epochs=2), dict(labels=50):
            config = run.config.replace(**change)
            with pytest.raises(ValueError, match="No film is kept .*; train it with a folder"):
                explorer.film_for(SimpleNamespace(config=config, folder=None), s.data_for(config))


def test_the_last_moment_is_the_kept_encoder(digits):
    """k-NN accuracy of the film's end, and its votes, computed again from the kept run in 16 bits."""
    keep = importlib.import_module("keep")
    kept, data = digits
    run = keep.load("semppl-digits-seed0")
    asked, bank = film.held_out(data).take(torch.tensor(kept["rows"])), data.train.labelled()
    knn = s.evaluate(run.method.encoder, run.config, data, split="val")["knn20"]
    assert knn == pytest.approx(kept["moments"][-1]["knn"], abs=0.003)
    again = film.votes(run.method, asked, bank)
    for name in ("y_bar", "voters"):
        assert (np.array(again[name]) == np.array(kept["moments"][-1][name])).mean() > 0.97


def test_a_film_of_a_run_is_made_of_what_it_kept(tmp_path):
    data = tiny_data()
    s.fit(tiny(), data, tmp_path, [keep_encoders(1)], progress=False)  # checkpoints of the last two epochs, of three
    made = film.of(tmp_path, data, shown=20)
    assert [(moment["epoch"], "voters" in moment) for moment in made["moments"]] == [(0, False), (1, True), (2, True)]
    assert made["labels"] == data.train.labelled().labels.tolist() and len(made["truth"]) == 20
    assert explorer.fits(made, data) and not any(explorer.fits(film.load(name), data) for name in NAMES)
    assert len(explorer.film_for(s.load_run(tmp_path), data)["truth"]) == len(film.held_out(data)) == 30
    with pytest.raises(ValueError, match="kept nothing of epoch 7; choose of 0, 1, 2"):
        film.of(tmp_path, data, [7])


def test_an_unknown_film_is_refused():
    with pytest.raises(ValueError, match="no film 'mine'; choose one of .*digits"):
        film.load("mine")


# ---- the page

def test_the_page_holds_all_it_needs(digits):
    page = explorer.page(*digits)
    assert len(page) < 1_000_000
    words = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:|\$)[\w/.]""", words) and "://" not in page
    told = json.loads(re.search(r'<script type="application/json" id="film">(.*?)</script>', page, re.DOTALL)[1])
    assert told["moments"] == digits[0]["moments"] and told["sheet"].startswith("data:image/jpeg;base64,")


def test_the_sheet_has_the_images_in_their_order(digits):
    kept, data = digits
    sheet = Image.open(io.BytesIO(base64.b64decode(explorer.sheet(kept, data).split(",")[1])))
    pixels, n = np.asarray(sheet).astype(float), len(kept["truth"])
    for place, images, i in ((0, data.val, kept["rows"][0]), (n - 1, data.val, kept["rows"][-1]),
                             (n + 7, data.train.labelled(), 7)):  # fmt: skip
        y, x = (explorer.TILE * side for side in divmod(place, explorer.COLUMNS))
        wanted = images.images[i].permute(1, 2, 0).numpy()
        assert np.abs(pixels[y : y + 32, x : x + 32] - wanted).mean() < 6  # JPEG


def test_a_script_in_a_class_name_does_not_run(digits):
    kept, data = digits
    odd = copy.deepcopy(kept) | {"classes": ["</script><script>alert(1)</script>", *kept["classes"][1:]]}
    assert "</script><script>alert" not in explorer.page(odd, data)


def test_the_widget_is_the_page_in_a_frame(digits):
    (inside,) = re.findall(r'srcdoc="([^"]*)"', explorer.explore(*digits).value)
    assert unescape(inside) == explorer.page(*digits)


def test_the_still_shows_three_moments(digits):
    titles = [ax.get_title("left") for ax in explorer.still(digits[0]).axes]
    knn = {moment["epoch"]: moment["knn"] for moment in digits[0]["moments"]}
    assert titles == [f"epoch {epoch:g}: k-NN {knn[epoch]:.1%}" for epoch in (0, 2.75, 24)]


# ---- the film

def test_the_looping_film_is_drawn_of_the_kept_one():
    text = (ROOT / "docs" / "figures" / "film.svg").read_text()
    assert text == film_picture.draw(film.load("digits")), "run python docs/film_picture.py"
    assert len(text) < 1_000_000 and "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_looping_film_keeps_one_time_and_ends_where_it_stands():
    kept = film.load("digits")
    root = ElementTree.fromstring((ROOT / "docs" / "figures" / "film.svg").read_text())
    moves = root.findall(".//{*}animate")
    assert len({(move.get("dur"), move.get("values").count(";")) for move in moves}) == 1
    assert {move.get("repeatCount") for move in moves} == {"indefinite"}
    words = [group for group in root.findall("{*}g") if group.get("visibility") == "visible"]
    accuracy = f"k-NN accuracy {kept['moments'][-1]['knn']:.1%}"
    assert [text for group in words for text in group.itertext()] == ["epoch 24", accuracy]
    dots = root.findall(".//{*}g[@transform]/{*}circle")
    scaled = [[round(float(dot.get(axis))) for axis in ("cx", "cy")] for dot in dots]
    assert scaled == kept["moments"][-1]["xy"]


def test_what_flows_passes_through_every_moment():
    values = np.array([[0.0], [3.0], [1.0], [7.0]])
    frames = film_picture.flow(values)
    first, parts = film_picture.FIRST * film_picture.PARTS, film_picture.PARTS
    assert frames[first :: parts][: len(values)].tolist() == values.tolist()
    assert frames[0] == values[0] and (frames[-film_picture.LAST * parts :] == values[-1]).all()
