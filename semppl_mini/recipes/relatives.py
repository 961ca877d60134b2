"""IFND and CARP: no label is used in training, labels=500 is what the read-outs may see."""

from ..config import Config
from .imagenet import imagenet_1pct
from .semppl import CIFAR100, cifar10, cifar10_cpu, digits

IFND = {"method": "ifnd", "labelled_share": None, "keys": "online", "clusters": (10, 30, 100)}  # on ten classes
CARP = {"method": "carp", "labelled_share": None}


def cifar10_ifnd() -> Config:
    """IFND on CIFAR-10 on one GPU. Not run here.

    [IFND] 1000 epochs, B 1024 at rate 0.5, warm-up, clusters. [SimCLR, CIFAR] online keys, tau, decay. [ours] networks.
    """
    return cifar10().replace(
        **IFND, large_views=2, small_views=0, tau=0.5, batch_size=1024, optimizer="sgd", lr=0.5 / 4, weight_decay=1e-4,
    )  # fmt: skip


def cifar100_ifnd() -> Config:
    """IFND on CIFAR-100 on one GPU: clusters 100, 300, 1000 [IFND]. Not run here."""
    return cifar10_ifnd().replace(clusters=(100, 300, 1000), **CIFAR100)


def cifar10_cpu_ifnd() -> Config:
    """IFND on CIFAR-10 in half an hour on one CPU core: clusters anew every epoch; tau 0.2 or 0.5 did worse [ours]."""
    return cifar10_cpu().replace(**IFND, recluster=1, tau=0.1, epochs=16)


def digits_ifnd() -> Config:
    """IFND on the embedded colour digits, for a quick look: not tuned [ours]."""
    return digits().replace(**IFND, recluster=1, mask_p=0.0)


def imagenet_ifnd() -> Config:
    """IFND on ImageNet in MoCo v2's setting, ResNet-50 (69.7 linear top-1, recalled). Not run here.

    [IFND] B, epochs. [PCL] clusters. [ours] anew every 20 epochs; Nesterov's momentum. [MoCo v2] all else.
    """
    return imagenet_1pct().replace(
        method="ifnd", large_views=2, small_views=0, interpolation="bilinear", large_scale=(0.2, 1.0),
        saturation=0.4, blur_p=(0.5,), solarize_p=(0.0,), mask_p=0.0,
        projector_hidden=2048, embedding_dim=128, key_queue=65_536, gamma=0.999,
        batch_size=256, epochs=200, optimizer="sgd", lr=0.03, weight_decay=1e-4, warmup_epochs=0,
    )  # fmt: skip


def cifar10_carp() -> Config:
    """CARP on CIFAR-10 on one GPU; the paper has no such run, all values are ours. Not run here."""
    return cifar10().replace(**CARP, large_views=2, prototypes=4096, block=128, projector_hidden=512)


def cifar10_cpu_carp() -> Config:
    """CARP on CIFAR-10 in forty minutes on one CPU core: `cifar10_cpu` with prototypes and two small views [ours].

    Blocks of 16, 64, 4, all: k-NN 36.2, 35.8, 31.2, 26.4 (two epochs, a seed, validation; notebooks/results/relatives).
    """
    return cifar10_cpu().replace(**CARP, prototypes=1024, block=16, small_views=2, epochs=10)


def digits_carp() -> Config:
    """CARP on the embedded colour digits, for a quick look: not tuned, and it learns little there [ours]."""
    return digits().replace(**CARP, prototypes=1024, block=64, mask_p=0.0, gamma=0.9, gamma_schedule="cosine")


def imagenet_carp() -> Config:
    """CARP on ImageNet, ResNet-50, 400 epochs (75.3 linear, 67.7 k-NN in the paper). Not run here.

    [CARP, official code] every value; [ours] the rate ends at 0, theirs at 0.0048.
    """
    return imagenet_1pct().replace(
        method="carp", large_views=2, small_views=6, large_scale=(0.2, 1.0), small_scale=(0.05, 0.2),
        blur_p=(1.0, 0.1, *6 * (0.5,)), solarize_p=(0.0, 0.2, *6 * (0.0,)), mask_p=0.0,
        projector_hidden=2048, gamma=0.99, gamma_schedule="cosine", epochs=400, lr=0.45, warmup_epochs=0,
    )  # fmt: skip
