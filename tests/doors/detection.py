"""`make test-detection`: a detector finds drawn shapes better if its encoder learns with it than around a random one."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
detect, shapes = map(importlib.import_module, ("detect", "shapes"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return shapes.draw(tmp_path_factory.mktemp("sets") / "shapes", {"train": 300, "val": 60}, side=64)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_encoder_that_learns_is_worth_more_than_a_frozen_random_one(seed, drawn):
    """The same start, images and number of steps; the drawing is one for all seeds."""
    found = {}
    for frozen in (True, False):
        run = detect.new(seed, width=16)
        found[frozen] = detect.detect(run, drawn, detect.RECIPES["tiny"], frozen=frozen, seed=seed)["bbox"]
    frozen, learnt = ({name: round(100 * found[how][name], 1) for name in ("AP", "AP50")} for how in (True, False))
    print(f"\nseed {seed}: frozen {frozen}, learnt {learnt}")
    assert found[False]["AP"] > found[True]["AP"] and found[False]["AP50"] > found[True]["AP50"]
