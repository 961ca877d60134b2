"""One frozen dataclass holds every choice of a run; presets.py fills it in, `replace` changes it.

Tags: [paper] SemPPL, section 4 and the reproducibility table; [ReLICv2]; [BYOL] its values are kept by the official
SemPPL repository; [theirs] the only public training port, values the paper's main text does not give; [ours].
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """All choices of one run. Sizes in pixels, rates per step unless said; bad values raise ValueError."""

    # data
    labels: float | int | None = None  # share of the training images, or a class-balanced count; None = all
    label_seed: int = 0  # which images are labelled, apart from `seed`
    labelled_share: float | None = None  # share of labelled images in a batch; None = as in the data
    mean: tuple = (0.485, 0.456, 0.406)  # normalisation, of images in [0, 1]
    std: tuple = (0.229, 0.224, 0.225)
    # views
    large_views: int = 4  # L [paper]
    small_views: int = 2  # V [paper]
    large_size: int = 224  # [ReLICv2]
    small_size: int = 96  # [ReLICv2]
    large_scale: tuple = (0.08, 1.0)  # area share of a large crop [BYOL]
    small_scale: tuple = (0.05, 0.14)  # of a small one [ReLICv2]
    ratio: tuple = (3 / 4, 4 / 3)  # aspect of a crop [BYOL]
    flip_p: float = 0.5
    jitter_p: float = 0.8  # [BYOL], with the four strengths below
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey_p: float = 0.2
    blur_p: tuple = (1.0, 0.1)  # cycles over the views [BYOL; the assignment to four views is ours]
    blur_sigma: tuple = (0.1, 2.0)
    solarize_p: tuple = (0.0, 0.2)  # cycles over the views
    mask_p: float = 0.1  # saliency masking of a large view [ReLICv2]
    interpolation: str = "bilinear"  # of crops: "bilinear", or "bicubic" [BYOL]; antialiased
    # networks
    backbone: str = "resnet18"  # "narrow" (3 blocks), "resnet18", "resnet50" or "resnet200"
    width: int = 64  # channels of the first stage, 8 or more; 128 is "2x"
    stem: str = "cifar"  # 3x3 and no pooling, or "imagenet": 7x7, stride 2, max-pooling
    stem_stride: int = 1  # of the cifar stem
    sk: bool = False  # selective kernels, with the stem and shortcuts of ResNet-D [SimCLRv2]
    projector_hidden: int = 4096  # [BYOL; sizes not in the paper]
    predictor_hidden: int = 4096
    embedding_dim: int = 256  # D
    # method
    method: str = "semppl"  # a relative, "ifnd" or "carp"; or a classifier on an encoder: "finetune" or "linear"
    queue: int = 20 * 4096  # capacity Q of each of the L queues: 20 B [paper]
    k: int = 1  # neighbours a vote [paper]
    voting_views: int | None = None  # how many of the L large views ask and are asked; None = all [paper]
    semantic_positives: int = 3  # R [paper]; 0 = the augmentation-only baseline, without L_sempos and I_sempos
    exclude_self: bool = True  # an image is never its own semantic positive [ours]
    negatives: int = 10  # N [paper]
    tau: float = 0.2  # [paper]
    c: float = 0.3  # weight of L_augm + alpha L_sempos [theirs]
    alpha: float = 0.2  # weight of L_sempos [theirs]
    lam: float = 5.0  # lambda, weight of I_augm + I_sempos [theirs], which are means over their own pairs [ours]
    detach: str = "argument"  # what of the KL's first argument gets no gradient: "argument" or "entropy" (literal)
    gamma: float = 0.996  # EMA rate of the target [paper]
    gamma_schedule: str = "constant"  # or "cosine" to 1 [BYOL]; unclear in the paper
    oracle: bool = False  # true labels instead of pseudo-labels: an upper bound, never a result
    # IFND, which also uses tau and gamma
    clusters: tuple = (25_000, 50_000, 100_000)  # K_m of the M levels of k-means [PCL]; () = plain InfoNCE
    recluster: int = 20  # epochs from one clustering to the next [IFND, CIFAR]
    acceptance: tuple = (0.0, 1.0)  # share of images with a pseudo-label, in the first and last epoch [IFND]
    false_negatives: str = "eliminate"  # them [IFND's default], or "attract" them as further positives
    keys: str = "target"  # keys are the EMA target's [MoCo], or the "online" network's, with a gradient [SimCLR]
    key_queue: int = 0  # negatives from so many earlier keys (MoCo v2: 65,536); 0 = from the batch
    # CARP, which also uses gamma
    prototypes: int = 65_536  # K [CARP]
    block: int = 512  # N_B, prototypes in a block of the partition [CARP]; what K / N_B leaves over sits a step out
    # optimisation
    epochs: int = 300  # [paper]; an epoch draws as many images as the training set has
    batch_size: int = 4096  # B [paper]
    optimizer: str = "lars"  # "lars" [paper], "sgd" (Nesterov) or "adamw"
    lr: float = 0.3  # at batch 256, scaled by B / 256 [paper; the scaling is in the official code]
    momentum: float = 0.9
    weight_decay: float = 1e-6  # [paper]
    eta: float = 1e-3  # LARS trust coefficient [official code]
    warmup_epochs: float = 10  # [paper], then cosine to 0
    seed: int = 0
    # computing
    device: str = "auto"  # "auto": xla where torch_xla is in use, else cuda, mps, cpu
    precision: str = "auto"  # "auto": bf16 autocast where the hardware has it; "bf16", "fp32", "fp64"
    knn_chunk_mb: float = 256.0  # ceiling of the k-NN's similarity matrix; above 16 it is 16
    microbatches: int = 1  # above 1, networks see a batch in so many parts, each computed again for its gradient
    recompute: bool = False  # keep only the inputs of the encoder's blocks, compute them again for the gradient
    compile: bool = False  # torch.compile the networks

    def __post_init__(self):
        for field in dataclasses.fields(self):  # JSON and YAML know lists, not tuples
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        _check(self)

    def replace(self, **changes) -> "Config":
        """A copy with some fields changed; an unknown field raises ValueError and names the nearest one."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1, 0)[0]
                raise ValueError(f"Config has no field {name!r}; the nearest is {near!r}.")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(fields: dict) -> "Config":
        return Config().replace(**fields)


_CHOICES = {
    "method": ("semppl", "ifnd", "carp", "finetune", "linear"),
    "false_negatives": ("eliminate", "attract"),
    "keys": ("target", "online"),
    "backbone": ("narrow", "resnet18", "resnet50", "resnet200"),
    "interpolation": ("bilinear", "bicubic"),
    "stem": ("cifar", "imagenet"),
    "detach": ("argument", "entropy"),
    "gamma_schedule": ("constant", "cosine"),
    "optimizer": ("lars", "sgd", "adamw"),
    "precision": ("auto", "bf16", "fp32", "fp64"),
}
_ORDERED = ("large_scale", "small_scale", "ratio", "blur_sigma", "acceptance")  # (low, high)
_LENGTHS = {"mean": 3, "std": 3, **dict.fromkeys(_ORDERED, 2)}
_ABOVE_ZERO = ("tau", "labels", "std", "ratio", "blur_sigma", "large_scale", "small_scale", "knn_chunk_mb")
_LIMITS = {  # field: least, most; generous, but a slip of the hand or a lying file cannot ask for terabytes
    **dict.fromkeys(("flip_p", "jitter_p", "grey_p", "mask_p", "blur_p", "solarize_p"), (0, 1)),
    **dict.fromkeys(("gamma", "momentum", "labelled_share", "large_scale", "small_scale", "acceptance"), (0, 1)),
    **dict.fromkeys(("seed", "label_seed"), (0, 2**63 - 1)),
    **dict.fromkeys(("brightness", "contrast", "saturation", "c", "alpha", "lam", "lr", "eta"), (0, 1e6)),
    "weight_decay": (0, 1e6),
    **dict.fromkeys(("large_size", "small_size"), (8, 4096)),  # pixels: the networks halve them up to three times
    **dict.fromkeys(("projector_hidden", "predictor_hidden", "embedding_dim"), (1, 2**20)),
    "large_views": (1, 64), "small_views": (0, 64), "stem_stride": (1, 4), "queue": (1, 2**26), "hue": (0, 0.5),
    "semantic_positives": (0, 1000), "batch_size": (2, 2**20), "epochs": (1, 10**6), "warmup_epochs": (0, 10**6),
    "width": (8, 4096),  # under 8 oneDNN's gradient of a strided 1x1 convolution is wrong on AVX2 (its issue 6035)
    "blur_sigma": (0, 100), "ratio": (0, 100), "tau": (0, 1e6), "knn_chunk_mb": (0, 2**20),
    "microbatches": (1, 2**20), "clusters": (1, 2**20), "recluster": (1, 10**6), "key_queue": (0, 2**26),
    "prototypes": (2, 2**24), "block": (2, 2**24),
}  # fmt: skip


def _check(config: Config) -> None:
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), field.type
        whole = type(value) is int and isinstance(1.0, kind)  # a whole number may stand where a fraction may
        if not (isinstance(value, kind) or whole) or (type(value) is bool and kind is not bool):
            wanted = getattr(kind, "__name__", kind)
            shown = repr(value) if len(repr(value)) < 80 else repr(value)[:40] + "..."
            raise ValueError(f"{field.name} = {shown} is a {type(value).__name__}; give {wanted}.")
        _check_numbers(field.name, value)
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} = {getattr(config, name)!r} is not known; choose one of {', '.join(choices)}.")
    L, B = config.large_views, config.batch_size
    between = {
        "semppl": [
            ("negatives", config.negatives, 1, B - 1, "batch_size - 1"),
            ("k", config.k, 1, config.queue, "queue"),
            ("voting_views", L if config.voting_views is None else config.voting_views, 1, L, "large_views"),
        ],
        "carp": [("block", config.block, 2, config.prototypes, "prototypes")],
    }
    for name, value, low, high, what in between.get(config.method, ()):
        if not low <= value <= high:
            raise ValueError(f"{name} = {value} must lie between {low} and {what} = {high}; change either.")
    if config.method in ("ifnd", "carp") and L + config.small_views < 2:
        raise ValueError(f"method = {config.method!r} compares different views and there is 1; give large_views=2.")
    if config.small_views and config.small_size > config.large_size:
        sizes = f"small_size = {config.small_size} exceeds large_size = {config.large_size}"
        raise ValueError(f"{sizes}; give small crops at most that size, or small_views=0.")
    if config.momentum == 1:
        raise ValueError("momentum = 1.0 forgets no gradient; give less than 1, 0.9 for example.")
    if config.labelled_share and not round(config.labelled_share * B):
        share = f"labelled_share = {config.labelled_share} of batch_size = {B} is less than one image"
        raise ValueError(f"{share}; give {1 / B:.2g} or more, or None.")


def _check_numbers(name: str, value) -> None:
    """A field's number, or each number of its tuple, against the limits above."""
    if value is None or isinstance(value, (str, bool)):
        return
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) != _LENGTHS.get(name, max(len(numbers), name != "clusters")):
        raise ValueError(f"{name} = {value} has {len(numbers)} entries; give {_LENGTHS.get(name, '1 or more')}.")
    low, high = _LIMITS.get(name, (-math.inf, math.inf))
    for number in numbers:
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"{name} = {value!r} must be of finite numbers, not {number!r}; give numbers.")
        if name == "clusters" and type(number) is not int:
            raise ValueError(f"clusters = {value} must be of whole numbers, not {number}; give for example (10, 30).")
        if name in _ABOVE_ZERO and not number > 0:
            raise ValueError(f"{name} = {value} must be more than 0; give a positive number.")
        if not low <= number <= high:
            raise ValueError(f"{name} = {value} lies outside [{low}, {high}]; give a value between them.")
    if name in _ORDERED and value[0] > value[1]:
        raise ValueError(f"{name} = {value} is no range; give the smaller number first.")


def check_parameters(values: dict, types: dict) -> None:
    """Notebook parameters against their types {name: type or tuple of types}: ValueError in one sentence otherwise."""
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(name, types, 1, 0)[0]
            raise ValueError(f"There is no parameter {name!r}; the nearest is {near!r}.")
        allowed = types[name] if isinstance(types[name], tuple) else (types[name],)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            wanted = " or ".join(kind.__name__ for kind in allowed)
            raise ValueError(f"Parameter {name} = {value!r} is a {type(value).__name__}; give it as {wanted}.")
