"""SemPPL on ImageNet, and the two ways the paper reads its encoder out: linear evaluation and fine-tuning."""

from ..config import Config

# The paper's larger encoders, `imagenet_1pct().replace(**LARGER["SK-ResNet-50 2x"])`; 2x is twice the width.
LARGER = {
    "ResNet-50 2x": {"width": 128}, "ResNet-50 4x": {"width": 256},
    "ResNet-200 2x": {"backbone": "resnet200", "width": 128},
    "SK-ResNet-50 1x": {"sk": True}, "SK-ResNet-50 2x": {"sk": True, "width": 128},
    "SK-ResNet-200 2x": {"backbone": "resnet200", "sk": True, "width": 128},
}  # fmt: skip


def imagenet_1pct() -> Config:
    """ImageNet with SimCLR's list of 1% labels, ResNet-50, 128 Cloud TPU v3 (68.5 top-1 in the paper). Not run here.

    All else is a default of `Config`, which has the sources. [BYOL] momentum, flips; [ours] gamma stays what it is.
    """
    return Config(
        labels=12811,  # the list's length: `fit` refuses data with another number of labelled images [ours]
        labelled_share=None,  # the paper speaks of no oversampling: as in the data [ours]
        backbone="resnet50", stem="imagenet", width=64,  # [paper]
        interpolation="bicubic",  # [BYOL]
        small_scale=(0.05, 0.14),  # [ReLICv2], whose text we recall but could not check
    )  # fmt: skip


def imagenet_10pct() -> Config:
    """ImageNet with SimCLR's list of 10% labels; all else as with 1% (76.0 top-1 in the paper). Not run here."""
    return imagenet_1pct().replace(labels=128116)


def imagenet_linear() -> Config:
    """Linear evaluation on ImageNet with all labels, of the frozen encoder of `weights`. Not run here.

    [official SemPPL repository] all of it: Nesterov SGD, cosine, crops and flips alone, centre crops at test.
    """
    return imagenet_1pct().replace(
        method="linear", labels=None, large_views=1, small_views=0,
        jitter_p=0.0, grey_p=0.0, blur_p=(0.0,), solarize_p=(0.0,), mask_p=0.0,
        optimizer="sgd", lr=0.3, weight_decay=0.0, warmup_epochs=0, batch_size=1024, epochs=100,
    )  # fmt: skip


def imagenet_finetune_1pct() -> Config:
    """Fine-tuning of all weights of `weights` on SimCLR's 1% of the labels, an epoch one pass of those. Not run here.

    [BYOL, which the paper follows] SGD, B, crops and flips; rate and epochs by a sweep, [ours, untried] 0.02 and 30.
    """
    return imagenet_linear().replace(method="finetune", labels=12811, lr=0.02 / 4, epochs=30)


def imagenet_finetune_10pct() -> Config:
    """Fine-tuning of all weights of `weights` on SimCLR's 10% of the labels, as with 1%. Not run here."""
    return imagenet_finetune_1pct().replace(labels=128116)
