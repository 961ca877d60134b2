"""Views: L large and V small crops with SimCLR/BYOL photometrics, batched, every parameter drawn per image.

An operation is a function of (images x (B, 3, H, W) in [0, 1], parameters (B,)) and equals the operation of
`torchvision.transforms.v2.functional` with the same parameters image by image. Drawing (CPU, global batch) and
applying (training device) are apart, so a step can be repeated anywhere.

A view: mask the background (large views only, ReLICv2), crop and resize, flip, colour jitter (operations in random
order), greyscale, Gaussian blur, solarize, normalise. Values: BYOL, appendix B; its assignment to four large views is
unspecified, so blur and solarize probabilities cycle over the views (our choice).
"""

import math

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision
Draw = dict[str, Tensor]  # the parameters of one view, one row an image


# ---- operations ---------------------------------------------------------------------------------------------------


def mask_background(x: Tensor, mask: Tensor, apply: Tensor) -> Tensor:
    """Flat grey outside the mask (B, 1, H, W) in {0, 1}, in rows where `apply` (B,) is true (ReLICv2, 3)."""
    return torch.where(apply.view(-1, 1, 1, 1), x * mask + 0.5 * (1 - mask), x)


def cubic(t: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2 (PIL, torchvision) at t >= 0: 1 at 0, 0 at 1 and from 2 on, below 0 between."""
    near, far = (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


def resize_matrix(start: Tensor, length: Tensor, size: int, inner: int, flip=None, interpolation="bilinear") -> Tensor:
    """Weights (B, size, inner) that take [start, start + length) of an axis to `size` pixels; `flip` (B,) mirrors.

    The filter is a triangle of half-width max(length / size, 1) ("bilinear"), or a cubic of twice that ("bicubic",
    BYOL's), around each output's centre, cut at the box and normalised: PIL's and torchvision's antialias=True.
    """
    scale = (length / size).view(-1, 1, 1)  # (B, 1, 1)
    out = torch.arange(size, device=start.device).view(1, -1, 1)
    if flip is not None:
        out = torch.where(flip.view(-1, 1, 1), size - 1 - out, out)
    j = torch.arange(inner, device=start.device) - start.view(-1, 1, 1)  # position inside the box, (B, 1, inner)
    inside = ((j >= 0) & (j < length.view(-1, 1, 1))).to(scale.dtype)
    distance = ((j + 0.5) - (out + 0.5) * scale).abs_().div_(scale.clamp(min=1))  # (B, size, inner)
    weight = (cubic(distance) if interpolation == "bicubic" else distance.neg_().add_(1).clamp_(min=0)).mul_(inside)
    return weight.div_(weight.sum(-1, keepdim=True))


def crop_resize(x: Tensor, box: Tensor, size: int, flip: Tensor | None = None, interpolation="bilinear") -> Tensor:
    """box (B, 4) = top, left, height, width in whole pixels -> (B, 3, size, size); flip (B,) mirrors left-right."""
    top, left, height, width = box.to(x.dtype).unbind(1)
    rows = resize_matrix(top, height, size, x.shape[2], None, interpolation)  # (B, size, H)
    columns = resize_matrix(left, width, size, x.shape[3], flip, interpolation)  # (B, size, W)
    wide = (x.flatten(1, 2) @ columns.mT).unflatten(1, x.shape[1:3])  # (B, 3, H, size)
    return rows[:, None] @ wide


def some(apply: Tensor) -> bool:
    """Whether a row asks for an operation; on accelerators always true, as asking would wait for them."""
    return apply.device.type != "cpu" or bool(apply.any())


def luma(colour: Tensor) -> Tensor:
    """(B, 3) -> (B,). Written out: a matrix product's last bit may depend on its number of rows."""
    r, g, b = colour.unbind(1)
    return _GREY[0] * r + _GREY[1] * g + _GREY[2] * b


def recolour(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Every pixel's colour c becomes M c + b, cut to [0, 1]: matrix (B, 3, 3), offset (B,)."""
    return torch.baddbmm(offset.view(-1, 1, 1), matrix, x.flatten(2)).clamp_(0, 1).view_as(x)


def blend(x: Tensor, f: Tensor, to_mean: Tensor, to_luma: Tensor) -> Tensor:
    """f x + (1 - f) other: x's mean luma in rows `to_mean` (B,), the luma in rows `to_luma` (B,), else black."""
    weights = torch.tensor(_GREY, device=x.device, dtype=x.dtype)
    matrix = f.view(-1, 1, 1) * torch.eye(3, device=x.device, dtype=x.dtype)
    matrix = matrix + ((1 - f) * to_luma).view(-1, 1, 1) * weights  # luma = weights . colour
    mean = luma(x.mean((2, 3))) if some(to_mean) else 0
    return recolour(x, matrix, (1 - f) * to_mean * mean)


def brightness(x: Tensor, f: Tensor) -> Tensor:
    return blend(x, f, torch.zeros_like(f), torch.zeros_like(f))


def contrast(x: Tensor, f: Tensor) -> Tensor:
    return blend(x, f, torch.ones_like(f), torch.zeros_like(f))


def saturation(x: Tensor, f: Tensor) -> Tensor:
    return blend(x, f, torch.zeros_like(f), torch.ones_like(f))


def hue(x: Tensor, f: Tensor) -> Tensor:
    """Turn the hue by f (B,) of a full circle, in HSV: V the largest channel, C = V - the smallest.

    On the colour circle a hue is |h| = (2 + (g + b - r - V) / C) / 6 away from red, on green's side where g > b;
    and a channel whose own hue (0, 1/3, 2/3) is at distance d has the value V - C clamp(6 d - 1, 0, 1).
    """
    r, g, b = x.unbind(1)  # (B, H, W)
    top = r.maximum(g).maximum(b)
    chroma = top - r.minimum(g).minimum(b)
    h = (g + b).sub_(r).sub_(top).div_(chroma.clamp(min=1e-12)).add_(2)  # >= 0
    h = torch.where(g < b, -h, h).div_(6).add_(f.view(-1, 1, 1))  # (B, H, W), in circles
    own = torch.tensor([0, 1 / 3, 2 / 3], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    d = h.unsqueeze(1) - own  # (B, 3, H, W)
    d = d.sub_(d.round()).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul((top + chroma).unsqueeze(1), chroma.unsqueeze(1), d, value=-6)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue by factors (B, 4), each row in its order (B, 4), a permutation.

    Hue costs most, so it runs once: three blends before it and three after, of which each row uses three in all.
    """
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


def blur(x: Tensor, sigma: Tensor, apply: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with odd kernel size and sigma (B,) in pixels, reflecting at the border, as two matrix products."""
    d = torch.arange(-(kernel // 2), kernel // 2 + 1, device=x.device)
    weight = (-0.5 * (d / sigma[:, None]) ** 2).exp()
    weight = torch.where(apply[:, None], weight / weight.sum(1, keepdim=True), (d == 0).to(x.dtype))  # (B, kernel)

    def along(size: int) -> Tensor:  # (B, 1, size, size)
        source = torch.arange(size, device=x.device)[:, None] + d  # (size, kernel)
        source = (size - 1) - ((size - 1) - source.abs()).abs()
        matrix = torch.zeros(len(x), size, size, device=x.device, dtype=x.dtype)
        matrix.scatter_add_(2, source.expand(len(x), -1, -1), weight[:, None].expand(-1, size, -1).to(x.dtype))
        return matrix[:, None]

    def product(matrix: Tensor, x: Tensor) -> Tensor:  # banded: blocks of 64 rows leave most zeros out
        spans = [(i, i + 64, max(i - kernel // 2, 0), i + 64 + kernel // 2) for i in range(0, x.shape[2], 64)]
        return torch.cat([matrix[:, :, i:j, low:high] @ x[:, :, low:high] for i, j, low, high in spans], 2)

    rows = along(x.shape[2])
    columns = rows if x.shape[2] == x.shape[3] else along(x.shape[3])
    return product(columns, product(rows, x).mT).mT


def solarize(x: Tensor, apply: Tensor, threshold: float = 0.5) -> Tensor:
    return torch.where((x >= threshold) & apply.view(-1, 1, 1, 1), 1 - x, x)


def saliency(images: Tensor) -> Tensor:
    """Foreground masks (B, 1, H, W) in {0, 1} for sets without; the paper uses DeepUSPS masks (ReLICv2).

    Frequency-tuned saliency (Achanta et al., CVPR 2009): distance of the slightly blurred image from its own mean
    colour, here in RGB instead of Lab, cut at the image's mean distance.
    """
    one = torch.ones_like(images[:, 0, 0, 0])
    smooth = blur(images, one, one > 0, 5)
    distance = (smooth - images.mean((2, 3), keepdim=True)).norm(dim=1, keepdim=True)
    return (distance > distance.mean((2, 3), keepdim=True)).to(images.dtype)


# ---- drawing ------------------------------------------------------------------------------------------------------


def boxes(u: Tensor, height, width, scale, ratio) -> Tensor:
    """Random-resized-crop boxes (B, 4) = top, left, height, width in images of height and width, numbers or (B,) each.

    Of uniforms u (B, 4) in [0, 1): area share in `scale`, aspect log-uniform in `ratio`, position uniform. torchvision
    redraws a box that does not fit; here its sides are cut to the image (our choice: no loop).
    """
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

    Where images differ in size, height and width are None, and uniforms "u" (B, 4), for `boxes`, stand for "box".
    """

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
    draw["factors"] = draw["factors"].where(draw["jitter"][:, None], torch.tensor([1.0, 1.0, 1.0, 0.0]))  # by nothing
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
    mean, std = (torch.tensor(c, device=x.device, dtype=x.dtype).view(1, 3, 1, 1) for c in (mean, std))
    return x.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def fractions(images: Tensor, config) -> Tensor:
    """uint8 images as numbers in [0, 1]: float64 from here on if the run is "fp64", else float32."""
    return images.to(torch.float64 if config.precision == "fp64" else torch.float32) / 255


def beside(x: Tensor, draw: Draw) -> Draw:
    """A draw on the device, and its fractions in the type, of x."""
    return {name: value.to(x.device, x.dtype if value.is_floating_point() else None) for name, value in draw.items()}


@torch.no_grad()
def make_views(images: Tensor, draws: list[Draw], config, masks: Tensor | None = None) -> list[Tensor]:
    """uint8 images (B, 3, H, W) -> L + V normalised views, large first: L of (B, 3, S, S), V of (B, 3, s, s).

    masks uint8 (B, 1, H, W) say what is foreground; without them `saliency` estimates it where mask_p asks for any.
    """
    x = fractions(images, config)
    masks = None if config.mask_p == 0 else saliency(x) if masks is None else masks.to(x.dtype)
    views = []
    for v, draw in enumerate(draws):
        view = apply_view(x, beside(x, draw), crop_of(config, v)[0], config, masks if v < config.large_views else None)
        views.append(normalise(view, config.mean, config.std))
    return views
