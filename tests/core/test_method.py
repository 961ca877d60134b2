"""A method of one's own, defined outside the package: trained, resumed, read back, encoded; and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from core_checks import differing, tiny, tiny_data, weights
from torch import nn
from torch.testing import assert_close

from semppl_mini import Method, fit, load_run, networks, relatives
from semppl_mini.relatives.carp import CARP
from semppl_mini.rng import INIT, generator


class NNCLR(Method):
    """The positive is the nearest neighbour of the other view in a queue of embeddings (Dwibedi et al., ICCV 2021)."""

    def __init__(self, config, num_classes, num_images=0):
        super().__init__(config, num_classes)
        self.online, self.target = networks.networks(config, generator(config.seed, 0, INIT)), nn.ModuleDict()
        start = torch.randn(config.queue, config.embedding_dim, generator=generator(config.seed, 1, INIT))
        self.register_buffer("queue", F.normalize(start, dim=1))

    def forward(self, views, batch, draws):
        z = [self.online["projector"](self.online["encoder"](x)) for x in views[:2]]
        p, z = F.normalize(self.online["predictor"](z[0]), dim=1), F.normalize(z[1].detach(), dim=1)
        nearest = self.queue[(z @ self.queue.T).argmax(1)]  # (B, D)
        loss = F.cross_entropy(nearest @ p.T / self.config.tau, torch.arange(len(p), device=p.device))
        self.queue.copy_(torch.cat([z, self.queue])[: len(self.queue)])
        return loss, {"terms": {"L_nn": loss.detach()}, "o": p.detach()[None]}


class Other(NNCLR):
    pass


def run_of(folder=None, **more):
    return fit(tiny(lr=0.5), tiny_data(), folder, progress=False, **{"method": NNCLR, **more})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("nnclr"))


def test_a_class_of_ones_own_trains_and_encodes(run):
    start = NNCLR(run.config, 10)
    assert run.finished and isinstance(run.method, NNCLR) and run.method.title == "NNCLR"
    assert {"L_nn", "embedding_std", "seconds"} < set(run.history[-1]) and run.history[-1]["loss"] > 0
    assert any(name.startswith("online.encoder") for name in differing(weights(run), start.state_dict()))
    assert not torch.equal(run.method.queue, start.queue)
    assert run.method.encode(tiny_data().test.images).shape == (30, run.method.encoder.dim)


def test_it_is_read_back_with_its_class(run):
    again = load_run(run.folder, method=NNCLR)
    assert not differing(weights(again), weights(run)) and again.history == run.history
    images = tiny_data().test.images
    assert_close(again.method.encode(images), run.method.encode(images))


@pytest.mark.parametrize("given, words", [
    (None, "was trained by the class test_method.NNCLR, not by semppl; give it"),
    (Other, "was trained by the class test_method.NNCLR, not by test_method.Other; give it"),
    (CARP, "was trained by the class test_method.NNCLR, not by semppl_mini.relatives.carp.CARP; give it"),
])  # fmt: skip
def test_without_its_class_one_sentence_names_it(given, words, run):
    with pytest.raises(ValueError, match=words) as error:
        load_run(run.folder, method=given)
    assert "\n" not in str(error.value)


def test_it_resumes_to_the_bit_and_refuses_another_class(run, tmp_path):
    assert not run_of(tmp_path, steps=3).finished
    for other in (None, Other):
        with pytest.raises(ValueError, match=r"class \(test_method.NNCLR there, .* now\); choose another folder"):
            run_of(tmp_path, method=other)
    assert not differing(weights(run_of(tmp_path)), weights(run))


def test_a_run_of_the_package_refuses_a_class(tmp_path):
    fit(tiny(epochs=1), tiny_data(), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"class \(semppl there, test_method.NNCLR now\)"):
        fit(tiny(epochs=1), tiny_data(), tmp_path, progress=False, method=NNCLR)
    assert load_run(tmp_path, method=relatives.SemPPL).finished


@pytest.mark.parametrize("wrong", ["nnclr", nn.Module, 3, NNCLR(tiny(), 10)])
def test_what_is_no_class_of_methods_is_refused(wrong):
    with pytest.raises(ValueError, match="is no class of methods; give a subclass of semppl_mini.Method"):
        run_of(method=wrong)


def test_an_unknown_name_is_refused_and_no_classifier():
    config = tiny()
    object.__setattr__(config, "method", "nnclr")
    with pytest.raises(ValueError, match="method = 'nnclr' is not known; choose one of semppl, ifnd, carp, finetune"):
        fit(config, tiny_data(), progress=False)


def test_a_method_without_a_loss_says_so():
    class Empty(NNCLR):
        forward = Method.forward

    with pytest.raises(NotImplementedError, match="Empty has no forward"):
        run_of(method=Empty)
