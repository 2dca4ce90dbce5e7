"""From uint8 images to normalised pixels, on the device: bicubic resampling and training crops."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def to_pixels(
    images: Tensor,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    boxes: Tensor | None = None,
) -> Tensor:
    """CLIP's preprocessing: crop and resize (bicubic, antialiased), round to levels, normalise.

    Args:
        images: uint8 (B, H, W, 3).
        size: S, the side of the square. mean, std: of each channel, in 0–1.
        boxes: (B, 4) top, left, height, width in pixels; None takes whole images.
    Returns:
        float32 (B, 3, S, S).
    """
    pixels = images.permute(0, 3, 1, 2).contiguous().float()  # new: may be changed in place
    if boxes is not None or pixels.shape[-2:] != (size, size):
        if boxes is None:
            boxes = torch.tensor([[0, 0, *pixels.shape[-2:]]]).expand(len(pixels), 4)
        pixels = resample(pixels, boxes.to(pixels.device), size)
    shift, scale = (
        torch.tensor(list(of), dtype=torch.float32, device=pixels.device).view(3, 1, 1)
        for of in (mean, std)
    )
    return pixels.div_(255).sub_(shift).div_(scale)


def resample(pixels: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Bicubic, antialiased resize of one box of each image, as Pillow's (a = -1/2): along rows,
    then along columns, each rounded to levels 0 to 255. (Pillow 13 takes columns first for some
    tall boxes, which differ by a few levels where there is most detail.)

    Args:
        pixels: float (B, C, H, W), levels 0 to 255.
        boxes: (B, 4) top, left, height, width.
    Returns:
        float (B, C, size, size), whole levels.
    """
    top, left, height, width = boxes.float().unbind(1)
    rows = _bicubic_weights(top, height, pixels.shape[2], size)
    columns = _bicubic_weights(left, width, pixels.shape[3], size)
    return _levels(rows[:, None] @ _levels(pixels @ columns[:, None].mT))


def _levels(values: Tensor) -> Tensor:
    """Round half up and clip, as Pillow does."""
    return (values + 0.5).floor_().clamp_(0, 255)


def _bicubic_weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Weights (B, size, pixels) of the input pixels of [start, start + length) for each output."""
    at = torch.arange(pixels, device=start.device) + 0.5
    step = (length / size)[:, None, None]
    center = start[:, None, None] + step * (torch.arange(size, device=start.device)[:, None] + 0.5)
    x = ((at - center) / step.clamp_min(1)).abs()
    weights = torch.where(
        x < 1, (1.5 * x - 2.5) * x * x + 1, torch.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0)
    )
    end = (start + length)[:, None, None]
    weights = weights * ((at > start[:, None, None]) & (at < end))
    return weights / weights.sum(-1, keepdim=True)


def crop_boxes(sizes: Tensor, scale: Sequence[float], generator: torch.Generator) -> Tensor:
    """Boxes of RandomResizedCrop (aspect ratio 3/4 to 4/3), as torchvision draws them.

    Each box has an area uniform in `scale` times the image's, a log-uniform aspect ratio, and a
    uniform place; the first of ten draws that fits is taken, else the whole image (its largest
    centred part with an allowed ratio).

    Args:
        sizes: int64 (B, 2), the images' heights and widths.
        scale: smallest and largest share of the area, such as (0.9, 1.0).
        generator: a CPU generator, so that every device sees the same crops.
    Returns:
        int64 (B, 4): top, left, height, width.
    """
    height, width = sizes[:, :1], sizes[:, 1:]
    draws = torch.rand(4, len(sizes), 10, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    ratio = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draws[1])
    w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    top = (draws[2] * (height - h + 1)).floor().long()
    left = (draws[3] * (width - w + 1)).floor().long()
    fits = (0 < w) & (w <= width) & (0 < h) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    boxes = torch.cat([t.gather(1, first) for t in (top, left, h, w)], dim=1)
    whole_w = torch.minimum(width, (height.double() * (4 / 3)).round().long())
    whole_h = torch.minimum(height, (width.double() * (4 / 3)).round().long())
    whole = [(height - whole_h) // 2, (width - whole_w) // 2, whole_h, whole_w]
    return torch.where(fits.any(1, keepdim=True), boxes, torch.cat(whole, dim=1))
