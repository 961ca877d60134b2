"""Presets, a function a recipe: paper values are the defaults of `Config`; here are the differences, with reasons."""

from ..config import Config


def cifar10() -> Config:
    """CIFAR-10 on one GPU: ResNet-18, the paper's method, CIFAR sizes. Not run here; peers' sizes are the source.

    Peers, all labels in the read-out: lightly's k-NN, best epoch on test, 200 epochs at B 128: NNCLR 83.4, BYOL 86.9;
    solo-learn's online linear head, 1000 epochs: NNCLR 91.88, BYOL 92.58. Protocols differ: not comparable.
    """
    return Config(
        labels=500,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.2435, 0.2616),
        large_size=32,
        small_size=16,
        small_scale=(0.08, 0.35),  # 0.05-0.14 of 32 pixels is 7 to 12 pixels: too little to see [ours]
        blur_p=(0.0,),  # no blur on CIFAR, solarize 0.2 on the second view [solo-learn's CIFAR recipes]
        mask_p=0.0,  # no masks for CIFAR; 0.1 uses the small estimator [ours]
        labelled_share=0.125,  # unlabelled : labelled = 7 : 1 [the public port's CIFAR-10 setting]
        projector_hidden=2048,
        predictor_hidden=2048,
        batch_size=256,
        epochs=1000,  # [solo-learn's CIFAR recipes], with lr 1.0, eta 0.02 and decay 1e-5 for LARS
        lr=1.0,
        eta=0.02,
        weight_decay=1e-5,
        queue=20 * 256,  # 20 B [paper]
        gamma=0.99,
        gamma_schedule="cosine",
    )


CIFAR100 = {"labels": 2500, "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}


def cifar100() -> Config:
    """CIFAR-100 on one GPU: as CIFAR-10 with 2,500 labels. Not run here.

    Peer: solo-learn's online linear head, all labels, 1000 epochs: NNCLR 69.62, BYOL 70.46.
    """
    return cifar10().replace(labelled_share=1 / 6, **CIFAR100)


def cifar10_cpu() -> Config:
    """CIFAR-10 in half to three quarters of an hour on two CPU cores [all differences ours].

    A short run wants many cheap steps (narrow network, stride-2 stem, two views of 24 pixels, small batches), crops
    that still show something, a target that keeps up (gamma 0.9, slowing to 1), more negatives, and labelled images
    drawn more often than they occur.
    """
    return cifar10().replace(
        backbone="narrow",
        width=32,
        stem_stride=2,
        large_views=2,
        small_views=0,
        large_size=24,  # evaluation sees all 32 pixels
        large_scale=(0.2, 1.0),
        labelled_share=0.25,
        projector_hidden=512,
        predictor_hidden=512,
        embedding_dim=128,
        batch_size=128,
        queue=1280,
        negatives=64,
        epochs=32,
        optimizer="adamw",
        lr=0.004,
        weight_decay=0.01,
        warmup_epochs=1,
        c=1.0,
        alpha=1.0,
        lam=1.0,
        gamma=0.9,
        gamma_schedule="cosine",
    )


def digits() -> Config:
    """The embedded colour digits in two to three minutes on two CPU cores [all differences ours]."""
    return cifar10_cpu().replace(
        labels=100,
        labelled_share=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
        flip_p=0.0,  # a mirrored digit is another digit, or none
        large_scale=(0.4, 1.0),
        saturation=0.6,
        hue=0.5,  # colour means nothing here
        grey_p=0.3,
        mask_p=0.1,
        epochs=24,
        gamma=0.5,
        gamma_schedule="constant",
    )


def cifar10_cpu_ifnd() -> Config:
    """IFND on CIFAR-10 in half an hour on one CPU core: `cifar10_cpu` with IFND's clusters, anew every epoch [ours].

    tau 0.1: in two epochs without clusters 0.1, 0.2 and 0.5 gave 40.1, 39.1 and 37.7 (k-NN, validation images).
    """
    return cifar10_cpu().replace(
        method="ifnd", labelled_share=None, keys="online", clusters=(10, 30, 100), recluster=1, tau=0.1, epochs=16
    )


def cifar10_cpu_carp() -> Config:
    """CARP on CIFAR-10 in forty minutes on one CPU core: `cifar10_cpu` with prototypes and two small views [ours].

    In two epochs without small views (k-NN, validation images) blocks of 16 gave 34.0, of 64 33.5; two small views,
    which cost a quarter more time, 36.2. From there lr 0.008 gave 36.5, 256 prototypes 36.0, no warm-up 35.5, batches
    of 64 35.0, gamma from 0.99 32.7; one seed each.
    """
    return cifar10_cpu().replace(
        method="carp", labelled_share=None, prototypes=1024, block=16, small_views=2, epochs=10
    )


def digits_ifnd() -> Config:
    """IFND on the embedded colour digits, for a quick look: not tuned [ours]."""
    return digits().replace(
        method="ifnd", labelled_share=None, keys="online", clusters=(10, 30, 100), recluster=1, mask_p=0.0
    )


def digits_carp() -> Config:
    """CARP on the embedded colour digits, for a quick look: not tuned, and it learns little there [ours]."""
    return digits().replace(
        method="carp", labelled_share=None, prototypes=1024, block=64, mask_p=0.0, gamma=0.9, gamma_schedule="cosine"
    )


# The paper's larger encoders, `imagenet_1pct().replace(**LARGER["SK-ResNet-50 2x"])`; 2x is twice the width.
LARGER = {
    "ResNet-50 2x": {"width": 128},
    "ResNet-50 4x": {"width": 256},
    "ResNet-200 2x": {"backbone": "resnet200", "width": 128},
    "SK-ResNet-50 1x": {"sk": True},
    "SK-ResNet-50 2x": {"sk": True, "width": 128},
    "SK-ResNet-200 2x": {"backbone": "resnet200", "sk": True, "width": 128},
}


def imagenet_1pct() -> Config:
    """ImageNet with SimCLR's list of 1% labels, ResNet-50, 128 Cloud TPU v3 (68.5 top-1 in the paper). Not run here.

    [paper, section 4 and reproducibility table] 300 epochs, 10 of warm-up, cosine; B 4096; LARS, rate 0.3 B / 256,
    decay 1e-6; tau 0.2; k 1; 4 large and 2 small views; 3 semantic positives; 10 negatives; queues of 20 B; gamma
    0.996. [ReLICv2] 224 and 96 pixels, masks. [BYOL] bicubic crops, photometrics, heads 4096-256, momentum, eta.
    [theirs] c, alpha, lambda. All of these are the defaults of `Config`, which has the sources; the rest is set here.
    """
    return Config(
        labels=12811,  # the list's length: `fit` refuses data with another number of labelled images [ours]
        labelled_share=None,  # the paper speaks of no oversampling: as in the data [ours]
        backbone="resnet50",  # [paper]
        stem="imagenet",
        width=64,
        interpolation="bicubic",  # [BYOL]
        small_scale=(0.05, 0.14),  # [ReLICv2], whose text we recall but could not check
        gamma_schedule="constant",  # the paper gives one number; BYOL anneals it to 1 [ours]
    )


def imagenet_10pct() -> Config:
    """ImageNet with SimCLR's list of 10% labels; all else as with 1% (76.0 top-1 in the paper). Not run here."""
    return imagenet_1pct().replace(labels=128116)


def imagenet_linear() -> Config:
    """Linear evaluation on ImageNet with all labels: a linear layer on the frozen encoder of `weights`. Not run here.

    [official SemPPL repository] SGD, Nesterov 0.9, no decay, 100 epochs, B 1024, rate 0.3 B / 256, cosine, no warm-up;
    random crops and flips alone; batch norms frozen; centre crops at test.
    """
    return imagenet_1pct().replace(
        method="linear",
        labels=None,
        large_views=1,
        small_views=0,
        jitter_p=0.0,
        grey_p=0.0,
        blur_p=(0.0,),
        solarize_p=(0.0,),
        mask_p=0.0,
        optimizer="sgd",
        lr=0.3,
        weight_decay=0.0,
        warmup_epochs=0,
        batch_size=1024,
        epochs=100,
    )


def imagenet_finetune_1pct() -> Config:
    """Fine-tuning of all weights of `weights` on SimCLR's 1% of the labels. Not run here.

    [BYOL, which the paper follows] SGD, Nesterov 0.9, no decay, B 1024, crops and flips, rate and epochs from a sweep.
    [ours, untried] rate 0.02 and 30 epochs; an epoch is one pass through the labelled images.
    """
    return imagenet_linear().replace(method="finetune", labels=12811, lr=0.02 / 4, epochs=30)


def imagenet_finetune_10pct() -> Config:
    """Fine-tuning of all weights of `weights` on SimCLR's 10% of the labels, as with 1%. Not run here."""
    return imagenet_finetune_1pct().replace(labels=128116)


# ---- the relatives: no label is used in training, labels=500 is what the read-outs may see ---------------------------


def cifar10_ifnd() -> Config:
    """IFND on CIFAR-10 on one GPU. Not run here.

    [IFND] 1000 epochs, B 1024, rate 0.5 with 10 epochs of warm-up, cosine; clusters 10, 30, 100, anew every 20 epochs.
    [SimCLR, CIFAR] keys with a gradient, tau 0.5, decay 1e-4; ResNet-18 and heads are ours.
    """
    return cifar10().replace(
        method="ifnd",
        labelled_share=None,
        large_views=2,
        small_views=0,
        keys="online",
        clusters=(10, 30, 100),
        tau=0.5,
        batch_size=1024,
        optimizer="sgd",
        lr=0.5 / 4,
        weight_decay=1e-4,
    )


def cifar100_ifnd() -> Config:
    """IFND on CIFAR-100 on one GPU: clusters 100, 300, 1000 [IFND]. Not run here."""
    return cifar10_ifnd().replace(clusters=(100, 300, 1000), **CIFAR100)


def cifar10_carp() -> Config:
    """CARP on CIFAR-10 on one GPU; the paper has no such run, all values are ours. Not run here."""
    return cifar10().replace(
        method="carp", labelled_share=None, large_views=2, prototypes=4096, block=128, projector_hidden=512
    )


def imagenet_ifnd() -> Config:
    """IFND on ImageNet in MoCo v2's setting, ResNet-50 (69.7 linear top-1, recalled). Not run here.

    [IFND] B 256, 200 epochs. [MoCo v2] 2 views of 224 pixels, jitter 0.4 / 0.4 / 0.4 / 0.1, blur 0.5; keys of the
    target, gamma 0.999, queue of 65,536 keys of width 128, tau 0.2; SGD 0.03, decay 1e-4, cosine, no warm-up. [PCL]
    clusters 25,000, 50,000, 100,000. [ours] clusters anew every 20 epochs; our SGD has Nesterov's momentum.
    """
    return imagenet_1pct().replace(
        method="ifnd",
        large_views=2,
        small_views=0,
        interpolation="bilinear",
        large_scale=(0.2, 1.0),
        saturation=0.4,
        blur_p=(0.5,),
        solarize_p=(0.0,),
        mask_p=0.0,
        projector_hidden=2048,
        embedding_dim=128,
        key_queue=65_536,
        gamma=0.999,
        batch_size=256,
        epochs=200,
        optimizer="sgd",
        lr=0.03,
        weight_decay=1e-4,
        warmup_epochs=0,
    )


def imagenet_carp() -> Config:
    """CARP on ImageNet, ResNet-50, 400 epochs (75.3 linear, 67.7 k-NN in the paper). Not run here.

    [CARP, official code] B 4096, LARS 0.45 at B 256, decay 1e-6, no warm-up, cosine; 2 x 224 + 6 x 96 pixels,
    scales 0.2-1 and 0.05-0.2; blur 1 / 0.1 / 0.5, solarize 0.2 on the second view; head 2048-2048-256; K 65,536, N_B
    512; gamma 0.99 to 1. [ours] the rate ends at 0, theirs at 0.0048.
    """
    return imagenet_1pct().replace(
        method="carp",
        large_views=2,
        small_views=6,
        large_scale=(0.2, 1.0),
        small_scale=(0.05, 0.2),
        blur_p=(1.0, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
        solarize_p=(0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        mask_p=0.0,
        projector_hidden=2048,
        gamma=0.99,
        gamma_schedule="cosine",
        epochs=400,
        lr=0.45,
        warmup_epochs=0,
    )


NAMES = ("digits", "cifar10", "cifar10_cpu", "cifar100", "imagenet_1pct", "imagenet_10pct", "imagenet_linear",
         "imagenet_finetune_1pct", "imagenet_finetune_10pct", "imagenet_ifnd", "imagenet_carp",
         "cifar10_ifnd", "cifar100_ifnd", "cifar10_carp", "cifar10_cpu_ifnd", "cifar10_cpu_carp", "digits_ifnd",
         "digits_carp")  # fmt: skip


def named(name: str) -> Config:
    """The preset of that name; an unknown one raises ValueError."""
    if name not in NAMES:
        raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(NAMES)}.")
    return globals()[name]()
