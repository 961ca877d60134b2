"""What the three papers say, measured again in miniature: the claims, and the rule that judges them.

    python notebooks/claims.py                      all runs that are missing; a run that ends leaves one JSON file
    python notebooks/claims.py --only 3 --seeds 5   those of claim 3 alone
    python notebooks/claims.py --part 1 2           every second of them, for two processes side by side

A claim compares arms (arms.py) that share seed, labelled images and steps. Its effect is the mean over seeds of a
difference, with the 95% interval of Student's t, and `verdict` makes a word of it. Claims, minimum effects and the rule
were committed before the first of the runs.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from arms import RESULTS, SETTINGS, images_for, run_missing
from scipy.stats import t as student

from semppl_mini.keeping.command import Parser, command

# ---- what is measured in a run, a share each -----------------------------------------------------------------------


def linear(run: dict) -> float:
    """linear"""
    return run["read"].get("classifier", run["read"]["linear"])


def pseudo_labels(run: dict) -> float:
    """right pseudo-labels"""
    return run["pseudo_label_accuracy"][-1]


def lead(run: dict) -> float:
    """correlation of one epoch's gain in pseudo-labels with the next one's in k-NN"""
    y, x = (np.diff([v or 0 for v in run[name]]) for name in ("pseudo_label_accuracy", "knn20_by_epoch"))
    return float(np.corrcoef(y[:-1], x[1:])[0, 1]) if len(x) > 2 else 0.0  # of one pair there is none


def removed(run: dict) -> float:
    """false negatives removed"""
    return 1 - run["last"]["false_negatives"] / run["last"]["false_negatives_before"]


def teacher_ahead(run: dict) -> float:
    """linear read-out of the teacher less that of the student"""
    return run["read"]["linear"] - run["read"]["student"]["linear"]


def clusters_gained(run: dict) -> float:
    """NMI of clusters and classes less that before training"""
    return run["read"]["clusters"]["nmi"] - run["read"]["clusters, untrained"]["nmi"]


# ---- claims --------------------------------------------------------------------------------------------------------


def ahead(one: str, other: str):
    """The effect of the first arm against the second."""
    return lambda m: m[one] - m[other]


def fewer_errors(m: dict, classes: str = "") -> float:
    """The share of InfoNCE's errors that are gone when no false negative is left."""
    error = 1 - m[f"infonce{classes}"]
    return (m[f"oracle-eliminate{classes}"] - m[f"infonce{classes}"]) / max(error, 0.01)


@dataclass(frozen=True)
class Claim:
    """One row a data set. effect: {arm: measure} of one seed -> a share; positive: as the paper says."""

    number: str
    says: str
    place: str  # in the paper; "recalled": not looked up
    arms: tuple[str, ...]
    effect: Callable[[dict], float]
    least: float  # the minimum effect
    reason: str  # for the minimum effect
    measure: Callable[[dict], float] = linear
    harmless: bool = False  # the claim is that something costs less than `least`
    on: tuple[str, ...] = ("digits",)


BOTH = ("digits", "cifar10")
FIRST = "1 2 3 4 5 7 8 11 12 16 18 20".split()  # in the order of running
USUAL = "about the least that five seeds on 1,000 images can tell, or three on 5,000"
TOLERATED = "what counts as an effect elsewhere"
CLAIMS = (
    Claim("1", "Semantic positives beat augmentations alone.", "SemPPL, abstract",
          ("augmentation-only", "semppl"), ahead("semppl", "augmentation-only"), 0.02, USUAL, on=BOTH),
    Claim("2a", "Pseudo-labels get better first, features follow.", "SemPPL, abstract: a reinforcing cycle",
          ("semppl",), lambda m: m["semppl"], 0.3, "below 0.3 one explains less than a tenth of the other", lead),
    Claim("2b", "Better pseudo-labels make better features: frozen ones, those of a third of the epochs, fall behind.",
          "SemPPL, abstract: a reinforcing cycle", ("frozen", "semppl"), ahead("semppl", "frozen"), 0.02, USUAL,
          on=BOTH),
    Claim("3a", "The majority of all 16 votes is right more often than one vote.", "SemPPL, section 4",
          ("4-views-one-vote", "4-views"), ahead("4-views", "4-views-one-vote"), 0.02,
          "a tenth of the errors, if 20% are wrong", pseudo_labels),
    Claim("3b", "The majority of all 16 votes is right more often than one view's four.", "SemPPL, section 4",
          ("4-views-one-asks", "4-views"), ahead("4-views", "4-views-one-asks"), 0.02,
          "a tenth of the errors, if 20% are wrong", pseudo_labels),
    Claim("4a", "One neighbour is enough: five are not better.", "SemPPL, appendix D",
          ("semppl", "k=5"), ahead("semppl", "k=5"), 0.02, TOLERATED, harmless=True),
    Claim("4b", "One neighbour is enough: twenty are not better.", "SemPPL, appendix D",
          ("semppl", "k=20"), ahead("semppl", "k=20"), 0.02, TOLERATED, harmless=True),
    Claim("5a", "Wrong pseudo-labels do little harm: a fifth of them changed at random.", "SemPPL, analysis (recalled)",
          ("semppl", "flips=0.1", "flips=0.2", "flips=0.4"), ahead("flips=0.2", "semppl"), 0.02, TOLERATED,
          harmless=True, on=BOTH),
    Claim("5b", "Wrong pseudo-labels do little harm: true ones would not be better.", "SemPPL, analysis (recalled)",
          ("semppl", "oracle"), ahead("semppl", "oracle"), 0.02, TOLERATED, harmless=True, on=BOTH),
    Claim("6a", "Semantic positives help BYOL's loss, too.", "SemPPL, analysis (recalled)",
          ("byol", "byol-semantic"), ahead("byol-semantic", "byol"), 0.02, USUAL),
    Claim("6b", "Semantic positives help SimCLR's loss, too.", "SemPPL, analysis (recalled)",
          ("simclr", "simclr-semantic"), ahead("simclr-semantic", "simclr"), 0.02, USUAL),
    Claim("7a", "Five times the labels help.", "SemPPL, tables of 1% and 10%",
          ("labels-x0.2", "semppl", "labels-x5", "labels-x15"), ahead("labels-x5", "semppl"), 0.02, USUAL, on=BOTH),
    Claim("7b", "With few labels SemPPL beats supervised-only.", "SemPPL, tables of 1% and 10%",
          ("supervised-x0.2", "labels-x0.2", "supervised", "semppl"), ahead("semppl", "supervised"), 0.02, USUAL,
          on=BOTH),
    Claim("7c", "With 15 times as many, supervised-only overtakes.", "ours",
          ("supervised-x5", "labels-x5", "supervised-x15", "labels-x15"), ahead("supervised-x15", "labels-x15"), 0.02,
          USUAL, on=BOTH),
    Claim("8", "Masked backgrounds remove a shortcut: textures that tell the class in training only.",
          "ReLICv2, used in SemPPL, section 4", ("textures-mask=0", "textures-mask=0.1", "textures-mask=0.5"),
          ahead("textures-mask=0.5", "textures-mask=0"), 0.05, "a shortcut worth the name takes more than that"),
    Claim("9a", "Three semantic positives beat one.", "SemPPL, section 4: three",
          ("positives=1", "semppl"), ahead("semppl", "positives=1"), 0.02, USUAL),
    Claim("9b", "A queue of ten batches beats one of a batch.", "SemPPL, section 4: 20 batches",
          ("queue=128", "semppl"), ahead("semppl", "queue=128"), 0.02, USUAL),
    Claim("9c", "Ten negatives are enough: all others of the batch are not better.", "SemPPL, section 4: ten",
          ("negatives=10", "semppl", "negatives=127"), ahead("negatives=10", "negatives=127"), 0.02, TOLERATED,
          harmless=True),
    Claim("10", "Four views beat two, in as many steps.", "SemPPL, section 4: four, and two small ones",
          ("semppl", "4-views"), ahead("4-views", "semppl"), 0.02, USUAL),
    Claim("11", "False negatives do more harm the more classes there are: the share of errors that go with them, of "
          "ten classes and of two.", "IFND, figure 1",
          ("infonce-2-classes", "oracle-eliminate-2-classes", "infonce-5-classes", "oracle-eliminate-5-classes",
           "infonce", "oracle-eliminate"), lambda m: fewer_errors(m) - fewer_errors(m, "-2-classes"), 0.05,
          "one error in twenty"),
    Claim("12a", "With pairs found by clusters, elimination is safer than attraction.", "IFND, method (recalled)",
          ("ifnd-attract", "ifnd"), ahead("ifnd", "ifnd-attract"), 0.02, USUAL, on=BOTH),
    Claim("12b", "With true pairs, attraction wins.", "IFND, method (recalled)",
          ("oracle-eliminate", "oracle-attract"), ahead("oracle-attract", "oracle-eliminate"), 0.02, USUAL, on=BOTH),
    Claim("13", "Accepting more and more images beats a fixed half.", "IFND, method: incremental",
          ("ifnd-fixed-rate", "ifnd"), ahead("ifnd", "ifnd-fixed-rate"), 0.02, USUAL),
    Claim("14", "Clusters on three levels beat those on one.", "IFND, method: hierarchical",
          ("ifnd-one-level", "ifnd"), ahead("ifnd", "ifnd-one-level"), 0.02, USUAL),
    Claim("15a", "Clusters remove a real share of the false negatives.", "IFND, abstract",
          ("ifnd",), lambda m: m["ifnd"], 0.25, "a quarter, or most of them stay", removed, on=BOTH),
    Claim("15b", "Removing them makes better features.", "IFND, abstract",
          ("infonce", "ifnd"), ahead("ifnd", "infonce"), 0.02, USUAL, on=BOTH),
    Claim("16", "Blocks learn where one softmax over all prototypes does not.", "CARP, abstract: stability",
          ("carp-one-block", "carp"), ahead("carp", "carp-one-block"), 0.02, USUAL, on=BOTH),
    Claim("17", "The best block is neither small nor large: the preset's beats both, 4 and all 1,024.",
          "CARP, ablations (recalled)", ("carp-block=4", "carp", "carp-one-block"),
          lambda m: m["carp"] - max(m["carp-block=4"], m["carp-one-block"]), 0.02, USUAL),
    Claim("18", "Partitions drawn anew beat fixed ones.", "CARP, abstract: random partitions",
          ("carp-fixed", "carp"), ahead("carp", "carp-fixed"), 0.02, USUAL),
    Claim("19", "Clusters are of use without any label: they tell more of the classes than before training.",
          "CARP, table 2", ("carp",), lambda m: m["carp"], 0.1,
          "on CIFAR-10 an untrained network has 8 (docs/results.md): more than twice that", clusters_gained),
    Claim("20", "The teacher reads out better than the student.", "CARP, official code",
          ("carp",), lambda m: m["carp"], 0.01, "two networks of one run differ by little", teacher_ahead),
    Claim("21", "In about equal minutes SemPPL, which has labels, beats IFND and CARP, which have none.", "ours",
          ("carp", "ifnd", "semppl"),  # four epochs are 8, 6 and 6.5 minutes of two AMD cores (docs/speedrun.md)
          lambda m: m["semppl"] - max(m["ifnd"], m["carp"]), 0.02, USUAL, on=("cifar10",)),
)  # fmt: skip

# ---- the rule ------------------------------------------------------------------------------------------------------


def interval(effects: list[float]) -> tuple[float, float, float]:
    """Mean of n differences, and the ends of its 95% interval by Student's t; of fewer than two, no interval."""
    n, mean = len(effects), float(np.mean(effects))
    half = student.ppf(0.975, n - 1) * np.std(effects, ddof=1) / n**0.5 if n > 1 else np.inf
    return mean, float(mean - half), float(mean + half)


def verdict(low: float, high: float, least: float, harmless: bool = False) -> tuple[str, str]:
    """The word for an interval, and why."""
    points = f"{100 * least:.0f}"
    if harmless:
        if low > -least:
            return "seen", f"The interval lies above -{points}: the cost is less."
        if high < -least:
            return "opposite here", f"The interval lies below -{points}: the cost is more."
        return "undecided", f"The interval spans -{points}."
    if low > 0 and high >= least:
        return "seen", f"The interval lies above 0 and reaches {points}."
    if high < 0 and low <= -least:
        return "opposite here", f"The interval lies below 0 and reaches -{points}."
    if high < least:
        return "not seen here", f"The interval lies below {points}."
    return "undecided", f"The interval spans 0 and {points}."


def kept(claim: Claim, on: str, folder=RESULTS) -> dict[int, dict[str, dict]]:
    """{seed: {arm: its run}} of the seeds that all arms of a row have, from the JSON files alone."""
    found = {}
    for arm in claim.arms:
        for path in Path(folder).glob(f"{on}-{arm}-seed=*.json"):
            found.setdefault(int(path.stem.rpartition("=")[2]), {})[arm] = json.loads(path.read_text())
    return {seed: found[seed] for seed in sorted(found) if len(found[seed]) == len(claim.arms)}


def judged(claim: Claim, on: str, folder=RESULTS) -> dict:
    """A row of the board; effects are shares, one a seed."""
    runs, needed = kept(claim, on, folder), SETTINGS[on].seeds
    values = {seed: {arm: claim.measure(run) for arm, run in of_seed.items()} for seed, of_seed in runs.items()}
    effects = [claim.effect(values[seed]) for seed in values]
    mean, low, high = interval(effects) if effects else (np.nan, -np.inf, np.inf)
    word, why = verdict(low, high, claim.least, claim.harmless)
    if len(effects) < needed:
        word, why = "open", f"{len(effects)} of {needed} seeds have run."
    row = {"claim": claim, "on": on, "values": values, "effects": effects, "mean": mean, "low": low, "high": high}
    return row | {"verdict": word, "why": why}


def board(folder=RESULTS, claims=CLAIMS) -> list[dict]:
    """All rows, claim by claim, in milliseconds: nothing is trained."""
    return [judged(claim, on, folder) for claim in claims for on in claim.on]


# ---- the runs ------------------------------------------------------------------------------------------------------


def asked_for(only: list[str], on: list[str], seeds: int | None = None, claims=CLAIMS) -> list[tuple]:
    """(arm, data, seed) of the claims in `only`, or all, the first ones first; what claims share comes once."""
    numbers = {}
    for claim in claims:
        numbers.setdefault(claim.number.rstrip("abc"), []).append(claim)
    if unknown := [number for number in only if number not in numbers]:
        raise ValueError(f"There is no claim {unknown[0]!r}; choose among {', '.join(numbers)}.")
    order = sorted(only or numbers, key=lambda number: (number not in FIRST, list(numbers).index(number)))
    runs = [(arm, data, seed) for data in on for number in order
            for seed in range(seeds or SETTINGS[data].seeds)
            for claim in numbers[number] if data in claim.on for arm in claim.arms]  # fmt: skip
    return list(dict.fromkeys(runs))


def is_there(on: str) -> bool:
    """Whether its images are here; a line says so if not. ValueError: a data set that no claim is about."""
    if on not in SETTINGS:
        raise ValueError(f"There are no claims on {on!r}; choose among {', '.join(SETTINGS)}.")
    try:
        return bool(images_for(on, SETTINGS[on].presets["semppl"].labels, 0, lambda data: data))
    except ValueError as error:
        print(f"{on} is left out: {error}")
        return False


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--only", help="numbers of claims, with commas between them; all by default")
    parser.add_argument("--seeds", type=int, help="how many; by default what a verdict needs")
    parser.add_argument("--data", default="digits,cifar10")
    parser.add_argument("--part", type=int, nargs=2, default=(1, 1), metavar=("I", "N"), help="the I-th of N parts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    args = parser.parse_args()
    part, parts = args.part
    parser.whole("--seeds", args.seeds, 1)
    if not 1 <= part <= parts:
        parser.error(f"--part {part} {parts} is no part; give 1 2 and 2 2, for example")
    runs = asked_for(args.only.split(",") if args.only else [], [on for on in args.data.split(",") if is_there(on)],
                     args.seeds)  # fmt: skip
    run_missing(runs[part - 1 :: parts], args.out)


if __name__ == "__main__":
    command(main, "notebooks/claims.py")
