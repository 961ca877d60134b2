"""Encoders against torchvision's and against published sizes, selective kernels against NumPy, and heads."""

import copy
from types import SimpleNamespace

import core_checks
import numpy as np
import pytest
import torch
from core_checks import differing, random, tiny, tiny_data, weights
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18, resnet50

from semppl_mini import ImageSet, SemPPL, fit, load_run, train
from semppl_mini.networks import BLOCKS, ENCODERS, STEMS, ResNet, basic_block, begin, mlp, networks
from semppl_mini.parallel import compiled
from semppl_mini.recipes import resnets
from semppl_mini.recipes.airbench import airbench, filters
from semppl_mini.recipes.resnets import bottleneck, deep_stem, imagenet_stem, sk_bottleneck

BOTTLENECK = dict(block=bottleneck)
IMAGENET = dict(stem=imagenet_stem, block=bottleneck)
SK = dict(stem=deep_stem, block=sk_bottleneck)


def cifar_resnet18():
    """torchvision's ResNet-18 with a 3x3 stride-1 stem and no max-pool."""
    model = resnet18()
    model.conv1, model.maxpool, model.fc = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity(), nn.Identity()
    return model


def test_resnet18_is_torchvisions_with_a_small_stem(device):
    ours, theirs = ResNet(BLOCKS["resnet18"], 64, 1), cifar_resnet18()
    for p in ours.parameters():
        nn.init.normal_(p, std=0.05)
    values = list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    x = random(2, 3, 16, 16)
    assert ours.dim == 512
    assert_close(ours.to(device).eval()(x.to(device)).cpu(), theirs.eval()(x), rtol=1e-3, atol=1e-4)


def test_resnet50_is_torchvisions():
    ours, theirs = ResNet(resnets.BLOCKS["resnet50"], 64, **IMAGENET).double().eval(), resnet50().double().eval()
    theirs.fc = nn.Identity()
    for i, value in enumerate([*ours.parameters(), *(b for b in ours.buffers() if b.dim())]):
        value.data.mul_(0.9 + 0.2 * random(value.numel(), seed=i).view(value.shape)).add_(0.01)
    values = list(ours.state_dict().values())  # parameters and running statistics, in order
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    x = random(2, 3, 64, 48).double()
    assert ours.dim == 2048
    assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)


def size(blocks, width, **kind):
    """Parameters, and running statistics, of an encoder; nothing is allocated."""
    with torch.device("meta"):
        encoder = ResNet(blocks, width, **kind)
    assert encoder.dim == 32 * width
    statistics = [b for b in encoder.buffers() if b.dim()]  # not the counts of batches
    return sum(p.numel() for p in encoder.parameters()), sum(b.numel() for b in statistics)


SIMCLR2 = [  # depth, width, millions without and with selective kernels: SimCLRv2 (arXiv 2006.10029), table 1
    (50, 1, 24, 35), (50, 2, 94, 140), (101, 1, 43, 65), (101, 2, 170, 257), (152, 1, 58, 89), (152, 2, 233, 354),
    (152, 3, None, 795),
]  # fmt: skip
DEPTHS = {50: resnets.BLOCKS["resnet50"], 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: resnets.BLOCKS["resnet200"]}


@pytest.mark.parametrize("depth, width, plain, sk", SIMCLR2)
def test_sizes_are_those_of_simclrv2(depth, width, plain, sk):
    """Its counts agree in all rows if running statistics are counted too, as TensorFlow's variables are."""
    for millions, kind in ((plain, IMAGENET), (sk, SK)):
        if millions:
            assert round(sum(size(DEPTHS[depth], 64 * width, **kind)) / 1e6) == millions


@pytest.mark.parametrize("depth, width, millions", [(50, 1, 24), (50, 2, 94), (50, 4, 375), (200, 2, 250)])
def test_sizes_are_those_of_byol(depth, width, millions):
    """BYOL (arXiv 2006.07733), table 1; SimCLR (arXiv 2002.05709), table 6, has the same for ResNet-50."""
    assert round(size(DEPTHS[depth], 64 * width, **IMAGENET)[0] / 1e6) == millions


def test_size_of_resnet50_is_torchvisions():
    with torch.device("meta"):
        theirs = sum(p.numel() for p in resnet50().parameters())
    assert theirs == 25_557_032 and size(DEPTHS[50], 64, **IMAGENET)[0] == theirs - 1000 * 2049 == 23_508_032


@pytest.mark.parametrize("backbone, sk", [("narrow", 0), ("resnet18", 0), ("resnet50", 1), ("resnet200", 0)])
def test_networks_are_those_of_the_config(backbone, sk):
    config = tiny(backbone=backbone, width=16, stem="imagenet", sk=bool(sk), recompute=True)
    blocks = (BLOCKS | resnets.BLOCKS)[backbone]
    block = basic_block if backbone in BLOCKS else sk_bottleneck if sk else bottleneck
    with torch.device("meta"):
        encoder = networks(config, torch.Generator("cpu"))["encoder"]
        same = ResNet(blocks, 16, stem=deep_stem if sk else imagenet_stem, block=block)
    shapes = [[(name, value.shape) for name, value in f.state_dict().items()] for f in (encoder, same)]
    assert shapes[0] == shapes[1] and encoder.recompute and len(encoder.stages) == sum(blocks)


def test_selective_kernels_need_bottlenecks():
    for backbone in ("narrow", "resnet18"):
        with pytest.raises(ValueError, match="^sk = True needs bottlenecks; give backbone resnet50 or resnet200, or"):
            networks(tiny(backbone=backbone, sk=True), torch.Generator())


def test_a_block_with_selective_kernels_is_numpys(device):
    core_checks.check_selective_kernels(device)


def same_loop(x, k, stride, reduce):
    """Each output of TensorFlow's SAME: ceil(n / stride) windows, what they reach over the edge halved, more behind."""
    sides = [-(-n // stride) for n in x.shape[2:]]
    starts = [-(max((out - 1) * stride + k - n, 0) // 2) for out, n in zip(sides, x.shape[2:], strict=True)]
    rows = []
    for i, j in np.ndindex(*sides):
        top, left = starts[0] + i * stride, starts[1] + j * stride
        inside = [(max(at, 0), min(at + k, n)) for at, n in zip((top, left), x.shape[2:], strict=True)]
        (a, b), (c, d) = inside
        rows.append(reduce(x[:, :, a:b, c:d], a - top, c - left))  # the pixels there are, and where in the window
    return np.stack(rows, 2).reshape(len(x), -1, *sides)


@pytest.mark.parametrize("height, width", [(12, 7), (9, 10), (8, 8), (7, 9)])
def test_padding_same_is_tensorflows(height, width):
    """Stems and blocks against sums over the pixels that a window covers; strides of one are as they were."""
    encoder, x = ResNet((1, 1), 8, **IMAGENET, padding="same").double(), random(2, 3, height, width).double() - 0.9

    def convolved(layer):
        weight = core_checks.array(layer.weight)
        return lambda x, i, j: np.einsum("bihw,oihw->bo", x, weight[:, :, i : i + x.shape[2], j : j + x.shape[3]])

    def agree(layer, x, *window):
        assert_close(layer(x), torch.from_numpy(same_loop(core_checks.array(x), *window)))

    y, second = random(2, 16, height, width).double(), encoder.stages[1].conv2
    agree(encoder.stem[0], x, 7, 2, convolved(encoder.stem[0]))
    agree(encoder.stem[3], x, 3, 2, lambda part, i, j: part.max((2, 3)))
    agree(second, y, 3, 2, convolved(second))
    symmetric = ResNet((1, 1), 8, **IMAGENET).double()
    symmetric.load_state_dict(encoder.state_dict())
    assert symmetric(x).shape == encoder(x).shape
    assert torch.equal(symmetric.stages[0](y[:, :8]), encoder.stages[0](y[:, :8]))
    assert torch.equal(second(y), symmetric.stages[1].conv2(y)) is bool(height % 2 and width % 2)


@pytest.mark.parametrize("stem", [imagenet_stem, STEMS["cifar"]])
def test_a_gradient_is_of_the_pixels_alone(stem):
    """The last stride is over one pixel, so the weights beside the middle meet zeros alone. Where processors do not
    multiply in bf16 this cannot fail."""
    torch.manual_seed(0)
    side = 16 if stem is imagenet_stem else 8
    encoder = ResNet((1, 1, 1, 1), 64, 2, stem=stem)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(random(16, 3, side, side) - 0.5)
    features.float().square().sum().backward()
    gradient = encoder.stages[3].conv1.weight.grad.clone()  # (512, 256, 3, 3)
    assert gradient[:, :, 1, 1].any()
    gradient[:, :, 1, 1] = 0
    assert not gradient.any()


def test_a_second_column_of_zeros_changes_nothing():
    for stem, images in ((imagenet_stem, random(4, 3, 16, 16)), (STEMS["cifar"], random(4, 3, 8, 8))):
        encoder = ResNet((1, 1, 1, 1), 8, 2, stem=stem).double()
        x = images.double()
        padded = encoder(x)
        for layer in encoder.modules():
            layer._forward_pre_hooks.clear()
        assert_close(encoder(x), padded, rtol=1e-12, atol=1e-12)


def test_padding_is_of_the_config():
    for backbone in ("narrow", "resnet18", "resnet50"):
        f = [networks(tiny(backbone=backbone, stem_stride=2, padding=padding), torch.Generator())["encoder"].eval()
             for padding in ("symmetric", "same")]  # fmt: skip
        assert list(f[0].state_dict()) == list(f[1].state_dict())
        x = random(2, 3, 16, 16)
        assert all(map(torch.equal, f[0].parameters(), f[1].parameters())) and not torch.equal(f[0](x), f[1](x))


def kernels(module):
    """(kernel, stride) of the convolutions and poolings of a module, in order."""
    found = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d))]
    return [tuple(v if type(v) is int else v[0] for v in (m.kernel_size, m.stride)) for m in found]


@pytest.mark.parametrize("kind, wanted, side", [
    (dict(stem_stride=2), [(3, 2)], 112), (dict(block=sk_bottleneck), [(3, 1)], 224),
    (dict(stem=imagenet_stem), [(7, 2), (3, 2)], 56), (SK, [(3, 2), (3, 1), (3, 1), (3, 2)], 56),
])  # fmt: skip
def test_stems(kind, wanted, side):
    stem = ResNet((1,), 16, **kind).stem
    assert kernels(stem) == wanted
    assert stem(torch.zeros(1, 3, 224, 224).expand(2, -1, -1, -1)).shape == (2, 16, side, side)


@pytest.mark.parametrize("height, width", [(8, 8), (32, 24), (17, 32), (15, 9)])
@pytest.mark.parametrize("kind", [{}, dict(stem_stride=2), dict(stem=imagenet_stem), BOTTLENECK, IMAGENET, SK,
                                  dict(IMAGENET, padding="same"), dict(stem_stride=3, padding="same")])  # fmt: skip
def test_encoders_take_any_size_from_8(kind, height, width, device):
    encoder = ResNet((1, 2, 1, 1), 8, **kind).to(device)
    dim = 256 if "block" in kind else 64
    assert encoder(torch.zeros(2, 3, height, width, device=device)).shape == (2, encoder.dim) == (2, dim)


@pytest.mark.parametrize("width, kind", [(8, {}), (32, {}), (8, IMAGENET), (8, SK)])
def test_gradients_equal_those_in_double_precision(width, kind, device):
    """Channels-last float32, as trained, against contiguous float64: a wrong convolution kernel shows here.

    2e-2, since a ReLU whose input rounds to the other side of zero moves a gradient by 6e-3; without one it is 1e-4.
    """
    torch.manual_seed(0)
    encoder, x = ResNet(BLOCKS["narrow"], width, 2, **kind), random(16, 3, 24, 24)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # no gradient passes a batch norm at zero
    double, gradients = copy.deepcopy(encoder).double(), []
    single = encoder.to(device, memory_format=torch.channels_last)
    for model, images in ((single, x.to(device, memory_format=torch.channels_last)), (double, x.double())):
        model(images).square().sum().backward()
        gradients.append([p.grad.cpu().double() for p in model.parameters()])
    for ours, exact in zip(*gradients, strict=True):
        assert (ours - exact).norm() < 2e-2 * exact.norm()


def test_basic_blocks_are_named_and_drawn_as_ever():
    """Checkpoints rest on the names, runs on the order of the draws: a shortcut, its block; then He's rule anew."""
    torch.manual_seed(5)
    encoder = ResNet((1, 1), 8)
    torch.manual_seed(5)
    shapes = {"stem.0": (8, 3, 3), "stages.0.conv1": (8, 8, 3), "stages.0.conv2": (8, 8, 3)}
    shapes |= {"stages.1.downsample.0": (16, 8, 1), "stages.1.conv1": (16, 8, 3), "stages.1.conv2": (16, 16, 3)}
    made = {name: nn.Conv2d(i, o, k, bias=False).weight for name, (o, i, k) in shapes.items()}
    drawn = ["stem.0", "stages.0.conv1", "stages.0.conv2", "stages.1.conv1", "stages.1.conv2", "stages.1.downsample.0"]
    for name in drawn:
        nn.init.kaiming_normal_(made[name], mode="fan_out", nonlinearity="relu")
        assert torch.equal(encoder.get_submodule(name).weight, made[name])
    norms = ("stem.1", "stages.0.bn1", "stages.0.bn2", "stages.1.bn1", "stages.1.bn2", "stages.1.downsample.1")
    wanted = [f"{name}.weight" for name in drawn] + [f"{name}.{p}" for name in norms for p in ("weight", "bias")]
    assert sorted(name for name, _ in encoder.named_parameters()) == sorted(wanted)


@pytest.mark.parametrize("kind, zero", [({}, False), (BOTTLENECK, True), (SK, True)])
def test_bottlenecks_start_as_their_shortcuts(kind, zero):
    encoder, x = ResNet((2, 1), 8, **kind), random(4, 32 if kind else 8, 6, 6) - 0.5
    assert torch.equal(encoder.stages[1](x), x.relu()) is zero
    norms = [m.weight.detach() for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(bool((w == 0).all()) for w in norms) == (3 if zero else 0)
    assert all(bool((w == 0).all() or (w == 1).all()) for w in norms)


def test_convolutions_start_by_hes_rule():
    weight = ResNet(BLOCKS["narrow"], 8).stages[2].conv2.weight.detach()  # (32, 32, 3, 3)
    he = (2 / (9 * 32)) ** 0.5  # fan out
    assert abs(float(weight.std()) / he - 1) < 0.05 and abs(float(weight.mean())) < 0.1 * he


# ---- airbench

AIRBENCH = {"backbone": "airbench", "small_size": 9, "optimizer": "muon", "lr": 0.02}


def test_airbench_is_numpys(device):
    core_checks.check_airbench(device)


def test_whitening_is_numpys(device):
    core_checks.check_whitening(device)


def test_airbench_has_the_sizes_of_its_docstring():
    network, convolutions = airbench(64), (24 * 64, 64 * 64, 64 * 128, 128 * 128, 128 * 256, 256 * 256)
    assert network.dim == 256
    sizes = 24 * 12 + 24, 9 * sum(convolutions), 4 * (64 + 128 + 256)  # whitening, 3x3, batch norms
    assert sum(p.numel() for p in network.parameters()) == sum(sizes) == 1_158_712
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["stem.0.weight"]


@pytest.mark.parametrize("height, width", [(9, 9), (32, 24), (17, 32)])
def test_airbench_takes_any_size_from_9(height, width):
    assert airbench(8)(torch.zeros(2, 3, height, width)).shape == (2, 32)


def test_airbench_refuses_smaller_images():
    with pytest.raises(ValueError, match="^airbench halves an image thrice, and one has 8 pixels a side; give 9"):
        fit(tiny(backbone="airbench"), tiny_data(), progress=False)
    with pytest.raises(ValueError, match="^sk = True needs bottlenecks"):
        SemPPL(tiny(backbone="airbench", sk=True), 10)


@pytest.mark.parametrize("std", [0.02, 0.01])
@pytest.mark.parametrize("white", [0, 1])
def test_whitening_of_flat_images_is_exact(std, white):
    """Patches of almost one direction: rounded to float32, its moment would leave more than 5e-4 in the others."""
    config, images = tiny(std=(std, std, std)), torch.zeros(7, 3, 64, 64, dtype=torch.uint8)
    images[:white] = 255
    W = filters(ImageSet(images, *3 * [torch.arange(7)]), config)[:12].flatten(1)
    p = torch.from_numpy(core_checks.patches_of(images, config.mean, config.std))
    assert_close(W @ (p.T @ p / len(p) + 5e-4 * torch.eye(12)) @ W.T, torch.eye(12).double(), rtol=0, atol=1e-2)


def test_airbench_begins_as_the_identity():
    """A channel that was there before a convolution is there after it, among those that are new."""
    for first, _, _, _, second, _, _ in airbench(8).stages:
        for convolution in (first, second):
            n = min(convolution.in_channels, convolution.out_channels)
            x = random(1, convolution.in_channels, 6, 6)
            assert_close(convolution(x)[:, :n], x[:, :n])


def test_airbench_recomputes_to_the_same_bits():
    runs = [fit(tiny(**AIRBENCH, recompute=recompute), tiny_data(), progress=False) for recompute in (False, True)]
    assert not differing(*map(weights, runs))


def test_whitening_draws_by_the_seed_what_it_looks_at():
    def stem(seed, most):
        return filters(tiny_data().train, tiny(seed=seed), most)

    assert torch.equal(stem(0, 20), stem(0, 20)) and not torch.equal(stem(0, 20), stem(1, 20))
    assert_close(stem(0, 64), stem(1, 64), rtol=0, atol=1e-4)  # all of them, in another order


def test_whitening_is_computed_once_and_kept(tmp_path, monkeypatch):
    """From the training images as a run begins; not for a run that goes on, that starts from weights, or is loaded."""
    config, asked = tiny(**AIRBENCH), []
    monkeypatch.setattr(train, "begin", lambda *given: asked.append(1) or begin(*given))
    begun = fit(config, tiny_data(), tmp_path, progress=False, steps=5)
    stem = begun.method.encoder.stem[0].weight
    wanted = SemPPL(config, 10)
    begin(wanted, tiny_data().train, config)
    assert asked == [1] and torch.equal(stem, wanted.encoder.stem[0].weight)
    ended = fit(config, tiny_data(), tmp_path, progress=False)
    another = fit(config.replace(seed=1), tiny_data(), progress=False, weights=tmp_path)
    assert asked == [1]
    for run in (ended, another, load_run(tmp_path)):
        assert torch.equal(run.method.encoder.stem[0].weight, stem)
        assert torch.equal(run.method.target["encoder"].stem[0].weight, stem)


def test_supervised_only_whitens_by_the_labelled_images(monkeypatch):
    seen = []
    monkeypatch.setattr(train, "begin", lambda method, images, config: seen.append(images))
    config = tiny(**AIRBENCH, method="finetune", large_views=1, small_views=0)
    fit(config, tiny_data(), progress=False)
    assert (seen[0].labels >= 0).all() and len(seen[0]) == 20


def test_an_encoder_of_ones_own_joins_by_its_name(monkeypatch):
    """A stand-in for a config, as it is asked for its fields alone."""
    config = SimpleNamespace(**vars(tiny()) | {"backbone": "mine"})
    with pytest.raises(ValueError, match="^backbone = 'mine' is not known; choose one of narrow, .*, resnet200.$"):
        networks(config, torch.Generator())
    monkeypatch.setitem(ENCODERS, "mine", lambda config: ResNet((1,), config.width, stem=STEMS["imagenet"]))
    parts = networks(config, torch.Generator())
    assert parts["encoder"].dim == parts["projector"][0].in_features == 8


def test_heads_have_the_sizes_of_the_config():
    parts = networks(tiny(projector_hidden=24, predictor_hidden=12, embedding_dim=8), torch.Generator())
    f, g, h = parts["encoder"], parts["projector"], parts["predictor"]
    assert [tuple(p.shape) for p in g.parameters()] == [(24, f.dim), (24,), (24,), (24,), (8, 24)]
    assert [tuple(p.shape) for p in h.parameters()] == [(12, 8), (12,), (12,), (12,), (8, 12)]
    assert mlp(3, 4, 2)(torch.zeros(5, 3)).shape == (5, 2)


def gradients_and_statistics(parts, sizes=(16, 12)):
    """Of a step of encoder, projector and predictor on images of two sizes, in float64."""
    parts.zero_grad()
    for seed, side in enumerate(sizes):
        x = random(8, 3, side, side, seed=seed).double()
        for part in parts.values():
            x = part(x)
        x.square().mean().backward()
    return {name: p.grad for name, p in parts.named_parameters()} | dict(parts.named_buffers())


def test_compiled_networks_compute_the_same_under_the_same_names():
    """By the tracer alone: inductor would take a minute to compile, and is torch's to test."""
    eager = networks(tiny(), torch.Generator()).double()
    fast = copy.deepcopy(eager)
    compiled(fast, backend="eager")
    assert list(fast.state_dict()) == list(eager.state_dict())
    assert_close(gradients_and_statistics(fast), gradients_and_statistics(eager), rtol=1e-10, atol=1e-12)
    with torch.compiler.set_stance("fail_on_recompile"):  # nothing is compiled again in the second step
        assert_close(gradients_and_statistics(fast), gradients_and_statistics(eager), rtol=1e-10, atol=1e-12)
        with pytest.raises(RuntimeError, match="recompile"):
            gradients_and_statistics(fast.float())
    torch.compiler.reset()


def test_compile_and_recompute_are_refused_together():
    with pytest.raises(ValueError, match="^compile = True does not go with recompute = True; give recompute=False"):
        compiled(networks(tiny(recompute=True), torch.Generator()))
