"""Views: every operation against torchvision image by image, and the draws of their parameters."""

import importlib
import inspect
import itertools
import sys
from pathlib import Path

import core_checks
import pytest
import torch
from core_checks import one_by_one, pictures, random, tiny
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as TF

from semppl_mini import views
from semppl_mini.parallel import pixels
from semppl_mini.rng import VIEWS, generator

sys.path.append(str(Path(__file__).resolve().parents[2] / "scale"))
imagenet = importlib.import_module("imagenet")

OPERATIONS = ("crop", "hue", "jitter", "blur", "solarize", "mask_background", "whole_view")


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_torchvision(name, device):
    getattr(core_checks, f"check_{name}")(device)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_operation_equals_torchvision(name, device):
    core_checks.check_colour(device, name, getattr(TF, f"adjust_{name}"))


def check_bicubic(device):
    """Bicubic crops with overshoot cut, against torchvision: down-sampling, both, up-sampling."""
    config = plain(tiny(interpolation="bicubic"))
    x = pictures(6, 20, 28)
    boxes = [[0, 0, 20, 28], [3, 5, 10, 9], [19, 27, 1, 1], [2, 0, 17, 3], [0, 20, 5, 8], [7, 7, 13, 20]]
    draw = {"box": torch.tensor(boxes), "flip": torch.tensor([False, True, False, True, True, False])}
    for size in (6, 16, 40):

        def theirs(image, box, mirrored, size=size):
            image = TF.resized_crop(image, *box, [size, size], TF.InterpolationMode.BICUBIC, antialias=True)
            return (TF.horizontal_flip(image) if mirrored else image).clamp(0, 1)

        ours = views.apply_view(x.to(device), {k: v.to(device) for k, v in draw.items()}, size, config)
        assert_close(ours.cpu(), one_by_one(theirs, x, boxes, draw["flip"]), atol=1e-5, rtol=0)


def test_bicubic_crops_equal_torchvision(device):
    check_bicubic(device)


@pytest.mark.parametrize("wrong", [
    lambda t: (1 - t).clamp(min=0),  # bilinear
    lambda t: torch.where(t < 1, (1.25 * t - 2.25) * t * t + 1, torch.where(  # a = -3/4, as without antialiasing
        t < 2, -0.75 * (((t - 5) * t + 8) * t - 4), 0)),
])  # fmt: skip
def test_another_kernel_is_found(wrong, device, monkeypatch):
    monkeypatch.setattr(pixels, "cubic", wrong)
    with pytest.raises(AssertionError):
        check_bicubic(device)


def test_overshoot_of_bicubic_crops_is_cut():
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1
    matrix = pixels.resize_matrix(torch.zeros(1), torch.full((1,), 8.0), 16, 8, None, "bicubic")
    draw = {"box": torch.tensor([[0, 0, 8, 8]]), "flip": torch.tensor([False])}
    view = views.apply_view(x, draw, 16, plain(tiny(interpolation="bicubic")))
    assert (x @ matrix.mT).max() > 1.01 and view.max() == 1 and view.min() == 0


def test_blur_by_blocks_equals_torchvision(device):
    x, sigma = pictures(2, 150, 130), [0.7, 2.0]
    wanted = one_by_one(lambda image, s: TF.gaussian_blur(image, [23, 23], [s, s]), x, sigma)
    ours = views.blur(x.to(device), torch.tensor(sigma).to(device), torch.ones(2, dtype=torch.bool, device=device), 23)
    assert_close(ours.cpu(), wanted, atol=1e-5, rtol=0)


def test_greyscale_equals_torchvision(device):
    x, apply = pictures(4, 8, 8), torch.tensor([True, False, False, True])
    wanted = one_by_one(lambda image, on: TF.rgb_to_grayscale(image, 3) if on else image, x, apply)
    assert_close(views.greyscale(x.to(device), apply.to(device)).cpu(), wanted, atol=1e-6, rtol=0)


def test_jitter_by_nothing_changes_nothing(device):
    x, orders = pictures(8, 6, 6).to(device), random(8, 4).argsort(1).to(device)
    nothing = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device).expand(8, 4)
    assert_close(views.jitter(x, nothing, orders), x, atol=1e-6, rtol=0)


def test_normalise(device):
    x, mean, std = pictures(2, 4, 4), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    assert_close(views.normalise(x.to(device), mean, std).cpu(), TF.normalize(x, mean, std))


# ---- saliency


def test_saliency_finds_a_square(device):
    x = torch.full((2, 3, 20, 20), 0.4)
    x[0, :, 5:13, 6:14], x[1, 0, 2:9, 9:16] = 0.9, 1.0
    mask = views.saliency(x.to(device)).cpu()
    assert mask.shape == (2, 1, 20, 20) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask[0, 0, 6:12, 7:13].all() and mask[1, 0, 3:8, 10:15].all()
    assert not mask[0, 0, :4].any() and not mask[1, 0, 11:].any()


def test_saliency_of_images_that_are_not_square(device):
    x = pictures(2, 12, 20)
    smooth = one_by_one(lambda image: TF.gaussian_blur(image, [5, 5], [1.0, 1.0]), x)
    distance = (smooth - x.mean((2, 3), keepdim=True)).square().sum(1, keepdim=True).sqrt()
    wanted = (distance > distance.mean((2, 3), keepdim=True)).float()
    assert torch.equal(views.saliency(x.to(device)).cpu(), wanted)


# ---- draws


def draw(config, v=0, batch=64, step=0, height=32, width=24, seed=0):
    return views.draw_view(config, v, batch, generator(seed, step, VIEWS), height, width)


CONFIG = tiny(large_views=2, small_views=1, small_scale=(0.1, 0.3))


def test_every_parameter_is_drawn_per_image():
    drawn = draw(CONFIG.replace(mask_p=0.5, grey_p=0.5, blur_p=(0.5,), solarize_p=(0.5,)))
    for name in ("box", "factors", "sigma", "order"):
        distinct = len(drawn[name].unique(dim=0))
        assert distinct > 15, name  # of 64 images; there are 24 orders, and 20% keep their colours
    for name in ("mask", "flip", "jitter", "grey", "blur", "solarize"):
        assert 10 < drawn[name].sum() < 64, name  # neither all nor none


def test_parameters_stay_in_their_ranges():
    drawn = draw(CONFIG.replace(brightness=0.3, contrast=0.2, saturation=1.5, hue=0.1), batch=2000)
    least, most = drawn["factors"].min(0).values, drawn["factors"].max(0).values
    assert_close(least, torch.tensor([0.7, 0.8, 0.0, -0.1]), atol=0.01, rtol=0)  # never negative factors
    assert_close(most, torch.tensor([1.3, 1.2, 2.5, 0.1]), atol=0.01, rtol=0)
    assert (drawn["order"].sort(1).values == torch.arange(4)).all()
    low, high = CONFIG.blur_sigma
    assert low <= drawn["sigma"].min() < low + 0.01 and high - 0.01 < drawn["sigma"].max() <= high
    plain = drawn["factors"][~drawn["jitter"]]
    assert len(plain) and (plain == torch.tensor([1.0, 1.0, 1.0, 0.0])).all()


def test_all_orders_of_jitter_are_equally_likely():
    _, counts = draw(CONFIG, batch=4800)["order"].unique(dim=0, return_counts=True)
    assert len(counts) == 24 and 130 < counts.min() and counts.max() < 270  # 200 each, five deviations


@pytest.mark.parametrize("v, scale", [(0, CONFIG.large_scale), (2, CONFIG.small_scale)])
def test_boxes_lie_inside_the_image_and_have_the_asked_area(v, scale):
    top, left, height, width = draw(CONFIG, v, batch=3000, height=40, width=32)["box"].unbind(1)
    assert (torch.stack([top, left]) >= 0).all() and (torch.stack([height, width]) >= 1).all()
    assert (top + height <= 40).all() and (left + width <= 32).all()
    area, aspect = height * width / (40 * 32), width / height
    assert abs(area.min() - scale[0]) < 0.02 and area.max() <= scale[1] + 0.03
    free = (height < 40) & (width < 32)  # boxes cut to the image have another aspect
    assert 0.7 * CONFIG.ratio[0] < aspect[free].min() and aspect[free].max() < 1.3 * CONFIG.ratio[1]
    assert abs(aspect[free].log().mean()) < 0.05  # as often wide as high
    if v == 2:
        assert abs(area.mean() - 0.2) < 0.005
    for start, side, most in ((top, height, 40), (left, width, 32)):
        room = most - side
        assert abs((start[room > 0] / room[room > 0]).mean() - 0.5) < 0.03
        assert (start == 0).any() and (start == room).any()


def test_coins_fall_with_their_probability():
    wanted = dict(mask=0.1, flip=0.5, jitter=0.8, grey=0.2)
    changes = {f"{name}_p": p for name, p in wanted.items()}
    config = CONFIG.replace(**changes, blur_p=(0.3,), solarize_p=(0.6,))
    drawn = draw(config, batch=4000)
    for name, p in {**wanted, "blur": 0.3, "solarize": 0.6}.items():
        assert abs(drawn[name].float().mean() - p) < 0.04, name


def test_blur_and_solarize_cycle_over_the_views():
    config = CONFIG.replace(blur_p=(1.0, 0.0), solarize_p=(0.0, 1.0, 0.0))
    drawn = [draw(config, v) for v in range(3)]
    assert [bool(d["blur"].all()) for d in drawn] == [True, False, True]
    assert [bool(d["solarize"].any()) for d in drawn] == [False, True, False]


def test_one_mask_coin_per_large_view_and_none_for_small_ones():
    config = CONFIG.replace(large_views=3, small_views=2, mask_p=0.5)
    masks = [d["mask"] for d in views.draw_views(config, 200, generator(0, 0, VIEWS), 32, 32)]
    assert not masks[3].any() and not masks[4].any()
    for one in range(3):
        for other in range(one):
            assert 60 < (masks[one] == masks[other]).sum() < 140  # independent: 100 expected


def equal(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def test_same_seed_same_draw_and_neighbours_differ():
    config = CONFIG.replace(mask_p=0.5)
    assert equal(draw(config, step=5), draw(config, step=5)) == set(draw(config))
    chance = {"box", "flip", "factors", "order", "mask"}
    for changes in ({"step": 6}, {"seed": 1, "step": 5}, {"seed": 5, "step": 0}):
        assert not chance & equal(draw(config, step=5), draw(config, **changes)), changes
    first, second, small = views.draw_views(config, 64, generator(0, 5, VIEWS), 32, 24)
    assert not chance & (equal(first, second) | equal(second, small))


def test_draws_without_sizes_are_the_same_draws():
    config = CONFIG.replace(mask_p=0.5)
    for v in range(3):
        sized, free = draw(config, v), draw(config, v, height=None, width=None)
        _, scale = views.crop_of(config, v)
        assert equal(free, {**sized, "u": free["u"]}) == set(free)
        assert torch.equal(views.boxes(free["u"], 32, 24, scale, config.ratio), sized["box"])
        each = views.boxes(free["u"], torch.full((64,), 32), torch.full((64,), 24), scale, config.ratio)
        assert torch.equal(each, sized["box"])


def test_boxes_of_images_of_different_sizes():
    u, sizes = random(50, 4), (random(50, 2, seed=1) * 300).long() + 1
    together = views.boxes(u, *sizes.T, (0.08, 1.0), (0.5, 2.0))
    alone = [views.boxes(u[i : i + 1], *sizes[i].tolist(), (0.08, 1.0), (0.5, 2.0)) for i in range(50)]
    assert torch.equal(together, torch.cat(alone))


def test_boxes_stay_inside_when_a_product_rounds_up():
    u = torch.full((1, 4), 1 - 2**-24)  # the largest that torch draws; 3 u is 3 in float32
    top, left, height, width = views.boxes(u, 12, 12, (0.7, 0.7), (1.0, 1.0))[0].tolist()
    assert (height, width) == (10, 10) and (top, left) == (2, 2)


def test_boxes_have_not_moved():
    """A draw of an earlier version, which runs and notebooks depend on."""
    drawn = views.draw_view(tiny(), 0, 3, generator(0, 0, VIEWS), 32, 24)["box"]
    assert drawn.tolist() == [[3, 6, 21, 18], [1, 0, 31, 24], [6, 6, 18, 17]]


# ---- views of a batch


@pytest.mark.parametrize("large, small", [(4, 2), (1, 0), (2, 3)])
def test_make_views_shapes(large, small, device):
    config = tiny(large_views=large, small_views=small, mask_p=0.5)
    images = (pictures(5, 24, 20) * 255).byte().to(device)
    masks = torch.ones(5, 1, 24, 20, dtype=torch.uint8, device=device)
    drawn = views.draw_views(config, 5, generator(0, 0, VIEWS), 24, 20)
    made = views.make_views(images, drawn, config, masks)
    assert [tuple(x.shape) for x in made] == [(5, 3, 16, 16)] * large + [(5, 3, 8, 8)] * small
    assert {(x.device.type, x.dtype, x.requires_grad) for x in made} == {(device.type, torch.float32, False)}


def test_views_side_by_side_are_those_made_alone(device):
    """To the bit, large ones, masked, and small ones; of three sizes of batches."""
    config = everything(large_views=3, small_views=2).replace(mask_p=0.5)
    for batch in (1, 5, 12):
        images = (pictures(batch, 24, 20) * 255).byte().to(device)
        drawn = views.draw_views(config, batch, generator(0, 0, VIEWS), 24, 20)
        x, masks = images.float() / 255, views.saliency(images.float() / 255)
        for v, (ours, draw) in enumerate(zip(views.make_views(images, drawn, config), drawn, strict=True)):
            mask = masks if v < config.large_views else None
            alone = views.apply_view(x, views.beside(x, draw), views.crop_of(config, v)[0], config, mask)
            assert torch.equal(ours, views.normalise(alone, config.mean, config.std)), (batch, v)


def plain(config):
    """A config whose large views are the image itself, unless it is masked."""
    off = dict(flip_p=0.0, jitter_p=0.0, grey_p=0.0, blur_p=(0.0,), solarize_p=(0.0,), small_views=0)
    return config.replace(large_scale=(1.0, 1.0), ratio=(1.0, 1.0), mean=(0.0,) * 3, std=(1.0,) * 3, **off)


def test_masks_grey_the_background_of_large_views_only(device):
    config = plain(tiny()).replace(mask_p=1.0, small_views=1, small_scale=(1.0, 1.0))
    images, masks = (pictures(6, 16, 16) * 255).byte(), random(6, 1, 16, 16, seed=1).round().byte()
    drawn = views.draw_views(config, 6, generator(0, 0, VIEWS), 16, 16)
    made = views.make_views(images.to(device), drawn, config, masks.to(device))
    large, again, small = (x.cpu() for x in made)
    background = masks.expand(-1, 3, -1, -1) == 0
    assert (large[background] == 0.5).all() and torch.equal(large, again)
    assert_close(large[~background], (images / 255)[~background], atol=1e-6, rtol=0)
    unmasked = torch.stack([TF.resized_crop(x, 0, 0, 16, 16, [8, 8], antialias=True) for x in images / 255])
    assert_close(small, unmasked, atol=1e-5, rtol=0)


def test_the_estimator_stands_in_for_missing_masks(device):
    config = plain(tiny()).replace(mask_p=1.0)
    images = torch.full((1, 3, 16, 16), 30, dtype=torch.uint8)
    images[:, :, 4:12, 4:12] = 220
    drawn = views.draw_views(config, 1, generator(0, 0, VIEWS), 16, 16)
    view = views.make_views(images.to(device), drawn, config)[0].cpu()
    assert (view[:, :, :2] == 0.5).all() and (view[:, :, 6:10, 6:10] > 0.8).all()


def test_a_view_of_an_image_does_not_depend_on_its_batch(device):
    config = tiny(mask_p=0.5)
    images = (pictures(6, 24, 24) * 255).byte().to(device)
    drawn = views.draw_views(config, 6, generator(0, 0, VIEWS), 24, 24)
    row = [{name: value[3:4] for name, value in d.items()} for d in drawn]
    together, alone = views.make_views(images, drawn, config), views.make_views(images[3:4], row, config)
    for whole, single in zip(together, alone, strict=True):
        assert_close(whole[3:4], single, atol=1e-5, rtol=0)


# ---- views of crops made elsewhere


def everything(**changes):
    return tiny(mask_p=0.5, grey_p=0.5, blur_p=(0.5,), solarize_p=(0.5,), large_size=40, small_size=32, **changes)


def test_finish_views_equals_make_views(device):
    """On uint8 crops that are the images themselves."""
    config = everything(large_scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_p=0.0, small_views=0).replace(mask_p=0.0)
    drawn = views.draw_views(config, 12, generator(0, 0, VIEWS), 40, 40)
    images = (pictures(12, 40, 40) * 255).byte().to(device)
    made = views.make_views(images, drawn, config)
    for ours, wanted in zip(imagenet.finish_views([images, images], drawn, config), made, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert_close(ours, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["jitter", "greyscale", "blur", "solarize", "normalise"])
def test_an_operation_left_out_is_found(name, device, monkeypatch):
    for place in (views, imagenet):
        monkeypatch.setattr(place, name, lambda x, *_: x.contiguous(memory_format=torch.channels_last), raising=False)
    config = everything()
    crops = [(pictures(12, s, s) * 255).byte() for s in (40, 40, 32)]
    drawn = views.draw_views(config, 12, generator(0, 0, VIEWS))
    short = imagenet.finish_views(crops, drawn, config)
    monkeypatch.undo()
    whole = imagenet.finish_views(crops, drawn, config)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(short, whole, strict=True))


@pytest.mark.parametrize("cache", [1, 3 * 40 * 40 * 5, 2**30])
def test_views_do_not_depend_on_how_many_are_finished_together(cache, monkeypatch):
    config = everything()
    crops = [(pictures(12, s, s) * 255).byte() for s in (40, 40, 32)]
    drawn = views.draw_views(config, 12, generator(0, 0, VIEWS))
    wanted = imagenet.finish_views(crops, drawn, config)
    monkeypatch.setattr(imagenet, "CACHE", cache)
    assert all(map(torch.equal, imagenet.finish_views(crops, drawn, config), wanted))


EVERY = {  # an operation on images x with a row of the draw d an image
    "mask_background": lambda x, d: views.mask_background(x, x[:, :1].round(), d["mask"]),
    "crop_resize": lambda x, d: views.crop_resize(x, d["box"], 24, d["flip"], "bicubic"),
    "blend": lambda x, d: views.blend(x, d["factors"][:, 0], d["grey"], d["mask"] & ~d["grey"]),
    "brightness": lambda x, d: views.brightness(x, d["factors"][:, 0]),
    "contrast": lambda x, d: views.contrast(x, d["factors"][:, 1]),
    "saturation": lambda x, d: views.saturation(x, d["factors"][:, 2]),
    "hue": lambda x, d: views.hue(x, d["factors"][:, 3]),
    "jitter": lambda x, d: views.jitter(x, d["factors"], d["order"]),
    "greyscale": lambda x, d: views.greyscale(x, d["grey"]),
    "blur": lambda x, d: views.blur(x, d["sigma"], d["blur"], 5),
    "solarize": lambda x, d: views.solarize(x, d["solarize"]),
    "saliency": lambda x, d: views.saliency(x),
    "photometrics": lambda x, d: views.photometrics(x, d, everything()),
    "apply_view": lambda x, d: views.apply_view(x, d, 20, everything(), x[:, :1].round()),
    "normalise": lambda x, d: views.normalise(x, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)),
}


def partings(n):
    """Every way to cut n rows into consecutive parts, as lists of sizes."""
    cuts = itertools.product((False, True), repeat=n - 1)
    ends = ([i + 1 for i, cut in enumerate(c) if cut] + [n] for c in cuts)
    return [[b - a for a, b in itertools.pairwise([0, *e])] for e in ends]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_no_bit_of_an_operation_depends_on_the_images_beside(name, dtype, device):
    """However a batch is split: so workers, threads and processes may share it out as they like."""
    draw = views.draw_view(everything(jitter_p=1.0), 0, 6, generator(0, 0, VIEWS), 40, 40)
    draw = {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in draw.items()}
    x = pictures(6, 40, 40).to(device, dtype)
    whole = EVERY[name](x, draw)
    for sizes in partings(6):
        rows = [{key: value.split(sizes)[i] for key, value in draw.items()} for i in range(len(sizes))]
        assert torch.equal(torch.cat(list(map(EVERY[name], x.split(sizes), rows))), whole), sizes


def test_every_operation_is_split():
    functions = inspect.getmembers(views, inspect.isfunction) + inspect.getmembers(pixels, inspect.isfunction)
    takes_images = {name for name, f in functions if next(iter(inspect.signature(f).parameters)) in ("x", "images")}
    assert takes_images - {"make_views", "fractions", "beside"} == set(EVERY)  # of uint8 images; of types and devices


def test_float64_views_are_float64_from_the_start():
    config = everything(precision="fp64", interpolation="bicubic")
    images = (pictures(12, 40, 40) * 255).byte()
    drawn = views.draw_views(config, 12, generator(0, 0, VIEWS), 40, 40)
    made = views.make_views(images, drawn, config) + imagenet.finish_views([images] * 3, drawn, config)
    single = views.make_views(images, drawn, config.replace(precision="fp32"))
    assert {x.dtype for x in made} == {torch.float64}
    for double, one in zip(made[:3], single, strict=True):
        assert 0 < ((double - one).abs() > 1e-7).float().mean()  # no float32 result that was cast
        assert (double - one).abs().median() < 1e-5
    wanted = drawn[0]
    x = views.crop_resize(images.double() / 255, wanted["box"].double(), 40, wanted["flip"], "bicubic")
    by_one = TF.resized_crop(images[3].double() / 255, *map(int, wanted["box"][3]), [40, 40],
                             TF.InterpolationMode.BICUBIC, antialias=True)  # fmt: skip
    by_one = TF.horizontal_flip(by_one) if wanted["flip"][3] else by_one
    assert_close(x[3], by_one, atol=1e-12, rtol=0)
