"""Losses: InfoNCE over sampled negatives and the invariance KL, against loops and other libraries."""

import math

import core_checks
import pytest
import torch
import torch.nn.functional as F
from core_checks import array, units
from scipy.special import rel_entr, softmax
from torch.testing import assert_close

from semppl_mini import losses


@pytest.mark.parametrize("name", ["negatives", "logits", "nce", "kl", "kl_gradient"])
def test_equals_a_loop(name, device):
    getattr(core_checks, f"check_{name}")(device)


def negatives(batch, n, seed=0):
    return losses.draw_negatives(batch, n, torch.Generator().manual_seed(seed))


# ---- negatives


def test_an_image_that_stands_twice_in_a_batch_is_not_its_own_negative(device):
    ids, drawn = torch.tensor([0, 1, 2, 0, 3, 1]), negatives(6, 5)  # every other row is a negative
    o, t = (units(2, 6, 4, seed=seed).to(device) for seed in (0, 1))
    a = losses.logits(o, t, drawn.to(device), 0.2, ids.to(device))
    for m, row in enumerate(drawn.tolist()):  # equal to leaving those rows out
        kept = [n for n in row if ids[n] != ids[m]]
        similarity = torch.stack([torch.einsum("id,jd->ij", o[:, m], t[:, n]) for n in (m, *kept)], -1) / 0.2
        assert_close(losses.nce(a[:, :, m]), -similarity.log_softmax(-1)[..., 0].mean())
    without = losses.logits(o, t, drawn.to(device), 0.2)
    assert torch.equal(losses.logits(o, t, drawn.to(device), 0.2, torch.arange(6, device=device)), without)
    assert losses.nce(without) > losses.nce(a)
    assert losses.invariance(a).isfinite() and losses.invariance(a) >= 0


@pytest.mark.parametrize("batch, n", [(2, 1), (11, 10), (64, 10), (257, 200)])
def test_negatives_leave_the_row_out_and_are_distinct(batch, n):
    drawn = negatives(batch, n)
    assert drawn.shape == (batch, n)
    for m, row in enumerate(drawn.tolist()):
        assert len({m, *row}) == n + 1 and 0 <= min(row) and max(row) < batch


def test_same_seed_same_negatives_and_neighbours_differ():
    assert torch.equal(negatives(64, 5, seed=3), negatives(64, 5, seed=3))
    assert not torch.equal(negatives(64, 5, seed=3), negatives(64, 5, seed=4))


@pytest.mark.parametrize("n", [0, 8, 20])
def test_impossible_numbers_of_negatives(n):
    with pytest.raises(ValueError, match=f"{n} negatives .*batch of 8; choose 1 to 7"):
        negatives(8, n)


# ---- contrastive loss


def test_paper_sizes_make_24_pairs_of_11(device):
    o, t, n = units(6, 16, 8).to(device), units(4, 16, 8).to(device), negatives(16, 10).to(device)
    a = losses.logits(o, t, n, 0.2)
    assert a.shape == (6, 4, 16, 11)


def test_uniform_logits_give_log_11(device):
    same = torch.ones(1, 16, 8, device=device) / math.sqrt(8)
    a = losses.logits(same, same, negatives(16, 10).to(device), 0.2)
    assert float(losses.nce(a)) == pytest.approx(math.log(11), abs=1e-5)


def test_all_other_rows_as_negatives_is_plain_infonce(device):
    """With N = B - 1 the loss is the usual cross-entropy over the rows of the similarity matrix."""
    o, t = units(1, 9, 5, seed=0).to(device), units(1, 9, 5, seed=1).to(device)
    a = losses.logits(o, t, negatives(9, 8).to(device), 0.2)
    wanted = F.cross_entropy(o[0] @ t[0].T / 0.2, torch.arange(9, device=device))
    assert_close(losses.nce(a), wanted)


def test_semantic_logits_share_the_negatives(device):
    o, t, z = units(3, 7, 5, seed=0), units(2, 7, 5, seed=1), units(2, 7, 4, 5, seed=2)
    a = losses.logits(o.to(device), t.to(device), negatives(7, 3).to(device), 0.3)
    q = losses.semantic_logits(o.to(device), z.to(device), a, 0.3).cpu()
    assert q.shape == (3, 2, 7, 4, 4)
    for i, j, m, r in torch.cartesian_prod(*map(torch.arange, q.shape[:4])).tolist():
        assert float(q[i, j, m, r, 0]) == pytest.approx(float(o[i, m] @ z[j, m, r]) / 0.3, abs=1e-5)
        assert torch.equal(q[i, j, m, r, 1:], a[i, j, m, 1:].cpu())


def test_gradients_reach_only_what_requires_them(device):
    o, t = units(2, 7, 5, seed=0).to(device).requires_grad_(), units(2, 7, 5, seed=1).to(device)
    losses.nce(losses.logits(o, t, negatives(7, 3).to(device), 0.2)).backward()
    assert (o.grad.norm(dim=-1) > 0).all() and t.grad is None


def test_no_valid_row_is_exactly_zero_with_zero_gradient(device):
    a = units(2, 2, 5, 3, 4).to(device).requires_grad_()
    nobody = torch.zeros(5, 1, dtype=torch.bool, device=device)
    loss = losses.nce(a, nobody) + losses.invariance(a, nobody)
    loss.backward()
    assert float(loss.detach()) == 0 and not a.grad.any()


def test_infinite_logits_in_invalid_rows_do_not_spread(device):
    a = units(3, 4).to(device)
    a[1, 0] = math.inf
    valid = torch.tensor([True, False, True], device=device)
    assert_close(losses.nce(a, valid), losses.nce(a[[0, 2]]))


# ---- invariance


def test_kl_equals_scipy(device):
    a = 4 * units(2, 2, 6, 5)
    p, q = softmax(array(a[0, 1]), -1), softmax(array(a[1, 0]), -1)
    wanted = (rel_entr(p, q).sum(-1).mean() + rel_entr(q, p).sum(-1).mean()) / 2
    assert float(losses.invariance(a.to(device))) == pytest.approx(wanted, abs=1e-6)


def test_kl_is_zero_for_equal_views_and_never_negative(device):
    o, n = units(1, 8, 5).expand(3, -1, -1).to(device), negatives(8, 4).to(device)
    assert abs(float(losses.invariance(losses.logits(o, o, n, 0.2)))) < 1e-6
    for seed in range(20):
        assert float(losses.invariance(10 * units(3, 3, 5, 4, seed=seed).to(device))) > 0


def test_one_large_view_has_no_invariance(device):
    assert float(losses.invariance(units(1, 1, 5, 4).to(device))) == 0


@pytest.mark.parametrize("detach", ["argument", "entropy"])
def test_which_part_of_the_kl_has_a_gradient(detach, device):
    core_checks.check_kl_gradient(device, detach)


def test_the_two_forms_differ_in_gradient_only(device):
    a = units(2, 2, 5, 4).to(device)
    assert_close(losses.invariance(a, detach="argument"), losses.invariance(a, detach="entropy"))


def test_an_own_negative_weighs_nothing_at_any_temperature(device):
    """Even where everything else is as far away as can be."""
    o, t = torch.tensor([[[1.0, 0.0]] * 3]), torch.tensor([[[-1.0, 0.0]] * 3])
    ids, drawn = torch.tensor([0, 0, 1]), losses.draw_negatives(3, 2, torch.Generator().manual_seed(0))
    a = losses.logits(*(x.to(device) for x in (o, t, drawn)), 0.01, ids.to(device))
    assert float(losses.nce(a)) == pytest.approx((2 * math.log(2) + math.log(3)) / 3, abs=1e-4)
