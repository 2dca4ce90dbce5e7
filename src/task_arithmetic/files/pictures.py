"""From an image's file to 8 bits of red, green and blue, as a person would see it."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from PIL import Image

WIDE = 65535  # the largest level of 16 bits


def open_picture(value: Any) -> "Image.Image":
    """An image, upright, as PIL reads it.

    Args:
        value: a path, the file's bytes, or a dictionary of `bytes` or `path`, as `datasets` has it.
    """
    from PIL import ExifTags, Image, ImageOps

    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise ValueError("it is empty")
    picture: Image.Image = Image.open(io.BytesIO(value) if isinstance(value, bytes) else value)
    deep = ";16" in str(getattr(picture, "tile", "")) and not picture.mode.startswith("I")
    whitest = picture.mode.startswith("I;16") and getattr(picture, "tag_v2", {}).get(262) == 0
    picture.load()
    picture.info |= {"deep": deep, "min_is_white": whitest}
    turned = picture.getexif().get(ExifTags.Base.Orientation)
    return picture if turned is None else ImageOps.exif_transpose(picture)


def to_rgb(
    picture: "Image.Image",
    transparent: str = "white",
    levels: tuple[float, float] | None = None,
) -> tuple["Image.Image", str | int | None]:
    """An image of any kind in 8 bits of red, green and blue.

    Levels of more than 8 bits are scaled, from `levels` to 0 … 255. A transparent image is laid on
    a white or black ground; `drop` takes what lies under the transparency, whatever it is, as
    `convert("RGB")` does.

    Args:
        transparent: white, black, drop or error. levels: (lowest, highest); None: of 16 bits 0 and
            65,535.
    Returns:
        the image, and what of it is worth a note: nothing, or `transparent`, `deep` (16 bits a
        colour), `frames`, or the largest level of one of 16 bits as a number.
    Raises:
        UserError: levels without a range; a transparent image if that is an `error`.
    """
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture)
        if levels is None and not picture.mode.startswith("I;16"):
            raise UserError(
                f"its levels are {values.dtype} from {values.min():g} to {values.max():g}: set "
                "`levels: [lowest, highest]` in its definition to what is to be black and white"
            )
        if picture.info.get("min_is_white"):  # of a TIFF
            values = WIDE - values
        if not np.isfinite(values).all():
            raise UserError("some of its levels are no numbers")
        low, high = levels or (0, WIDE)
        scaled = (values.astype(np.float64) - low) * 255 / (high - low)
        grey = Image.fromarray((scaled + 0.5).clip(0, 255).astype(np.uint8))
        return grey.convert("RGB"), int(values.max()) if levels is None else None
    deep = picture.info.get("deep", False)
    if deep and levels is not None:
        raise UserError(
            "it has 16 bits a colour, of which the upper 8 are read, so that `levels` cannot scale "
            "them: convert it to 8 bits"
        )
    note = "deep" if deep else "frames" if getattr(picture, "is_animated", False) else None
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        if np.asarray(whole.getchannel("A")).min() < 255:
            if transparent == "error":
                raise UserError("it is transparent, which `transparent: error` refuses")
            if transparent != "drop":
                ground = Image.new("RGBA", whole.size, transparent)
                return Image.alpha_composite(ground, whole).convert("RGB"), "transparent"
            note = "transparent"
    return picture.convert("RGB"), note
