"""Parts of your own for `fit`, without a line changed: a network as the encoder, a function as the augmentation.

    config = config.replace(backbone=s.own.backbone(network))      any nn.Module with a feature vector
    data = s.own.augmented(data, lambda image, view: ...)          in place of our views
    config = s.own.sized(config, data)                             batch, epochs and labels for your images

The first two are named in what a run keeps, so it goes on with the same ones or is refused (docs/your_parts.md)."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..batches import steps_per_epoch
from ..data import Data, ImageSet
from ..files import check_tensor, check_type, check_whole, digest, pixels_of
from ..networks import ENCODERS
from ..train import fit
from ..views import fractions, normalise


@torch.no_grad()
def backbone(network: nn.Module, size: int = 32) -> str:
    """Make a network, images (B, 3, H, W) -> features (B, dim), an encoder -> its name for `config.backbone`.

    The name has its class and a digest of its weights, which every run starts from (config.seed does not change them);
    `load_run` wants the same network made known before. size: a side of images it can take, to learn dim. `width`,
    `stem` and `recompute` say nothing to it. ValueError: not a network, or no feature vector comes out."""
    network = copy.deepcopy(check_type("network", network, nn.Module)).cpu().eval()
    try:
        features = network(torch.zeros(2, 3, size, size))
    except Exception as error:
        raise ValueError(f"The network takes no images (2, 3, {size}, {size}): {error}; give another size=.") from error
    check_tensor("What the network makes of 2 images", features, torch.float32, (2, "dim"))
    network.dim = features.shape[1]
    name = f"{type(network).__module__}.{type(network).__qualname__} {digest(network.state_dict().values())[:12]}"
    ENCODERS[name] = lambda config: copy.deepcopy(network).train()
    return name


def augmented(data: Data, augment: Callable[[Tensor, int], Tensor]) -> Data:
    """The data with `augment` in place of our views in training: (image uint8 (3, H, W), view) -> (3, S, S).

    view counts from 0, the large ones first, their number is the config's. It gives uint8, or fractions in [0, 1], the
    same S for all images of a view; normalising follows. Before each call torch's generator is seeded by the config's
    seed, step, view and image, so runs resume to the bit, and processes share the views, if it draws by torch alone, as
    torchvision.transforms.v2 does. It runs on CPUs (`workers=` shares it out). ValueError: images are not in memory."""
    check_type("augment", augment, Callable)
    return replace(data, train=Augmented(**vars(in_memory(data, "augmented")), augment=augment))


def in_memory(data: Data, asked: str) -> ImageSet:
    """The training images; ValueError if they are read from files."""
    if not isinstance(data.train, ImageSet):
        raise ValueError(f"{asked}() needs images in memory, not {type(data.train).__name__}; give those of a pack.")
    return data.train


@dataclass(frozen=True, repr=False)
class Augmented(ImageSet):
    """Images whose views are made by a function; each view's draws then have a `seed` (B,)."""

    augment: Callable[[Tensor, int], Tensor] = None
    seeded = True

    def digest(self) -> str:
        name = getattr(self.augment, "__qualname__", type(self.augment).__qualname__)
        return f"{super().digest()} augmented by {getattr(self.augment, '__module__', '')}.{name}"

    def prepare(self, index: Tensor, draws: list, config) -> list[Tensor]:
        images, views = self.whole(index, 0), []
        with torch.random.fork_rng(devices=[]):
            for view, draw in enumerate(draws):
                made = []
                for image, seed in zip(images, draw["seed"].tolist(), strict=True):
                    torch.manual_seed(seed)
                    made.append(self.augment(image.clone(), view))
                    check_tensor(f"augment(image, {view})", made[-1], None, made[1:] and made[0].shape or (3, "S", "S"))
                views.append(pixels_of(torch.stack(made), slice(None), 0))
        return views

    def finish(self, prepared: list[Tensor], draws: list, config) -> list[Tensor]:
        return [normalise(fractions(x, config), config.mean, config.std) for x in prepared]


def sized(config, data: Data):
    """The config for the images of `data`, which are in memory and have all labels that are known [all ours].

    B: a power of two, 16 to 128, for eight steps an epoch or more if there are 128 images. Epochs: those of 400 steps
    and one more every twelve images, about what `digits` and `cifar10_cpu` take, with their share of warm-up. Labels:
    ten a class, or one of a hundred images, if so many are known. mean, std: of a thousand images. ValueError: fewer
    than 16 images."""
    images, C = in_memory(data, "sized"), len(data.classes)
    n, known = check_whole("images to train on", len(images), 16), int((images.labels >= 0).sum())
    B, labels = 2 ** min(7, max(4, (n // 8).bit_length() - 1)), min(known, max(10 * C, n // 100))
    epochs = math.ceil((400 + n / 12) / steps_per_epoch(config.replace(batch_size=B), n))
    std, mean = torch.std_mean(images.images[:: -(-n // 1000)].float() / 255, (0, 2, 3))
    return config.replace(
        labels=labels, labelled_share=None if labels == n else config.labelled_share,
        large_size=max(8, 3 * min(images.size) // 4),
        mean=tuple(round(c, 3) for c in mean.tolist()), std=tuple(max(round(c, 3), 0.01) for c in std.tolist()),
        batch_size=B, negatives=min(config.negatives, B - 1), queue=max(B, config.queue * B // config.batch_size),
        epochs=epochs, warmup_epochs=round(config.warmup_epochs * epochs / config.epochs, 1),
    )  # fmt: skip


def forecast(config, data: Data) -> str:
    """How many steps a training has and, by two that are thrown away, how long it takes here."""
    each = steps_per_epoch(config, len(data.train))
    run, steps = fit(config, data, progress=False, steps=2), each * config.epochs
    seconds = run.unfinished[-1]["times"]["all"] if run.unfinished else run.history[-1]["seconds"] / each
    size = f"{len(data.train)} images, {config.batch_size} a step: {each} step{'s' * (each > 1)} an epoch"
    return f"{size}, {steps} in all, of {seconds:.2g} s here, about {seconds * steps / 60:.1f} minutes."
