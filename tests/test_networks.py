"""Encoders against torchvision's ResNet-18, and heads."""

import copy

import pytest
import torch
from checks import random, tiny
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18

from semppl_mini.networks import BLOCKS, ResNet, mlp, networks


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


@pytest.mark.parametrize("stride, height, width", [(1, 8, 8), (2, 8, 8), (2, 32, 24), (1, 17, 32)])
def test_narrow_takes_any_size_from_8(stride, height, width, device):
    encoder = ResNet(BLOCKS["narrow"], 8, stride).to(device)
    assert encoder(torch.zeros(2, 3, height, width, device=device)).shape == (2, encoder.dim) == (2, 32)


@pytest.mark.parametrize("width", [8, 32])
def test_gradients_equal_those_in_double_precision(width, device):
    """Channels-last float32, as trained, against contiguous float64: a wrong convolution kernel shows here."""
    encoder, x = ResNet(BLOCKS["narrow"], width, 2), random(16, 3, 24, 24)
    double, gradients = copy.deepcopy(encoder).double(), []
    single = encoder.to(device, memory_format=torch.channels_last)
    for model, images in ((single, x.to(device, memory_format=torch.channels_last)), (double, x.double())):
        model(images).square().sum().backward()
        gradients.append([p.grad.cpu().double() for p in model.parameters()])
    for ours, exact in zip(*gradients, strict=True):
        assert (ours - exact).norm() < 1e-3 * exact.norm()


def test_convolutions_start_by_hes_rule():
    weight = ResNet(BLOCKS["narrow"], 8).stages[2].conv2.weight.detach()  # (32, 32, 3, 3)
    he = (2 / (9 * 32)) ** 0.5  # fan out
    assert abs(float(weight.std()) / he - 1) < 0.05 and abs(float(weight.mean())) < 0.1 * he


def test_heads_have_the_sizes_of_the_config():
    parts = networks(tiny(projector_hidden=24, predictor_hidden=12, embedding_dim=8), torch.Generator())
    f, g, h = parts["encoder"], parts["projector"], parts["predictor"]
    assert [tuple(p.shape) for p in g.parameters()] == [(24, f.dim), (24,), (24,), (24,), (8, 24)]
    assert [tuple(p.shape) for p in h.parameters()] == [(12, 8), (12,), (12,), (12,), (8, 12)]
    assert mlp(3, 4, 2)(torch.zeros(5, 3)).shape == (5, 2)
