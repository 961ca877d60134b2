"""Planted bugs: each wrong version of a piece, put in its place, must make the check of that piece fail.

A bug is a function of the right piece that returns a wrong one. `planted(check, owner, name)` says which piece of
which module or class it replaces and which check has to find it; the same check passes without the bug.
"""

import contextlib
import copy
import functools

import carp_checks
import core_checks
import ifnd_checks
import pytest
import torch
import torch.nn.functional as F

from semppl_mini import (
    batches,
    lars,
    losses,
    method,
    muon,
    networks,
    optim,
    parallel,
    positives,
    semppl,
    views,
)
from semppl_mini import votes as pseudo_labels  # fmt: skip
from semppl_mini.parallel import memory, pixels
from semppl_mini.queue import LabelledQueue
from semppl_mini.recipes import airbench, resnets
from semppl_mini.relatives import carp, ifnd
from semppl_mini.semppl import SemPPL

PLANTED = []


def planted(check, owner, name):
    def register(make):
        PLANTED.append(pytest.param(check, owner, name, make, id=make.__name__))
        return make

    return register


# ---- votes


@planted(core_checks.check_majority, pseudo_labels, "majority")
def ties_ignore_the_cosine(right):
    return lambda labels, weights, C: right(labels, torch.ones_like(weights), C)


@planted(core_checks.check_majority, pseudo_labels, "majority")
def abstentions_vote_as_in_torch_mode(right):
    return lambda labels, weights, C: (labels.mode(-1).values, right(labels, weights, C)[1])


@planted(core_checks.check_vote, pseudo_labels, "neighbours")
def empty_slots_are_asked(right):
    return lambda o, keys, labels, k, mb=256: right(o, keys, torch.zeros_like(labels), k, mb)


@planted(core_checks.check_vote, pseudo_labels, "neighbours")
def the_farthest_neighbours_are_asked(right):
    return lambda o, keys, labels, k, mb=256: right(-o, keys, labels, k, mb)


@planted(core_checks.check_objective, semppl, "vote")
def only_the_first_queue_is_asked(right):
    def wrong(o, keys, *rest):
        return right(o, keys[:1].expand_as(keys), *rest)

    return wrong


@planted(core_checks.check_objective, SemPPL, "forward")
def targets_ask_instead_of_predictions(right):
    def wrong(self, x, batch, draws):
        twin = copy.deepcopy(self)
        t = torch.stack([twin.project(view) for view in x[: self.config.large_views]])
        self.vote = lambda o: SemPPL.vote(self, t)
        return right(self, x, batch, draws)

    return wrong


@planted(core_checks.check_objective, torch, "where")
def labelled_rows_take_the_vote_too(right):
    """y_bar = where(labels >= 0, labels, voted) always takes its second choice."""

    def wrong(condition, *choices):
        is_y_bar = choices and all(torch.is_tensor(x) and x.dtype == torch.long and x.dim() == 1 for x in choices)
        return choices[1].clone() if is_y_bar and len(choices[0]) == 9 else right(condition, *choices)

    return wrong


# ---- queue and semantic positives


@planted(core_checks.check_queue, LabelledQueue, "enqueue")
def unlabelled_rows_enter_the_queue(right):
    return lambda self, t, y, ids: right(self, t, y.clamp(min=0), ids)


@planted(core_checks.check_queue, LabelledQueue, "enqueue")
def the_pointer_does_not_move(right):
    def wrong(self, t, y, ids):
        right(self, t, y, ids)
        self.pointer.zero_()

    return wrong


@planted(core_checks.check_queue, LabelledQueue, "enqueue")
def the_tail_of_a_batch_is_dropped_at_the_end_of_the_queue(right):
    def wrong(self, t, y, ids):
        place = int(self.pointer) + (y >= 0).cumsum(0) - 1
        right(self, t, torch.where(place < self.capacity, y, -1), ids)

    return wrong


@planted(core_checks.check_objective, LabelledQueue, "enqueue")
def every_queue_holds_the_first_view(right):
    return lambda self, t, y, ids: right(self, t[:1].expand_as(t), y, ids)


@planted(core_checks.check_positives, positives, "draw_positives")
def semantic_positives_ignore_the_label(right):
    def wrong(labels, ids, y_bar, images, u, exclude_self):
        slots, valid = right(labels, ids, y_bar, images, u, exclude_self)
        return (u * len(labels)).long(), valid

    return wrong


@planted(core_checks.check_positives, positives, "draw_positives")
def an_image_may_be_its_own_semantic_positive(right):
    return lambda labels, ids, y_bar, images, u, exclude_self: right(labels, ids, y_bar, images, u, False)


@planted(core_checks.check_positives, positives, "draw_positives")
def the_first_entry_is_drawn_too_often(right):
    return lambda labels, ids, y_bar, images, u, exclude: right(labels, ids, y_bar, images, u**2, exclude)


@planted(core_checks.check_positives, positives, "draw_positives")
def rows_without_any_entry_count_as_valid(right):
    return lambda *given: (right(*given)[0], torch.ones_like(right(*given)[1]))


# ---- losses


@planted(core_checks.check_negatives, losses, "draw_negatives")
def negatives_may_be_the_row_itself(right):
    return lambda B, n, g: torch.stack([torch.randperm(B, generator=g)[:n] for _ in range(B)])


@planted(core_checks.check_negatives, losses, "draw_negatives")
def negatives_are_drawn_with_replacement(right):
    def wrong(B, n, g):
        return (torch.arange(B)[:, None] + 1 + torch.randint(B - 1, (B, n), generator=g)) % B

    return wrong


@planted(core_checks.check_negatives, losses, "draw_negatives")
def negatives_are_the_next_rows_each_time(right):
    return lambda B, n, g: (torch.arange(B)[:, None] + 1 + torch.arange(n)) % B


@planted(core_checks.check_logits, losses, "logits")
def the_temperature_multiplies(right):
    return lambda o, t, negatives, tau: right(o, t, negatives, 1 / tau)


@planted(core_checks.check_logits, losses, "logits")
def negatives_are_predictions_instead_of_targets(right):
    return lambda o, t, negatives, tau: right(t, o, negatives, tau).transpose(0, 1)


@planted(core_checks.check_objective, losses, "logits")
def every_pair_has_its_own_negatives(right):
    """The candidates of p_ij and p_ji no longer align: view i moves on by i rows."""

    def wrong(o, t, negatives, tau, ids, first):
        B = o.shape[1]
        row, turned = torch.arange(B, device=o.device)[:, None], []
        for i, view in enumerate(o):
            shift = (negatives - row) % B  # 1 to B - 1
            shift = (shift - 1 + i) % (B - 1) + 1
            turned.append(right(view[None], t, (row + shift) % B, tau, ids, first))
        return torch.cat(turned)

    return wrong


@planted(core_checks.check_objective, losses, "logits")
def an_image_is_its_own_negative(right):
    """A labelled image that stands twice in a batch pushes itself away."""
    return lambda o, t, negatives, tau, ids, first: right(o, t, negatives, tau, None, first)


@planted(core_checks.check_objective, losses, "semantic_logits")
def the_image_stays_among_the_semantic_candidates(right):
    def wrong(o, z, a, tau):
        return torch.cat([right(o, z, a, tau), a[..., None, :1].expand(*a.shape[:3], z.shape[2], 1)], -1)

    return wrong


@planted(core_checks.check_nce, losses, "masked_mean")
def invalid_rows_dilute_the_mean(right):
    return lambda x, valid: right(x if valid is None else torch.where(valid, x, 0), None)


@planted(core_checks.check_kl, losses, "invariance")
def the_kl_has_the_wrong_sign(right):
    return lambda *given, **options: -right(*given, **options)


@planted(core_checks.check_kl, losses, "invariance")
def the_kl_is_its_value_at_the_positive(right):
    """Not the expectation over all candidates: log p_ij - log p_ji of the positive alone."""

    def wrong(a, valid=None, detach="argument"):
        log_p = a.log_softmax(-1)[..., 0]
        return losses.masked_mean((log_p.detach() - log_p.transpose(0, 1)).tril(-1), valid)

    return wrong


@planted(core_checks.check_kl, losses, "invariance")
def a_view_is_compared_with_itself_too(right):
    def wrong(a, valid=None, detach="argument"):
        return right(a, valid, detach) * (len(a) - 1) / len(a)  # i = j adds zeros to the mean

    return wrong


def mean_over_pairs(log_p, log_q):
    """Mean KL(p || q) over i != j: (L, L, B, 1 + N)."""
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    return kl.sum() / (kl.numel() - kl.numel() // len(kl))  # i = j adds zeros


@planted(core_checks.check_kl_gradient, losses, "invariance")
def the_gradient_flows_through_the_first_argument(right):
    def wrong(a, valid=None, detach="argument"):
        log_p = a.log_softmax(-1)
        return mean_over_pairs(log_p, log_p.transpose(0, 1))

    return wrong


@planted(core_checks.check_kl_gradient, losses, "invariance")
def the_arguments_of_the_kl_are_swapped(right):
    """The value, a mean over ordered pairs, stays; the gradient flows through the wrong argument."""

    def wrong(a, valid=None, detach="argument"):
        log_p = a.log_softmax(-1)
        return mean_over_pairs(log_p, log_p.detach().transpose(0, 1))

    return wrong


# ---- target, optimizer, schedule


@planted(core_checks.check_ema, optim, "ema_update")
def the_target_is_a_copy(right):
    return lambda target, online, gamma: right(target, online, 0.0)


@planted(core_checks.check_ema, optim, "ema_update")
def gamma_is_swapped(right):
    return lambda target, online, gamma: right(target, online, 1 - gamma)


@planted(core_checks.check_target_follows_step, SemPPL, "before_step")
def the_target_moves_before_the_step(right):
    def wrong(self, progress):
        SemPPL.after_step(self, progress)
        self.after_step = lambda progress: None

    return wrong


@planted(core_checks.check_target_follows_step, SemPPL, "after_step")
def the_target_never_moves(right):
    return lambda self, progress: None


@planted(core_checks.check_target_follows_step, method, "ema_update")
def the_projector_has_no_average(right):
    def wrong(target, online, gamma):
        if not isinstance(target, torch.nn.Sequential):
            right(target, online, gamma)

    return wrong


@planted(core_checks.check_lars, lars, "param_groups")
def lars_adapts_biases_and_batch_norm(right):
    return lambda *modules: [{**group, "exclude": False} for group in right(*modules)]


@planted(core_checks.check_lars, lars, "param_groups")
def lars_excludes_every_parameter(right):
    return lambda *modules: [{**group, "exclude": True} for group in right(*modules)]


@planted(core_checks.check_lars, lars.LARS, "step")
def lars_decays_after_the_adaptation(right):
    """Decay outside the norm: w loses lr wd w beside the adapted step."""

    def wrong(self):
        group = self.param_groups[0]
        for p in group["params"]:
            p.data.mul_(1 - group["lr"] * group["weight_decay"])
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        right(self)
        group["weight_decay"] = decay

    return wrong


@planted(core_checks.check_lars, lars, "trust_ratio")
def lars_has_no_trust_ratio(right):
    return lambda ws, us, eta: torch.ones(len(ws)).unbind()


@planted(core_checks.check_schedule, optim, "lr_at")
def no_warm_up(right):
    return lambda config, epoch: right(config.replace(warmup_epochs=0), epoch)


@planted(core_checks.check_schedule, optim, "lr_at")
def the_rate_is_not_scaled_with_the_batch(right):
    return lambda config, epoch: right(config, epoch) * 256 / config.batch_size


# ---- views


@planted(core_checks.check_hue, views, "hue")
def hue_turns_the_other_way(right):
    return lambda x, f: right(x, -f)


@planted(core_checks.check_crop, pixels, "resize_matrix")
def crops_are_not_antialiased(right):
    def wrong(start, length, size, inner, flip=None, *_):
        out = torch.arange(size, device=start.device).view(1, -1, 1).expand(len(start), -1, 1)
        if flip is not None:
            out = torch.where(flip.view(-1, 1, 1), size - 1 - out, out)
        centre = ((out + 0.5) * length.view(-1, 1, 1) / size - 0.5).clamp(min=0)
        centre = torch.minimum(centre, length.view(-1, 1, 1) - 1) + start.view(-1, 1, 1)
        return (1 - (torch.arange(inner, device=start.device) - centre).abs()).clamp(min=0)

    return wrong


@planted(core_checks.check_crop, pixels, "resize_matrix")
def crops_see_beyond_their_box(right):
    def wrong(start, length, size, inner, flip=None, *_):
        scale = (length / size).view(-1, 1, 1)
        centre = start.view(-1, 1, 1) + (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * scale
        reach = 1 - (torch.arange(inner, device=start.device) + 0.5 - centre).abs() / scale.clamp(min=1)
        weight = reach.clamp(min=0)
        weight = weight if flip is None else torch.where(flip.view(-1, 1, 1), weight.flip(1), weight)
        return weight / weight.sum(-1, keepdim=True)

    return wrong


@planted(core_checks.check_blur, views, "blur")
def blur_is_not_normalised(right):
    def wrong(x, sigma, apply, kernel):
        return torch.where(apply.view(-1, 1, 1, 1), 0.97, 1.0) * right(x, sigma, apply, kernel)

    return wrong


@planted(core_checks.check_blur, views, "blur")
def one_sigma_blurs_the_whole_batch(right):
    return lambda x, sigma, apply, kernel: right(x, sigma[:1].expand_as(sigma), apply, kernel)


@planted(core_checks.check_jitter, views, "jitter")
def jitter_has_one_order(right):
    return lambda x, factors, order: right(x, factors, order[:1].expand_as(order))


@planted(core_checks.check_whole_view, views, "mask_background")
def the_foreground_is_masked(right):
    return lambda x, mask, apply: right(x, 1 - mask, apply)


@planted(core_checks.check_whole_view, views, "greyscale")
def greyscale_is_forgotten(right):
    return lambda x, apply: x


# ---- networks


@planted(core_checks.check_selective_kernels, resnets.SelectiveKernel, "forward")
def kernels_are_not_selected(right):
    def wrong(self, x):
        u = self.branches(x).chunk(2, 1)
        return (u[0] + u[1]) / 2

    return wrong


@planted(core_checks.check_selective_kernels, resnets, "_pool")
def shortcuts_count_pixels_beyond_the_edge(right):
    return lambda stride: torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.AvgPool2d(2, stride))


@planted(core_checks.check_memory, memory, "buffers_kept")
def recomputation_updates_running_statistics_again(right):
    return lambda network: contextlib.nullcontext()


@planted(core_checks.check_memory, memory, "in_parts")
def only_the_last_part_has_a_gradient(right):
    def wrong(network, x, n):
        z = right(network, x, n)
        first = len(x) - len(x) // n
        return torch.cat([z[:first].detach(), z[first:]])

    return wrong


@planted(core_checks.check_memory, memory, "in_parts")
def parts_are_normalised_by_the_whole_batch(right):
    return lambda network, x, n: right(network, x, 1)


# ---- hidden labels


@planted(core_checks.check_hidden, batches.Batches, "place")
def hidden_labels_leak_into_y_bar(right):
    def wrong(self, ready):
        x, batch, draws = right(self, ready)
        return x, batch._replace(oracle=self.truth_of[batch.ids]), draws

    return wrong


@planted(core_checks.check_hidden, batches.Batches, "place")
def hidden_labels_leak_into_the_queue(right):
    def wrong(self, ready):
        x, batch, draws = right(self, ready)
        return x, batch._replace(labels=self.truth_of[batch.ids]), draws

    return wrong


# ---- IFND


@planted(ifnd_checks.check_acceptance, ifnd.PseudoLabels, "of")
@planted(ifnd_checks.check_batch_step, ifnd.PseudoLabels, "of")
def images_that_are_not_accepted_are_false_negatives_too(right):
    def wrong(self, ids):
        self.accepted.fill_(True)
        return right(self, ids)

    return wrong


@planted(ifnd_checks.check_acceptance, ifnd.PseudoLabels, "of")
@planted(ifnd_checks.check_batch_step, ifnd.PseudoLabels, "of")
def pseudo_labels_are_indexed_by_place_in_the_batch(right):
    return lambda self, ids: right(self, torch.arange(len(ids), device=ids.device) % self.labels.shape[1])


@planted(ifnd_checks.check_queue_step, ifnd.PseudoLabels, "of")
def the_queue_is_indexed_by_slot(right):
    """Only where 24 ids are asked: a queue's."""
    return lambda self, ids: right(self, torch.arange(24, device=ids.device) if len(ids) == 24 else ids)


@planted(ifnd_checks.check_acceptance, ifnd.PseudoLabels, "accept")
def the_least_confident_are_accepted(right):
    def wrong(self, r):
        self.kappa.neg_()
        right(self, r)
        self.kappa.neg_()

    return wrong


@planted(ifnd_checks.check_acceptance, ifnd.PseudoLabels, "accept")
def images_are_accepted_over_all_levels_together(right):
    def wrong(self, r):
        n = round(r * int((self.labels >= 0).sum()))
        best = self.kappa.flatten().argsort(descending=True)[:n]
        self.accepted.view(-1).zero_()[best] = True

    return wrong


@planted(ifnd_checks.check_acceptance_schedule, ifnd, "acceptance_at")
def the_acceptance_rate_does_not_grow(right):
    return lambda acceptance, epoch, epochs: acceptance[1]


@planted(ifnd_checks.check_acceptance_schedule, ifnd, "acceptance_at")
def the_last_epoch_does_not_accept_all(right):
    return lambda acceptance, epoch, epochs: right(acceptance, epoch, epochs + 1)


@planted(ifnd_checks.check_confidence, ifnd, "confidence")
def confidence_has_no_temperature(right):
    return lambda v, centroids, tau, chunk_mb: right(v, centroids, 1.0, chunk_mb)


@planted(ifnd_checks.check_confidence, ifnd, "confidence")
def confidence_is_the_cosine(right):
    return lambda v, centroids, tau, chunk_mb: (right(v, centroids, tau, chunk_mb)[0], (v @ centroids.T).amax(1))


@planted(ifnd_checks.check_losses, ifnd, "false_negatives")
@planted(ifnd_checks.check_batch_step, ifnd, "false_negatives")
def a_false_negative_needs_no_label_of_its_own(right):
    """The mask is no longer symmetric: an image without a label pairs with all that have none."""
    return lambda y, y_candidates, own: (y[:, :, None] == y_candidates[:, None]) & ~own


@planted(ifnd_checks.check_losses, ifnd, "false_negatives")
@planted(ifnd_checks.check_batch_step, ifnd, "false_negatives")
def only_later_images_are_false_negatives(right):
    return lambda y, y_candidates, own: right(y, y_candidates, own).triu(1)


@planted(ifnd_checks.check_losses, ifnd, "similarities")
@planted(ifnd_checks.check_batch_step, ifnd, "similarities")
@planted(ifnd_checks.check_queue_step, ifnd, "similarities")
def an_image_is_its_own_negative_in_ifnd(right):
    return lambda q, key, candidates, own, tau: right(q, key, candidates, torch.zeros_like(own), tau)


@planted(ifnd_checks.check_losses, ifnd, "similarities")
def the_temperature_of_ifnd_multiplies(right):
    return lambda q, key, candidates, own, tau: right(q, key, candidates, own, 1 / tau)


@planted(ifnd_checks.check_losses, ifnd, "eliminate")
@planted(ifnd_checks.check_batch_step, ifnd, "eliminate")
def nothing_is_eliminated(right):
    return lambda s, fn: right(s, torch.zeros_like(fn))


@planted(ifnd_checks.check_losses, ifnd, "attract")
def attracted_images_leave_the_denominator(right):
    def wrong(s, fn):
        positive = F.pad(fn, (1, 0), value=True)
        rest = s.masked_fill(F.pad(fn, (1, 0)), -torch.inf).logsumexp(1, keepdim=True)
        return torch.where(positive, rest - s, 0).sum(1) / positive.sum(1)

    return wrong


@planted(ifnd_checks.check_losses, ifnd, "attract")
def attraction_is_a_sum(right):
    return lambda s, fn: right(s, fn) * (1 + fn.sum(1))


@planted(ifnd_checks.check_queue_step, ifnd.KeyQueue, "enqueue")
@planted(ifnd_checks.check_key_queue, ifnd.KeyQueue, "enqueue")
def the_key_queue_does_not_wrap(right):
    def wrong(self, keys, ids):
        right(self, keys, ids)
        self.pointer.zero_()

    return wrong


@planted(ifnd_checks.check_queue_step, ifnd.IFND, "key")
def keys_are_of_the_online_network(right):
    return lambda self, x: self.query(x).detach()


# ---- CARP


@planted(carp_checks.check_step, carp, "partition")
def student_and_teacher_have_different_partitions(right):
    """The teacher, which has the two large views, gets the partition in another order."""
    return lambda logits, blocks: right(logits, blocks.flip(0, 1) if len(logits) == 2 else blocks)


@planted(carp_checks.check_partition, carp, "partition")
@planted(carp_checks.check_step, carp, "partition")
def the_softmax_runs_over_all_prototypes(right):
    return lambda logits, blocks: logits.softmax(-1)[..., blocks]


@planted(carp_checks.check_partition, carp, "partition")
@planted(carp_checks.check_step, carp, "partition")
def blocks_are_always_the_same(right):
    return lambda logits, blocks: right(logits, torch.arange(blocks.numel(), device=blocks.device).view_as(blocks))


@planted(carp_checks.check_draws, carp, "draw_step")
def a_partition_serves_the_whole_run(right):
    return lambda config, step: right(config, 0)


@planted(carp_checks.check_draws, carp, "draw_step")
def the_last_prototypes_always_sit_out(right):
    return lambda config, step: right(config.replace(prototypes=24), step)


@planted(carp_checks.check_losses, carp, "consistency")
@planted(carp_checks.check_step, carp, "consistency")
def consistency_is_a_cross_entropy(right):
    def wrong(p, q):
        pairs = [-(q[u] * p[v].clamp(min=1e-7).log()).sum(-1) for v in range(len(p)) for u in range(len(q)) if v != u]
        return torch.stack(pairs).mean()

    return wrong


@planted(carp_checks.check_losses, carp, "consistency")
@planted(carp_checks.check_step, carp, "consistency")
def a_view_is_compared_with_the_teachers_own(right):
    def wrong(p, q):
        pairs = [(student * teacher).sum(-1) for student in p for teacher in q]
        return -torch.stack(pairs).clamp(1e-7, 1 - 1e-7).log().mean()

    return wrong


@planted(carp_checks.check_extremes, carp, "consistency")
def the_logarithm_is_not_clamped(right):
    def wrong(p, q):
        pairs = [(p[v] * q[u]).sum(-1) for v in range(len(p)) for u in range(len(q)) if v != u]
        return -torch.stack(pairs).log().mean()

    return wrong


@planted(carp_checks.check_losses, carp, "mean_choice")
@planted(carp_checks.check_step, carp, "mean_choice")
def the_mean_choice_is_of_students_only(right):
    return lambda p, q: p.mean((0, 1))


@planted(carp_checks.check_losses, carp, "mean_choice")
def both_networks_count_alike_in_the_mean_choice(right):
    """Half for the teacher, however few its views."""
    return lambda p, q: (p.mean((0, 1)) + q.mean((0, 1))) / 2


@planted(carp_checks.check_extremes, carp, "entropy_gap")
def the_entropy_has_the_wrong_sign(right):
    return lambda p: -right(p)


@planted(carp_checks.check_extremes, carp, "entropy_gap")
def the_entropy_is_not_offset_by_its_maximum(right):
    return lambda p: right(p) - torch.tensor(float(p.shape[1])).log()


@planted(carp_checks.check_gradients, carp.CARP, "forward")
def the_teacher_gets_a_gradient(right):
    def wrong(self, *given):
        self.target.requires_grad_(True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "no_grad", contextlib.nullcontext)
            return right(self, *given)

    return wrong


@planted(carp_checks.check_ema_before_step, carp.CARP, "after_step")
def the_teacher_moves_again_after_the_step(right):
    return lambda self, progress: carp.CARP.before_step(self, progress)


@planted(carp_checks.check_ema_before_step, carp.CARP, "before_step")
def the_teacher_has_no_prototypes_of_its_own(right):
    def wrong(self, progress):
        right(self, progress)
        self.target["prototypes"].load_state_dict(self.online["prototypes"].state_dict())

    return wrong


@planted(carp_checks.check_unit_prototypes, carp.Prototypes, "rows")
def prototypes_are_not_normalised(right):
    return property(lambda self: self.weight)


@planted(carp_checks.check_step, carp, "embed_together")
def the_embedding_is_normalised(right):
    return lambda views, networks, config: F.normalize(right(views, networks, config), dim=2)


@planted(carp_checks.check_step, parallel, "together")
@planted(ifnd_checks.check_batch_step, parallel, "together")
def batch_statistics_are_of_each_view_alone(right):
    return lambda encoder, head, views, n: torch.cat([right(encoder, head, [x], n) for x in views])


# ---- airbench and Muon


@planted(core_checks.check_muon, muon, "orthogonal")
def muon_steps_by_the_gradient_itself(right):
    return lambda u, **more: u / u.norm()


@planted(core_checks.check_muon, muon, "orthogonal")
def muon_takes_two_steps_of_newton_and_schulz(right):
    return lambda u, **more: right(u, steps=2)


@planted(core_checks.check_muon, muon.Muon, "_turn")
def muon_forgets_its_momentum(right):
    def wrong(self, w, lr):
        self.state[w]["momentum"].zero_()
        right(self, w, lr)

    return wrong


@planted(core_checks.check_muon, muon.Muon, "_turn")
def muon_lets_the_norm_grow(right):
    def wrong(self, w, lr):
        norm = w.norm()
        right(self, w, lr)
        w.mul_(norm / len(w) ** 0.5)

    return wrong


@planted(core_checks.check_whitening, networks, "begin")
def the_target_is_not_whitened(right):
    def wrong(method, images, config):
        kept = copy.deepcopy(method.target)
        right(method, images, config)
        method.target.load_state_dict(kept.state_dict())

    return wrong


@planted(core_checks.check_whitening, airbench, "normalise")
def patches_are_not_normalised(right):
    return lambda x, mean, std: x


@planted(core_checks.check_whitening, torch.linalg, "eigh")
def spreads_are_not_squared(right):
    return lambda moment: (right(moment)[0] ** 2, right(moment)[1])


@planted(core_checks.check_airbench, networks.Encoder, "forward")
def the_stem_has_no_gelu(right):
    def wrong(self, x):
        for layer in (self.stem[0], *self.stages):
            x = layer(x)
        return x.mean((2, 3))

    return wrong


# ---- the proof


@functools.cache
def passes(check, device):
    check(device)


def test_at_least_twelve_bugs_are_planted():
    assert len(PLANTED) >= 12


@pytest.mark.parametrize("check, owner, name, make", PLANTED)
def test_planted_bug_is_found(check, owner, name, make, device, monkeypatch):
    passes(check, device)
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    with pytest.raises(AssertionError):
        check(device)
