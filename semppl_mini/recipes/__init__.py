"""Presets, a function a recipe: paper values are the defaults of `Config`; here are the differences, with reasons.

Run here, at their own size, are those whose names begin with digits or cifar10_cpu, once cifar10, and no others."""

import inspect

from ..config import Config
from . import airbench, resnets  # noqa: F401 - they add encoders to those of networks.py

CIFAR10 = {"labels": 500, "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
CIFAR100 = {"labels": 2500, "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}


def digits() -> Config:
    """The embedded colour digits in two to three minutes on two CPU cores [all differences ours]."""
    return cifar10_cpu().replace(
        backbone="narrow", width=32, stem_stride=2, optimizer="adamw", lr=0.004, negatives=64,
        labels=100, labelled_share=0.5, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), large_scale=(0.4, 1.0), mask_p=0.1,
        flip_p=0.0,  # a mirrored digit is another digit, or none
        saturation=0.6, hue=0.5, grey_p=0.3,  # colour means nothing here
        epochs=24, gamma=0.5, gamma_schedule="constant",
    )  # fmt: skip


def cifar10_cpu() -> Config:
    """CIFAR-10 in eleven minutes on two CPU cores with bf16 [all differences ours; docs/speedrun.md]."""
    return cifar10_resnet18().replace(
        backbone="airbench", optimizer="muon", lr=0.005, weight_decay=0.01, warmup_epochs=1,  # AdamW's on the heads
        projector_hidden=512, predictor_hidden=512, embedding_dim=128,
        large_views=2, small_views=0, large_scale=(0.35, 1.0), large_size=24,  # evaluation sees all 32 pixels
        batch_size=128, labelled_share=0.25, queue=1280, negatives=127,  # all others of a batch
        epochs=12, c=1.0, alpha=1.0, lam=1.0, gamma=0.9, gamma_schedule="cosine",
    )  # fmt: skip


def cifar10() -> Config:
    """CIFAR-10 in six minutes on one H100 [all differences ours]: as `cifar10_cpu`, three times as wide."""
    return cifar10_cpu().replace(
        width=192, large_size=32, large_scale=(0.25, 1.0), projector_hidden=1024, predictor_hidden=1024,
        batch_size=256, queue=2560, negatives=255, epochs=100, gamma=0.97, lr=0.002, graph=True,
    )  # fmt: skip


def cifar10_resnet18() -> Config:
    """CIFAR-10 with ResNet-18, the paper's method, peers' sizes for CIFAR: hours of one GPU."""
    return Config(
        **CIFAR10, large_size=32, small_size=16,
        small_scale=(0.08, 0.35),  # 0.05-0.14 of 32 pixels is 7 to 12 pixels: too little to see [ours]
        blur_p=(0.0,),  # no blur on CIFAR, solarize 0.2 on the second view [solo-learn's CIFAR recipes]
        mask_p=0.0,  # no masks for CIFAR; 0.1 uses the small estimator [ours]
        labelled_share=0.125,  # unlabelled : labelled = 7 : 1 [the public port's CIFAR-10 setting]
        projector_hidden=2048, predictor_hidden=2048, gamma=0.99, gamma_schedule="cosine",
        batch_size=256, epochs=1000, lr=1.0, eta=0.02, weight_decay=1e-5,  # LARS [solo-learn's CIFAR recipes]
        queue=20 * 256,  # 20 B [paper]
    )  # fmt: skip


def cifar100() -> Config:
    """As `cifar10_resnet18`, with 2,500 labels. solo-learn's online linear head: NNCLR 69.62, BYOL 70.46."""
    return cifar10_resnet18().replace(labelled_share=1 / 6, **CIFAR100)


# The paper's larger encoders, `imagenet_1pct().replace(**LARGER["SK-ResNet-50 2x"])`; 2x is twice the width.
LARGER = {
    "ResNet-50 2x": {"width": 128}, "ResNet-50 4x": {"width": 256},
    "ResNet-200 2x": {"backbone": "resnet200", "width": 128},
    "SK-ResNet-50 1x": {"sk": True}, "SK-ResNet-50 2x": {"sk": True, "width": 128},
    "SK-ResNet-200 2x": {"backbone": "resnet200", "sk": True, "width": 128},
}  # fmt: skip


def imagenet_1pct() -> Config:
    """ImageNet with SimCLR's list of 1% labels, ResNet-50, 128 Cloud TPU v3 (68.5 top-1 in the paper)."""
    return Config(
        labels=12811,  # the list's length: `fit` refuses data with another number of labelled images [ours]
        labelled_share=None,  # the paper speaks of no oversampling: as in the data [ours]
        backbone="resnet50", stem="imagenet", width=64,  # [paper]
        interpolation="bicubic",  # [BYOL], which has momentum and flips, too; gamma stays what it is [ours]
        small_scale=(0.05, 0.14),  # [ReLICv2], whose text we recall but could not check
    )  # fmt: skip


def imagenet_10pct() -> Config:
    """ImageNet with SimCLR's list of 10% labels; all else as with 1% (76.0 top-1 in the paper)."""
    return imagenet_1pct().replace(labels=128116)


def imagenet_linear() -> Config:
    """Linear evaluation with all labels, of the frozen encoder of `weights`; centre crops at test."""
    return imagenet_1pct().replace(
        method="linear", labels=None, large_views=1, small_views=0,  # [official SemPPL repository] all of it
        jitter_p=0.0, grey_p=0.0, blur_p=(0.0,), solarize_p=(0.0,), mask_p=0.0,  # crops and flips alone
        optimizer="sgd", lr=0.3, weight_decay=0.0, warmup_epochs=0, batch_size=1024, epochs=100,  # Nesterov, cosine
    )  # fmt: skip


def imagenet_finetune_1pct() -> Config:
    """Fine-tuning of all weights of `weights` on SimCLR's 1% of the labels, an epoch one pass of those."""
    # [BYOL, which the paper follows] SGD, B, crops and flips; rate and epochs by a sweep, [ours, untried] 0.02 and 30
    return imagenet_linear().replace(method="finetune", labels=12811, lr=0.02 / 4, epochs=30)


def imagenet_finetune_10pct() -> Config:
    """The same on SimCLR's 10% of the labels."""
    return imagenet_finetune_1pct().replace(labels=128116)


IFND = {"method": "ifnd", "labelled_share": None, "keys": "online", "clusters": (10, 30, 100)}  # on ten classes


def digits_ifnd() -> Config:
    """The embedded colour digits, for a quick look: not tuned [ours]."""
    return digits().replace(**IFND, recluster=1, mask_p=0.0)


def cifar10_ifnd() -> Config:
    """CIFAR-10 on one GPU, with the networks of `cifar10_resnet18` [ours]."""
    # [IFND] 1000 epochs, B 1024 at rate 0.5, warm-up, clusters. [SimCLR, CIFAR] online keys, tau, decay
    return cifar10_resnet18().replace(
        **IFND, large_views=2, small_views=0, tau=0.5, batch_size=1024, optimizer="sgd", lr=0.5 / 4, weight_decay=1e-4,
    )  # fmt: skip


def cifar10_cpu_ifnd() -> Config:
    """CIFAR-10 in eleven minutes on two CPU cores: clusters anew every epoch; tried in benchmarks/relatives [ours]."""
    return cifar10_cpu().replace(**IFND, large_scale=(0.2, 1.0), recluster=1, tau=0.1, epochs=12)


def cifar100_ifnd() -> Config:
    """CIFAR-100 on one GPU: clusters 100, 300, 1000 [IFND]."""
    return cifar10_ifnd().replace(clusters=(100, 300, 1000), **CIFAR100)


def imagenet_ifnd() -> Config:
    """ImageNet in MoCo v2's setting, ResNet-50 (69.7 linear top-1, recalled)."""
    # [IFND] B, epochs. [PCL] clusters. [MoCo v2] all else, but: [ours] anew every 20 epochs, Nesterov's momentum, no
    # decay of biases and norms, batch norm in the head, none shuffled (docs/deviations.md)
    return imagenet_1pct().replace(
        method="ifnd", large_views=2, small_views=0, interpolation="bilinear", large_scale=(0.2, 1.0),
        saturation=0.4, blur_p=(0.5,), solarize_p=(0.0,), mask_p=0.0,
        projector_hidden=2048, embedding_dim=128, key_queue=65_536, gamma=0.999,
        batch_size=256, epochs=200, optimizer="sgd", lr=0.03, weight_decay=1e-4, warmup_epochs=0,
    )  # fmt: skip


CARP = {"method": "carp", "labelled_share": None}  # no label trains it, nor IFND: they are for the read-outs


def digits_carp() -> Config:
    """The embedded colour digits, for a quick look: not tuned, and it learns little there [ours]."""
    return digits().replace(**CARP, prototypes=1024, block=64, mask_p=0.0, gamma=0.9, gamma_schedule="cosine")


def cifar10_carp() -> Config:
    """CIFAR-10 on one GPU; the paper has no such run, all values are ours."""
    return cifar10_resnet18().replace(**CARP, large_views=2, prototypes=4096, block=128, projector_hidden=512)


def cifar10_cpu_carp() -> Config:
    """CIFAR-10 in eleven minutes on two CPU cores: `cifar10_cpu` with prototypes and two small views [ours]."""
    # crops, lr by trial (benchmarks/relatives)
    return cifar10_cpu().replace(
        **CARP, large_scale=(0.35, 1.0), prototypes=1024, block=16, small_views=2, lr=0.01, epochs=9,
    )  # fmt: skip


def imagenet_carp() -> Config:
    """ImageNet, ResNet-50, 400 epochs (75.3 linear, 67.7 k-NN in the paper)."""
    # [CARP, official code's defaults] every value. The paper has rates of 0.6 to 0.006 for up to 200 epochs and of 0.3
    # to 0.003 for more than 400: 400 are neither
    return imagenet_1pct().replace(
        method="carp", large_views=2, small_views=6, large_scale=(0.2, 1.0), small_scale=(0.05, 0.2),
        blur_p=(1.0, 0.1, *6 * (0.5,)), solarize_p=(0.0, 0.2, *6 * (0.0,)), mask_p=0.0,
        projector_hidden=2048, gamma=0.99, gamma_schedule="cosine", epochs=400, lr=0.45, lr_min=0.0048,
        warmup_epochs=0,
    )  # fmt: skip


NAMES = tuple(name for name, value in globals().items() if inspect.isfunction(value))  # all of the above


def named(name: str) -> Config:
    """The preset of that name; an unknown one raises ValueError."""
    if name not in NAMES:
        raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(NAMES)}.")
    return globals()[name]()
