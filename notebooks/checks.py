"""Answers to the exercises of the notebooks: `check(name=answer, ...)` prints a line for each.

    chance: open                   the answer is None, or a function that returns None
    chance: right
    chance: not yet. ...           what is wrong, or a hint; never the solution, which is folded below the exercises

Numbers may be a per cent off, whole ones must be exact. A function is called with random and with awkward inputs,
and what it gives is compared with the module's own; the line says in which case the two differ. Nothing is raised.
"""

import json
import math
import traceback
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import semppl_mini as s
from semppl_mini import losses
from semppl_mini.parallel import neighbours
from semppl_mini.positives import draw_positives
from semppl_mini.votes import vote


class Open(Exception):
    """The function has no body yet."""


class Wrong(Exception):
    """The text says why, or helps on."""


def check(**answers) -> None:
    """Print a line an exercise. ValueError: there is no exercise of this name."""
    for name, answer in answers.items():
        print(verdict(name, answer))


def verdict(name: str, answer) -> str:
    if name not in EXERCISES:
        raise ValueError(f"There is no exercise {name!r}; choose among {', '.join(EXERCISES)}.")
    if answer is None:
        return f"{name}: open"
    try:
        EXERCISES[name](answer)
    except Open:
        return f"{name}: open"
    except Wrong as wrong:
        return f"{name}: not yet. {wrong}"
    return f"{name}: right"


def kept_pairs() -> dict:
    """{labels: {method: history}} of kept runs of notebook 00's preset, one seed."""
    results = Path(__file__).resolve().with_name("results")
    demo = json.loads((results / "demo.json").read_text())["seeds"][0]
    files = [results / "labels" / f"{name}-30-seed0.json" for name in ("semppl", "augmentation")]
    few = [json.loads(path.read_text()) for path in files]
    pairs = {100: (demo["history"], demo["augmentation_only"]), 30: [run["history"] for run in few]}
    return {labels: dict(zip(("SemPPL", "augmentation-only"), pair, strict=True)) for labels, pair in pairs.items()}


def need(true: bool, hint: str) -> None:
    if not true:
        raise Wrong(hint)


# ---- kinds of answers: each makes a function that raises Open or Wrong, or returns ----------------------------------


def number(right: float, hint: str, slips: dict | None = None):
    """A number is asked for. slips: {a wrong one that is often given: its own hint}."""

    def judge(given) -> None:
        x = float_of(given)
        if x == right or (isinstance(right, float) and math.isclose(x, right, rel_tol=0.01)):
            return
        near = [text for slip, text in (slips or {}).items() if math.isclose(x, slip, rel_tol=0.01)]
        need(not isinstance(right, int) or x.is_integer() or bool(near), f"A whole number is asked for. {hint}")
        raise Wrong(near[0] if near else hint)

    return judge


def float_of(given) -> float:
    try:
        return float("text" if isinstance(given, (bool, str)) else given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise Wrong(f"A number is asked for, and this is a {type(given).__name__}.") from None


def word(right: str, others: tuple, hint: str):
    """One of some words is asked for."""

    def judge(given) -> None:
        offered = isinstance(given, str) and given in (right, *others)
        need(offered, "Give one of the words that the exercise offers, in quotation marks.")
        need(given == right, hint)

    return judge


def code(cases, compare):
    """A function is asked for. cases() yields (where, hint, arguments, what the module gives), and
    compare(given, right) raises Wrong, or returns whether they are the same."""

    def judge(function) -> None:
        need(callable(function), f"A function is asked for, and this is a {type(function).__name__}.")
        for i, (where, hint, arguments, right) in enumerate(cases()):
            given = outcome(function, arguments, where)
            if given is None and i == 0:
                raise Open
            need(given is not None, f"It returns None {where}.")
            try:
                same = compare(given, right)
            except Wrong as wrong:
                raise Wrong(f"It goes wrong {where}. {wrong}") from None
            except Exception as error:
                raise Wrong(f"What it returns {where} cannot be compared: {type(error).__name__}.") from None
            need(same, f"It goes wrong {where}. {hint}")

    return judge


def outcome(function, arguments: tuple, where: str):
    """function(*arguments); Wrong, with the error and its line, if it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        text = str(error).strip().partition("\n")[0][:200]
        line = f" in line {lines[-1]} of its cell" if lines else ""
        raise Wrong(f"It raises {type(error).__name__}{line} {where}: {text}") from None


def tensor_like(given, right: Tensor, what: str) -> Tensor:
    """`given` as a tensor of the shape of `right`, or Wrong."""
    need(isinstance(given, Tensor), f"{what} must be a tensor, and is a {type(given).__name__}.")
    need(given.shape == right.shape, f"{what} must have shape {tuple(right.shape)}, and has {tuple(given.shape)}.")
    return given.detach().to(right.dtype)


def pair(given, names: str) -> tuple:
    need(isinstance(given, (tuple, list)) and len(given) == 2, f"Return {names}, in this order.")
    return given


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=rng_of(seed)), dim=-1)


# ---- my_vote(o (L, B, D), keys (A, Q, D), labels (Q,)) -> y_bar (B,) ------------------------------------------------


def kinds_of(o: Tensor, keys: Tensor, y_bar: Tensor, votes: Tensor) -> dict:
    """Which rows have labels with equally many votes, and which another label with fewer, but nearer ones."""
    each = F.one_hot(votes.clamp(min=0), 5)  # (B, L * A, C)
    counts, cosine = each.sum(1), torch.einsum("lbd,aqd->blaq", o, keys).amax(-1).flatten(1)  # (B, C), (B, L * A)
    tied = (counts == counts.amax(1, keepdim=True)).sum(1) > 1
    outweighed = ~tied & ((each * cosine[..., None]).sum(1).argmax(1) != y_bar)
    return {"tied": tied, "outweighed": outweighed, "clear": ~tied & ~outweighed, "any": tied | ~tied}


def vote_cases():
    def case(where, hint, L, A, kind, Q=30, empty=0):
        o, keys = random_unit(L, 300, 8, seed=L), random_unit(A, Q, 8, seed=7 + A)
        labels = torch.randint(5, (Q,), generator=rng_of(A))
        labels[:empty], keys[:, :empty] = -1, o[0, :empty] if empty < Q else 0
        y_bar, votes = vote(o, keys, labels, 1, 5)
        rows = kinds_of(o, keys, y_bar, votes)[kind]
        return where, hint, (o[:, rows], keys, labels), y_bar[rows]

    yield case("with one view and one queue", "The vote is the label of the key with the largest cosine.", 1, 1, "any")
    yield case("with three views and three queues", "Every view asks every queue, and the most frequent label wins.",
               3, 3, "clear")  # fmt: skip
    yield case("with two views and five queues", "There may be more queues than views, or fewer.", 2, 5, "clear")
    yield case("where a label has fewer votes, but nearer ones", "All votes count alike.", 3, 3, "outweighed", Q=8)
    yield case("where labels have equally many votes", "Then the larger sum of the cosines wins.", 2, 2, "tied")
    ways = torch.eye(2)
    tied = ways[:1].view(1, 1, 2), torch.stack([ways, ways.flip(0)]), torch.tensor([3, 1])
    yield "where votes and cosines tie", "Then the smaller label wins.", tied, vote(*tied, 1, 5)[0]
    yield case("with empty slots in the queue", "A slot whose label is -1 is nobody's neighbour, however near.", 2, 2,
               "any", empty=10)  # fmt: skip
    yield case("with an empty queue", "All abstain: there is no pseudo-label.", 2, 2, "any", Q=4, empty=4)


def same_labels(given, right: Tensor) -> bool:
    return torch.equal(tensor_like(given, right, "The pseudo-labels"), right)


# ---- my_positives(labels (Q,), ids (Q,), y_bar (B,), image (B,), u (B, R)) -> slots (B, R), valid (B,) --------------


def positive_cases():
    def case(where, hint, labels, ids, y_bar, image):
        labels, ids, y_bar, image = map(torch.tensor, (labels, ids, y_bar, image))
        u = ((torch.arange(60) + 0.5) / 60).expand(len(y_bar), 60)  # of up to 6 entries, each is drawn equally often
        slots, valid = draw_positives(labels, ids, y_bar, image, u, True)
        return where, hint, (labels, ids, y_bar, image, u), (slots, valid, labels, ids, y_bar, image)

    hint = "A row is valid if its label is in the queue, on an image that is not its own."
    yield case("with a queue of five images", hint, [5, 7, 5, 5, 7], [1, 2, 3, 4, 5], [5, 7, 5], [91, 92, 93])
    yield case("with a class that is not in the queue", hint, [5, 7, 5, 5], [1, 2, 3, 4], [5, 1, 7], [91, 92, 93])
    yield case("where an image is in the queue itself", hint, [5, 7, 5, 5, 7], [1, 2, 3, 1, 5], [5, 7, 7], [1, 2, 9])
    yield case("where an image meets only itself", hint, [5, 7, 7, 5], [1, 2, 2, 3], [7, 5], [2, 3])
    yield case("with empty slots and a row without a label", f"{hint} -1 is no label.", [5, -1, 7, -1, 5],
               [1, -1, 2, -1, 3], [5, -1, 7], [91, 92, 93])  # fmt: skip


def same_draws(given, right: tuple) -> bool:
    slots, valid, labels, ids, y_bar, image = right
    given_slots, given_valid = pair(given, "slots (B, R) and valid (B,)")
    if not torch.equal(tensor_like(given_valid, valid, "valid"), valid):
        return False
    mine = tensor_like(given_slots, slots, "slots")[valid]  # rows without a draw may hold anything
    need(bool(((mine >= 0) & (mine < len(labels))).all()), "A slot is a place in the queue: 0 to Q - 1.")
    need(bool((labels[mine] == y_bar[valid][:, None]).all()), "An entry of another label is drawn.")
    need(bool((ids[mine] != image[valid][:, None]).all()), "An image draws an entry of itself.")
    counts = [F.one_hot(x, len(labels)).sum(1) for x in (mine, slots[valid])]  # (B, Q)
    need(torch.equal(*counts), "The draws are not uniform: of n entries, each takes a share of [0, 1) as long as any.")
    return True


# ---- my_nce(o (B, D), t (B, D), negatives (B, N), tau) -> the mean loss ---------------------------------------------


def nce_cases():
    def case(where, hint, B, N, tau):
        o, t = random_unit(B, 8, seed=B).requires_grad_(), random_unit(B, 8, seed=1 + B)
        negatives = losses.draw_negatives(B, N, rng_of(N))
        a = losses.logits(o[None], t[None], negatives, tau)
        loss = losses.nce(a)
        (gradient,) = torch.autograd.grad(loss, o, retain_graph=True)
        slips = {
            -loss: "The logarithm of a probability is negative, and the loss is not.",
            B * loss: "The loss is a mean over the images.",
            (a[..., 1:].logsumexp(-1) - a[..., 0]).mean(): "The positive is a candidate, too: there are 1 + N of them.",
            losses.nce(a * tau): "The cosines are divided by the temperature before the softmax.",
        }
        return where, hint, (o, t, negatives, tau), (loss.detach(), gradient, o, slips)

    yield case("with six images and three negatives each", "The softmax is over 1 + N cosines.", 6, 3, 0.2)
    yield case("with one negative each", "N may be anything from one to B - 1.", 9, 1, 0.5)
    yield case("with a batch of 40", "Row m of `negatives` holds rows of t, in any order.", 40, 12, 0.1)
    yield case("with a temperature of 0.001", "exp of a large number is infinite; a softmax stays as it is if the same "
               "number is taken from all its logits.", 8, 5, 0.001)  # fmt: skip


def same_loss(given, right: tuple) -> bool:
    loss, gradient, o, slips = right
    value = tensor_like(given, loss, "The loss")
    if not torch.isclose(value, loss, rtol=1e-4, atol=1e-5):
        near = [text for slip, text in slips.items() if torch.isclose(value, slip.detach(), rtol=1e-4)]
        if near:
            raise Wrong(near[0])
        return False
    need(given.requires_grad, "The value is right, and no gradient comes back to o.")
    (mine,) = torch.autograd.grad(given, o, allow_unused=True)
    there = mine is not None and torch.allclose(mine, gradient, rtol=1e-3, atol=1e-4)
    need(there, "The value is right, and the gradient of o is not: some of its way is cut.")
    return True


# ---- my_lars(w, g, v, lr, mu, wd, eta) -> the new w, the new v ------------------------------------------------------


def lars_cases():
    def case(where, hint, *shape, mu=0.9, wd=0.0, v=0.0, w=1.0, g=1.0):
        w, g, v = (c * torch.randn(*shape, generator=rng_of(seed)) for seed, c in enumerate((w, g, v)))
        weight = torch.nn.Parameter(w.clone())
        lars = s.lars.LARS([{"params": [weight], "exclude": weight.dim() <= 1}], 0.5, mu, wd, 0.1)
        lars.state[weight]["momentum"].copy_(v)
        weight.grad = g.clone()
        lars.step()
        return where, hint, (w, g, v, 0.5, mu, wd, 0.1), (weight.detach(), lars.state[weight]["momentum"])

    yield case("with no velocity yet, and no decay", "u is g made eta |w| / |g| times as long.", 4, 3)
    yield case("with a convolution's weights", "A norm is that of the whole tensor.", 4, 3, 2, 2)
    yield case("with a velocity from the step before", "v keeps mu of itself, and u is added to it.", 4, 3, v=1.0)
    yield case("with weight decay", "wd w enters u before its norm is taken.", 4, 3, wd=0.3, v=0.1)
    yield case("where the weights are all zero", "The ratio needs two norms above zero; without it u stays as it is.",
               4, 3, w=0.0)  # fmt: skip
    yield case("where the gradient is zero", "The ratio needs two norms above zero; without it u stays as it is.",
               4, 3, g=0.0, v=1.0)  # fmt: skip
    yield case("with a bias", "What has one dimension gets plain momentum SGD: no decay, no ratio.", 5, wd=0.3, v=1.0)


def same_step(given, right: tuple) -> bool:
    mine = [tensor_like(x, y, name) for x, y, name in zip(pair(given, "w and v"), right, "wv", strict=True)]
    v_is_right = torch.allclose(mine[1], right[1], rtol=1e-4, atol=1e-6)
    need(v_is_right or not torch.allclose(mine[0], right[0], rtol=1e-4, atol=1e-6), "w is right, and v is not.")
    return v_is_right and torch.allclose(mine[0], right[0], rtol=1e-4, atol=1e-6)


# ---- nearest_positives(o (B, D), keys (Q, D), labels (Q,), y_bar (B,), R) -> slots (B, R), valid (B,) ---------------


def nearest_cases():
    def case(where, hint, labels, R, y_bar=(0, 1, 2, 1, 0)):
        labels, y_bar = torch.tensor(labels), torch.tensor(y_bar)
        o, keys = random_unit(len(y_bar), 8, seed=R), random_unit(len(labels), 8, seed=len(labels))
        keys[labels < 0] = 0
        slots, valid = torch.zeros(len(y_bar), R, dtype=torch.long), (labels == y_bar[:, None]).sum(1) >= R
        valid &= y_bar >= 0
        for row in valid.nonzero()[:, 0]:
            of_class = torch.where(labels == y_bar[row], labels, -1)
            slots[row] = neighbours(o[row][None], keys, of_class, R)[1][0]
        return where, hint, (o, keys, labels, y_bar, R), (slots, valid)

    many, rank = [0, 1, 2] * 6, "Of the keys with the row's label take those with the R largest cosines, nearest first."
    yield case("with one positive each", rank, many, 1)
    yield case("with four positives each", rank, many, 4)
    yield case("with a class of fewer than R keys", "A row is valid if its label has R keys.", [0, 0, 0, 1, 1, 2], 2)
    yield case("with a row without a label", "-1 is no label, nor are slots of -1 a class.", [*many, -1, -1, -1], 3,
               (0, -1, 2, 1))  # fmt: skip


def same_nearest(given, right: tuple) -> bool:
    slots, valid = right
    given_slots, given_valid = pair(given, "slots (B, R) and valid (B,)")
    need(torch.equal(tensor_like(given_valid, valid, "valid"), valid), "It is `valid` that differs: a row is valid if "
         "there are R keys of its label, and -1 is no label.")  # fmt: skip
    return torch.equal(tensor_like(given_slots, slots, "slots")[valid], slots[valid])


# ---- expected(s, a) -> purity ---------------------------------------------------------------------------------------


def purity_cases():
    def case(where, hint, s, a):
        return where, hint, (s, a), s + (1 - s) * a

    yield case("where half is labelled and every other vote is right", "Half of the images are never wrong.", 0.5, 0.5)
    yield case("where no image is labelled", "Then every positive hangs on a vote.", 0.0, 0.3)
    yield case("where all images are labelled", "Then no positive hangs on a vote.", 1.0, 0.3)
    yield case("where all votes are wrong", "The labelled images still draw their own class.", 0.25, 0.0)
    for shares in torch.rand(5, 2, generator=rng_of(0)).tolist():
        yield case("for other shares", "Add the right positives of the labelled images and of the rest.", *shares)


def same_number(given, right: float) -> bool:
    return math.isclose(float_of(given), right, rel_tol=1e-4, abs_tol=1e-6)


# ---- mean_std(images uint8 (n, 3, H, W)) -> mean (3,), std (3,) -----------------------------------------------------


def image_cases():
    def case(where, hint, images):
        x = images.double().movedim(1, 0).flatten(1) / 255  # (3, all pixels)
        return where, hint, (images,), (x.mean(1), x.std(1))

    def noise(n, *size, least=0, most=256):  # grey
        return torch.randint(least, most, (n, 1, *size), generator=rng_of(n)).to(torch.uint8).expand(-1, 3, -1, -1)

    yield case("with one image", "White is 1: 255 parts of 255.", noise(1, 40, 40))
    yield case("with images that are not square", "Rows and columns count alike.", noise(5, 12, 30))
    yield case("with colours that differ", "Each colour has its own mean and deviation, over all images and pixels.",
               noise(8, 16, 16) // torch.tensor([1, 2, 4], dtype=torch.uint8).view(3, 1, 1))  # fmt: skip
    dark, light = noise(20, 16, 16, most=30), noise(20, 16, 16, least=200)
    yield case("with dark and light images", "How the images differ from each other belongs to the deviation, too.",
               torch.cat([dark, light]))  # fmt: skip
    yield case("with images of unlike darkness", "All pixels count alike, whichever image they are of.",
               torch.cat([dark, dark, dark, light]))  # fmt: skip


def same_pair(given, right: tuple) -> bool:
    both = zip(pair(given, "mean and std"), right, ("mean", "std"), strict=True)
    mean, std = (torch.allclose(tensor_like(x, y, name), y, rtol=1e-2) for x, y, name in both)
    need(mean or std, "Neither of the two is right: look at the scale, and at what is averaged.")
    need(mean, "The standard deviation is right, and the mean is not.")
    return std


# ---- the exercises by name, as the notebooks have them --------------------------------------------------------------

EXERCISES = {
    # 00
    "chance": number(1 / 10, "How many classes are there, and how many of them are the right one?",
                     {0: "Even who knows nothing is right now and then."}),
    "votes_of_four": number(4 * 4, "Each large view has a queue of its own.",
                            {4: "That is what one of the views gets.", 8: "There are as many queues as views."}),
    "gap": word("wider", ("narrower", "the same"), "Compare the last epochs: how far is each curve from its partner?"),
    # 01
    "kl": number(math.log(3) / 2, "Add p log(p / q) over both outcomes, with the natural logarithm.",
                 {-math.log(3) / 2: "It is never negative: p stands above q in the logarithm.",
                  math.log2(3) / 2: "The module takes the natural logarithm."}),
    "steps": number(1 + int(math.log(0.01) / math.log(0.996)), "What is left of the start after n steps?"),
    "life": number(2000, "How many entries does a step bring, and how many does the queue hold?",
                   {20: "Only labelled images enter.", 0.2: "A step brings far less than fills the queue."}),
    "own_class": number(1.0, "Each negative is of the image's class with the same probability; how many are there?",
                        {0.1: "That is the share of them; how many are they?"}),
    "tie_loss": number(math.log(2), "Which candidates keep a weight as tau falls, and how do they share it?",
                       {0.5: "That is the probability of the positive; the loss is its negative logarithm.",
                        math.log(3): "The farthest of the three loses its weight as tau falls.",
                        0: "Another candidate is as near as the positive."}),
    "my_vote": code(vote_cases, same_labels),
    "my_positives": code(positive_cases, same_draws),
    "my_nce": code(nce_cases, same_loss),
    "my_lars": code(lars_cases, same_step),
    # 02
    "expected": code(purity_cases, same_number),
    "agreeing": number(10 * 0.1**4, "The first vote may be for any class; what must each of the others do?",
                       {0.1**4: "That is for one class; any of them will do.",
                        0.1: "That is for one of the other votes; how many must follow the first?"}),
    "overlap": number(500 * 500 / 45000, "With what probability is an image of the second draw in the first one, too?",
                      {500 / 45000: "That is the probability for one image; how many are drawn?",
                       0: "Some are drawn twice by chance."}),
    # 03
    "runs_needed": number((1 + 3 * 3) * 5, "Which of the runs do all questions share?",
                          {60: "The preset's own run answers every question, and is done once a seed.",
                           320: "One change at a time: combinations are not run.", 10: "That is for one seed."}),
    "slots": number(10 * 64, "How many keys does a step bring?", {1280: "Only labelled images enter."}),
    "weight": number(math.exp(4), "A weight is the exponential of the cosine over tau; take the ratio of two.",
                     {math.exp(0.4): "The cosines are divided by tau before the exponential.",
                      4: "That is how far the logits are apart; the softmax takes their exponential.",
                      math.exp(-4): "The nearer one weighs more."}),
    "nearest_positives": code(nearest_cases, same_nearest),
    # 04
    "one_cluster": number(0.0, "Who is left in the denominator when all negatives count as false?"),
    "precision": number(1 / 10, "The pairs that are found are then like pairs drawn at random.",
                        {0.9: "That is the share of the pairs that are wrong."}),
    "recall": number(10 / 30 / 4, "Of the pairs of one class, how many lie in one cluster, and are accepted?",
                     {1 / 3: "So it were if all images were accepted.", 1 / 6: "Both of a pair must be accepted.",
                      1 / 4: "These are the accepted pairs; some of them lie in different clusters.",
                      1 / 30: "That is of all pairs of images; of one class more lie together."}),
    # 05
    "n_p": number(65536 // 512, "Each prototype is in exactly one block."),
    "often": number(511 / 65535, "How many places has the other prototype, and how many of them are in the block?",
                    {511: "That is the number of places in the block; a share is asked for."}),
    "worst": number(math.log(512), "How uneven can the mean choice be? Put that into the formula of the second term.",
                    {0: "That is the best: all prototypes used alike.", math.log2(512): "Take the natural logarithm.",
                     math.log(65536): "The loss looks at one block at a time."}),
    # 06
    "variance": number(22.0, "How far are the rows from the mean of all, not from that of their process?",
                       {2: "So it were if all processes had the same mean.",
                        20: "That is the spread of the means; within a process there is some, too.",
                        sum(x * x for x in (6, 2, 2, 6)) / 3 + 2: "The variance is a mean over all, of squares."}),
    "lines": number(3600 // 128, "A step is a step of the whole batch, whoever does it; how many are in an epoch?",
                    {48: "Two processes share a step, they do not do two.", 20: "The run goes on after it was stopped.",
                     8: "The log goes on in the same file."}),
    "gigabytes": number(4 * (20 * 65536) * 256 * 4 / 1e9, "A queue a large view, a float32 a number.",
                        {20 * 65536 * 256 * 4 / 1e9: "There is a queue for each large view.",
                         20 * 65536 * 256 * 16 / 8e9: "The devices do not share the queues: each has all of them.",
                         20 * 65536 * 256 * 16 / 2**30: "A GB is here a thousand million bytes."}),
    # 07
    "left_over": number(1000 % 128, "Steps are whole: what is too little for one more waits.",
                        {1000 // 128: "So many steps there are; how many images are in none of them?",
                         0: "Is it a whole number of batches?",
                         128 - 1000 % 128: "So many are lacking for one more step; how many are there?"}),
    "epochs_needed": number(400 // (162 // 32), "How many whole steps are in an epoch?",
                            {400 / (162 / 32): "An epoch has whole steps only.",
                             400 / 32: "How many steps an epoch has depends on the number of images, too.",
                             400: "So it were with one step an epoch."}),
    "mean_std": code(image_cases, same_pair),
    # 08
    "low": number(1.0, "The mean less half the width: Student's t times the standard deviation over the root of n.",
                  {1.2: "The standard deviation of a sample divides by one less than n.",
                   1.04: "One decimal is asked for: that is it, rounded.",
                   3 - 2.776 * 2.5**0.5: "The spread of a mean of n differences is smaller, by the root of n.",
                   5.0: "That is the upper end."}),
    "lucky": number(30 * 0.025, "How often does an interval miss 0, and on which side of it does it then lie?",
                    {1.5: "Half of those that miss 0 lie below it.", 0.025: "That is for one of them."}),
    "votes": number(4, "Every queue gives the view its nearest neighbour.",
                    {16: "So many get all four views together.", 1: "There are more queues than one."}),
}  # fmt: skip
