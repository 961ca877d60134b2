"""SemPPL on CIFAR, on one GPU or two CPU cores, and on the embedded digits."""

from ..config import Config

CIFAR100 = {"labels": 2500, "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}


def cifar10() -> Config:
    """CIFAR-10 on one GPU: ResNet-18, the paper's method, peers' sizes for CIFAR. Not run here.

    Peers, all labels in the read-out: lightly's k-NN, best epoch on test, 200 epochs at B 128: NNCLR 83.4, BYOL 86.9;
    solo-learn's online linear head, 1000 epochs: NNCLR 91.88, BYOL 92.58. Protocols differ: not comparable.
    """
    return Config(
        labels=500, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616), large_size=32, small_size=16,
        small_scale=(0.08, 0.35),  # 0.05-0.14 of 32 pixels is 7 to 12 pixels: too little to see [ours]
        blur_p=(0.0,),  # no blur on CIFAR, solarize 0.2 on the second view [solo-learn's CIFAR recipes]
        mask_p=0.0,  # no masks for CIFAR; 0.1 uses the small estimator [ours]
        labelled_share=0.125,  # unlabelled : labelled = 7 : 1 [the public port's CIFAR-10 setting]
        projector_hidden=2048, predictor_hidden=2048, gamma=0.99, gamma_schedule="cosine",
        batch_size=256, epochs=1000, lr=1.0, eta=0.02, weight_decay=1e-5,  # LARS [solo-learn's CIFAR recipes]
        queue=20 * 256,  # 20 B [paper]
    )  # fmt: skip


def cifar100() -> Config:
    """As CIFAR-10, with 2,500 labels. Not run here. solo-learn's linear head, as above: NNCLR 69.62, BYOL 70.46."""
    return cifar10().replace(labelled_share=1 / 6, **CIFAR100)


def cifar10_cpu() -> Config:
    """CIFAR-10 in half to three quarters of an hour on two CPU cores [all differences ours]: many cheap steps."""
    return cifar10().replace(
        backbone="airbench", projector_hidden=512, predictor_hidden=512, embedding_dim=128,
        large_views=2, small_views=0, large_scale=(0.2, 1.0), large_size=24,  # evaluation sees all 32 pixels
        labelled_share=0.25, batch_size=128, queue=1280, negatives=64,
        epochs=32, optimizer="muon", lr=0.004, weight_decay=0.01, warmup_epochs=1,
        c=1.0, alpha=1.0, lam=1.0, gamma=0.9, gamma_schedule="cosine",
    )  # fmt: skip


def digits() -> Config:
    """The embedded colour digits in two to three minutes on two CPU cores [all differences ours]."""
    return cifar10_cpu().replace(
        backbone="narrow", width=32, stem_stride=2, optimizer="adamw",
        labels=100, labelled_share=0.5, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), large_scale=(0.4, 1.0), mask_p=0.1,
        flip_p=0.0,  # a mirrored digit is another digit, or none
        saturation=0.6, hue=0.5, grey_p=0.3,  # colour means nothing here
        epochs=24, gamma=0.5, gamma_schedule="constant",
    )  # fmt: skip
