"""Views: L large and V small crops with SimCLR/BYOL photometrics, batched, every parameter drawn per image.

An operation is a function of (images x (B, 3, H, W) in [0, 1], parameters (B,)) and equals the operation of
`torchvision.transforms.v2.functional` with the same parameters image by image; crops, hue and blur, which take some
arithmetic, are in parallel/pixels.py. Drawing (CPU, global batch) and applying (training device) are apart, so a step
can be repeated anywhere.

A view: mask the background (large views only, ReLICv2), crop and resize, flip, colour jitter (operations in random
order), greyscale, Gaussian blur, solarize, normalise. Values: BYOL, appendix B; its assignment to four large views is
unspecified, so blur and solarize probabilities cycle over the views (our choice)."""

import math

import torch
from torch import Tensor

from .parallel import blend, blur, constant, crop_resize, hue, some

Draw = dict[str, Tensor]  # the parameters of one view, one row an image


# ---- operations ---------------------------------------------------------------------------------------------------


def mask_background(x: Tensor, mask: Tensor, apply: Tensor) -> Tensor:
    """Flat grey outside the mask (B, 1, H, W) in {0, 1}, in rows where `apply` (B,) is true (ReLICv2, 3)."""
    return torch.where(apply.view(-1, 1, 1, 1), x * mask + 0.5 * (1 - mask), x)


def brightness(x: Tensor, f: Tensor) -> Tensor:
    return blend(x, f, torch.zeros_like(f), torch.zeros_like(f))


def contrast(x: Tensor, f: Tensor) -> Tensor:
    return blend(x, f, torch.ones_like(f), torch.zeros_like(f))


def saturation(x: Tensor, f: Tensor) -> Tensor:
    return blend(x, f, torch.zeros_like(f), torch.ones_like(f))


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue by factors (B, 4), each row in its order (B, 4), a permutation.

    Hue costs most, so it runs once: three blends before it and three after, of which each row uses three in all."""
    factor = factors.gather(1, order)  # (B, 4), in the order of use
    position = (order == 3).int().argmax(1)  # where hue stands in each row's order

    def use(x: Tensor, i: int, active: Tensor) -> Tensor:  # other rows blend by 1: as they are, but cut to [0, 1]
        if not some(active):
            return x.clamp(0, 1)  # hue may leave it by a rounding error
        return blend(x, torch.where(active, factor[:, i], 1), order[:, i] == 1, order[:, i] == 2)

    for i in range(3):
        x = use(x, i, i < position)
    x = hue(x, factors[:, 3])
    for i in range(1, 4):
        x = use(x, i, i > position)
    return x


def greyscale(x: Tensor, apply: Tensor) -> Tensor:
    """Each channel becomes the luma, in rows where `apply` (B,) is true."""
    return saturation(x, (~apply).to(x.dtype))


def solarize(x: Tensor, apply: Tensor, threshold: float = 0.5) -> Tensor:
    return torch.where((x >= threshold) & apply.view(-1, 1, 1, 1), 1 - x, x)


def saliency(images: Tensor) -> Tensor:
    """Foreground masks (B, 1, H, W) in {0, 1} for sets without; the paper uses DeepUSPS masks (ReLICv2).

    Frequency-tuned saliency (Achanta et al., CVPR 2009): distance of the slightly blurred image from its own mean
    colour, here in RGB instead of Lab, cut at the image's mean distance."""
    one = torch.ones_like(images[:, 0, 0, 0])
    smooth = blur(images, one, one > 0, 5)
    distance = (smooth - images.mean((2, 3), keepdim=True)).norm(dim=1, keepdim=True)
    return (distance > distance.mean((2, 3), keepdim=True)).to(images.dtype)


# ---- drawing ------------------------------------------------------------------------------------------------------


def boxes(u: Tensor, height, width, scale, ratio) -> Tensor:
    """Random-resized-crop boxes (B, 4) = top, left, height, width in images of height and width, numbers or (B,) each.

    Of uniforms u (B, 4) in [0, 1): area share in `scale`, aspect log-uniform in `ratio`, position uniform. Sides that
    do not fit are cut, as in the official code of SemPPL and BYOL; torchvision (MoCo, CARP) redraws such a box."""
    height, width = (torch.as_tensor(side, device=u.device) for side in (height, width))
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, 0])
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[:, 1])
    h = (area / aspect).sqrt().round().clamp(min=1).minimum(height)
    w = (area * aspect).sqrt().round().clamp(min=1).minimum(width)
    top = (u[:, 2] * (height - h + 1)).floor().minimum(height - h)  # u (n + 1) may round up to n + 1
    left = (u[:, 3] * (width - w + 1)).floor().minimum(width - w)
    return torch.stack([top, left, h, w], 1)


def crop_of(config, v: int) -> tuple[int, tuple]:
    """Side in pixels and area shares of view v's crops."""
    large = v < config.large_views
    return (config.large_size, config.large_scale) if large else (config.small_size, config.small_scale)


def draw_view(config, v: int, batch: int, generator: torch.Generator, height=None, width=None) -> Draw:
    """All parameters of view v (v < L: large, else small) for a batch, each a CPU tensor with one row an image.

    Where images differ in size, height and width are None, and uniforms "u" (B, 4), for `boxes`, stand for "box"."""

    def coin(p: float) -> Tensor:
        return torch.rand(batch, generator=generator) < p

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator)

    mask, u = coin(config.mask_p) & (v < config.large_views), torch.rand(batch, 4, generator=generator)
    ranges = [(max(0, 1 - s), 1 + s) for s in (config.brightness, config.contrast, config.saturation)]
    draw = {
        "mask": mask,
        **({"u": u} if height is None else {"box": boxes(u, height, width, crop_of(config, v)[1], config.ratio)}),
        "flip": coin(config.flip_p),
        "jitter": coin(config.jitter_p),
        "factors": torch.stack([uniform(*each) for each in [*ranges, (-config.hue, config.hue)]], 1),
        "order": torch.rand(batch, 4, generator=generator).argsort(1),
        "grey": coin(config.grey_p),
        "blur": coin(config.blur_p[v % len(config.blur_p)]),
        "sigma": uniform(*config.blur_sigma),
        "solarize": coin(config.solarize_p[v % len(config.solarize_p)]),
    }
    draw["factors"] = draw["factors"].where(draw["jitter"][:, None], torch.tensor([1.0, 1.0, 1.0, 0.0]))  # or not
    return draw


def draw_views(config, batch: int, generator: torch.Generator, height=None, width=None) -> list[Draw]:
    """The draws of all L + V views, large ones first; height, width: of all images, or None, as in `draw_view`."""
    views = range(config.large_views + config.small_views)
    return [draw_view(config, v, batch, generator, height, width) for v in views]


# ---- applying -----------------------------------------------------------------------------------------------------


def photometrics(x: Tensor, draw: Draw, config) -> Tensor:
    """All that follows the crop: x (B, 3, S, S) in [0, 1] -> the same."""
    kernel = 2 * (x.shape[-1] // 20) + 1  # of the blur, 10% of the side, odd: 23 for 224, 3 for 32; none under 20
    x = jitter(x, draw["factors"], draw["order"]) if config.jitter_p > 0 else x
    x = greyscale(x, draw["grey"]) if config.grey_p > 0 and some(draw["grey"]) else x
    x = blur(x, draw["sigma"], draw["blur"], kernel) if max(config.blur_p) > 0 and some(draw["blur"]) else x
    return solarize(x, draw["solarize"]) if max(config.solarize_p) > 0 and some(draw["solarize"]) else x


def apply_view(x: Tensor, draw: Draw, size: int, config, mask: Tensor | None = None) -> Tensor:
    """One view of images x (B, 3, H, W) in [0, 1] -> (B, 3, size, size) in [0, 1]; mask (B, 1, H, W) or None."""
    if mask is not None:
        x = mask_background(x, mask, draw["mask"])
    x = crop_resize(x, draw["box"], size, draw["flip"], config.interpolation).clamp(0, 1)
    return photometrics(x, draw, config)


def normalise(x: Tensor, mean, std) -> Tensor:
    """Channel-wise (x - mean) / std in channels-last memory: x (B, 3, H, W) in [0, 1]."""
    mean, std = (constant(tuple(c), x.device, x.dtype).view(1, 3, 1, 1) for c in (mean, std))
    return x.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def fractions(images: Tensor, config) -> Tensor:
    """uint8 images, or fractions, as numbers in [0, 1]: float64 from here on if the run is "fp64", else float32."""
    x = images.to(torch.float64 if config.precision == "fp64" else torch.float32)
    return x / 255 if images.dtype == torch.uint8 else x


def beside(x: Tensor, draw: Draw) -> Draw:
    """A draw on x's device, its fractions in x's type."""
    return {name: value.to(x.device, x.dtype if value.is_floating_point() else None) for name, value in draw.items()}


def passes(config, draws: list[Draw]) -> list[tuple[list[int], Draw]]:
    """The views of each pass, those of one size side by side, and their draws, one after the other: (V B, ...)."""
    sizes = [crop_of(config, v)[0] for v in range(len(draws))]
    together = [[v for v, other in enumerate(sizes) if other == size] for size in dict.fromkeys(sizes)]
    return [(vs, {name: torch.cat([draws[v][name] for v in vs]) for name in draws[vs[0]]}) for vs in together]


@torch.no_grad()
def make_views(images: Tensor, draws: list[Draw], config, masks: Tensor | None = None) -> list[Tensor]:
    """uint8 images (B, 3, H, W) -> L + V normalised views, large first: L of (B, 3, S, S), V of (B, 3, s, s).

    masks uint8 (B, 1, H, W) say what is foreground; without them `saliency` estimates it where mask_p asks for any."""
    x = fractions(images, config)
    masks = None if config.mask_p == 0 else saliency(x) if masks is None else masks.to(x.dtype)
    made = []
    for views, draw in passes(config, draws):
        n, mask = len(views), masks if views[0] < config.large_views else None
        many, mask = (part if part is None else part.repeat(n, 1, 1, 1) for part in (x, mask))
        view = apply_view(many, beside(x, draw), crop_of(config, views[0])[0], config, mask)
        made += normalise(view, config.mean, config.std).chunk(n)
    return made
