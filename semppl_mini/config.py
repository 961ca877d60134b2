"""One frozen dataclass holds every choice of a run; `presets` fill it in, `replace` changes it.

    hue: float = number(0.1, 0, 0.5)           its default, least and most; `pair` is of (low, high)
    stem: str = one_of("cifar", "imagenet")    the first word is the default

Tags: [paper] SemPPL, section 4 and the reproducibility table; [ReLICv2]; [BYOL] its values are kept by the official
SemPPL repository; [theirs] a third party's port, for values that the paper's main text does not give; [ours]; other
names are of a field's own paper or code."""

import dataclasses
from dataclasses import dataclass

from .files import check_fields, check_name, check_type, number, one_of, pair


@dataclass(frozen=True)
class Config:
    """All choices of one run. Sizes in pixels, rates per step unless said. ValueError: a bad value, here or, where it
    depends on method or encoder, when that is made."""

    # data
    labels: float | int | None = number(None, above=0)  # share of training images, or count, class-balanced; None = all
    label_seed: int = number(0, 0, 2**63 - 1)  # which images are labelled, apart from `seed`
    labelled_share: float | None = number(None, above=0, most=1)  # labelled part of a batch; None = as in the data
    mean: tuple = number((0.485, 0.456, 0.406), 0, 1, entries=3)  # normalisation, of images in [0, 1]
    std: tuple = number((0.229, 0.224, 0.225), above=0, most=1, entries=3)
    # views
    large_views: int = number(4, 1, 64)  # L [paper]
    small_views: int = number(2, 0, 64)  # V [paper]
    large_size: int = number(224, 8, 4096)  # [ReLICv2]
    small_size: int = number(96, 8, 4096)  # [ReLICv2]
    large_scale: tuple = pair((0.08, 1.0), above=0, most=1)  # area share of a large crop [BYOL]
    small_scale: tuple = pair((0.05, 0.14), above=0, most=1)  # of a small one [ReLICv2]
    ratio: tuple = pair((3 / 4, 4 / 3), above=0, most=100)  # aspect of a crop [BYOL]
    flip_p: float = number(0.5, 0, 1)
    jitter_p: float = number(0.8, 0, 1)  # [BYOL], with the four strengths below, of torchvision's operations
    brightness: float = number(0.4, 0, 1e6)
    contrast: float = number(0.4, 0, 1e6)
    saturation: float = number(0.2, 0, 1e6)
    hue: float = number(0.1, 0, 0.5)
    grey_p: float = number(0.2, 0, 1)
    blur_p: tuple = number((1.0, 0.1), 0, 1)  # cycles over the views [BYOL; the assignment to four views is ours]
    blur_sigma: tuple = pair((0.1, 2.0), above=0, most=100)
    solarize_p: tuple = number((0.0, 0.2), 0, 1)  # cycles over the views
    mask_p: float = number(0.1, 0, 1)  # saliency masking of a large view [ReLICv2]
    interpolation: str = one_of("bilinear", "bicubic")  # of crops, "bicubic" in [BYOL]; antialiased
    # networks
    backbone: str = "resnet18"  # or "airbench", "narrow" (3 blocks each), "resnet50", "resnet200"
    width: int = number(64, 8, 4096)  # channels of the first stage; 128 is "2x"
    stem: str = one_of("cifar", "imagenet")  # of ResNets: 3x3, no pooling; or 7x7, stride 2, max-pooling
    stem_stride: int = number(1, 1, 4)  # of the cifar stem
    padding: str = one_of("symmetric", "same")  # of ResNets; "same" is TensorFlow's and the official weights'
    sk: bool = False  # selective kernels, with the stem and shortcuts of ResNet-D [SimCLRv2]
    projector_hidden: int = number(4096, 1, 2**20)  # [BYOL; sizes not in the paper]
    predictor_hidden: int = number(4096, 1, 2**20)
    embedding_dim: int = number(256, 1, 2**20)  # D
    # method
    method: str = "semppl"  # a relative, "ifnd" or "carp"; or a classifier on an encoder: "finetune" or "linear"
    queue: int = number(20 * 4096, 1, 2**26)  # capacity Q of each of the L queues: 20 B [paper], of B 4096
    k: int = 1  # neighbours a vote [paper]
    voting_views: int | None = None  # how many of the L large views ask and are asked; None = all [paper]
    semantic_positives: int = number(3, 0, 1000)  # R [paper]; 0 = augmentation-only, without L_sempos and I_sempos
    exclude_self: bool = True  # an image is never its own semantic positive [ours]
    negatives: int = 10  # N [paper]
    tau: float = number(0.2, above=0, most=1e6)  # [paper]
    c: float = number(0.3, 0, 1e6)  # weight of L_augm + alpha L_sempos [theirs]
    alpha: float = number(0.2, 0, 1e6)  # weight of L_sempos [theirs]
    lam: float = number(5.0, 0, 1e6)  # lambda, of I_augm + I_sempos [theirs], each a mean over its own pairs [ours]
    detach: str = one_of("argument", "entropy")  # no gradient of the KL's first argument, or of E_p log p alone
    gamma: float = number(0.996, 0, 1)  # EMA rate of the target [paper]
    gamma_schedule: str = one_of("constant", "cosine")  # "cosine": to 1 [BYOL]; unclear in the paper
    oracle: bool = False  # true labels instead of pseudo-labels: a reference, never a result
    # IFND, which also uses tau and gamma
    clusters: tuple = number((25_000, 50_000, 100_000), 1, 2**20, whole=True, empty=True)  # K_m [PCL]; () = InfoNCE
    recluster: int = number(20, 1, 10**6)  # epochs from one clustering to the next [IFND, CIFAR]
    acceptance: tuple = pair((0.0, 1.0), 0, 1)  # share with a pseudo-label, in the first and last epoch [IFND]
    false_negatives: str = one_of("eliminate", "attract")  # the former is IFND's; the latter: further positives
    keys: str = one_of("target", "online")  # the EMA target's [MoCo], or the online network's, with a gradient [SimCLR]
    key_queue: int = number(0, 0, 2**26)  # negatives from so many earlier keys (MoCo v2: 65,536); 0 = from the batch
    # CARP, which also uses gamma
    prototypes: int = number(65_536, 2, 2**24)  # K [CARP]
    block: int = number(512, 2, 2**24)  # N_B, prototypes in a block [CARP]; what K / N_B leaves over sits a step out
    # optimisation
    epochs: int = number(300, 1, 10**6)  # [paper]; an epoch draws about as many images as there are to train on
    batch_size: int = number(4096, 2, 2**20)  # B [paper]
    optimizer: str = one_of("lars", "sgd", "adamw", "muon")  # LARS [paper], Nesterov SGD, AdamW, or Muon
    lr: float = number(0.3, 0, 1e6)  # at batch 256, scaled by B / 256 [paper; the scaling is in the official code]
    lr_min: float = number(0.0, 0, 1e6)  # where the cosine ends, not scaled; above 0 in CARP
    momentum: float = number(0.9, 0, 1)  # of LARS and SGD; beta_1 of AdamW [peers' usual]
    weight_decay: float = number(1e-6, 0, 1e6)  # [paper]
    eta: float = number(1e-3, 0, 1e6)  # LARS trust coefficient [official code]
    warmup_epochs: float = number(10, 0, 10**6)  # [paper], then cosine to lr_min
    seed: int = number(0, 0, 2**63 - 1)
    # computing
    device: str = "auto"  # "auto": xla where torch_xla is in use, else tpu (torch_tpu), cuda, mps, cpu
    precision: str = one_of("auto", "bf16", "fp32", "fp64")  # "auto": bf16 autocast where the hardware has it
    knn_chunk_mb: float = number(256.0, above=0, most=2**20)  # of images x IFND's centroids; votes use 16 at most
    microbatches: int = number(1, 1, 2**20)  # parts that networks see a batch in, each computed again for its gradient
    recompute: bool = False  # keep only the inputs of the encoder's blocks, compute them again for the gradient
    compile: bool = False  # torch.compile the networks
    graph: bool = False  # one process on CUDA: views, and loss to gradient, as a graph each; elsewhere no effect

    def __post_init__(self):
        check_fields(self)
        if self.small_views and (small := self.small_size) > (large := self.large_size):
            raise ValueError(f"small_size = {small} exceeds large_size = {large}; give less, or small_views=0.")
        if self.momentum == 1:
            raise ValueError("momentum = 1.0 forgets no gradient; give less than 1, 0.9 for example.")
        if (share := self.labelled_share) and not round(share * (B := self.batch_size)):
            few = f"labelled_share = {share} of batch_size = {B} is less than one image"
            raise ValueError(f"{few}; give {1 / B:.2g} or more, or None.")

    def replace(self, **changes) -> "Config":
        """A copy with some fields changed; an unknown field raises ValueError and names the nearest one."""
        known = self.to_dict()
        for name in changes:
            check_name(name, known, "Config has no field")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(fields: dict) -> "Config":
        return Config().replace(**check_type("fields", fields, dict))
