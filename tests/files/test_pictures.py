"""From image files of every kind to 8 bits of red, green and blue."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from task_arithmetic.errors import UserError
from task_arithmetic.files.pictures import open_picture, to_rgb


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return open_picture(file.getvalue())


def grey(picture, **options):
    """Its levels, which are the same in red, green and blue."""
    rgb = np.asarray(to_rgb(picture, **options)[0])
    assert rgb.dtype == np.uint8 and (rgb == rgb[..., :1]).all()
    return rgb[..., 0]


RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_all_that_8_bits_can_show(kind):
    picture = saved(Image.fromarray(RAMP), kind)
    levels = grey(picture)
    assert np.array_equal(levels, np.floor(RAMP / 257 + 0.5))
    assert len(np.unique(levels)) == 256 and to_rgb(picture)[1] == RAMP.max()


def test_big_endian_16_bits_are_the_same():
    big = Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())
    assert np.array_equal(grey(big), grey(Image.fromarray(RAMP)))


def test_levels_say_what_is_black_and_white():
    twelve = Image.fromarray((RAMP >> 4).astype(np.uint16))
    assert np.array_equal(
        grey(twelve, levels=[0, 4095]), np.floor((RAMP >> 4) * 255.0 / 4095 + 0.5)
    )
    assert grey(Image.fromarray(RAMP), levels=[1000, 2000])[[0, -1], [0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_levels_without_a_range_are_refused_and_scaled_with_one(dtype):
    values = np.linspace(-100, 100, 64, dtype=dtype).reshape(8, 8)
    picture = saved(Image.fromarray(values), "TIFF")
    with pytest.raises(UserError, match=r"from -100 to 100: set `levels: \[lowest, highest\]`"):
        to_rgb(picture)
    expected = np.floor((values.astype(float) + 100) * 255 / 200 + 0.5)
    assert np.array_equal(grey(picture, levels=[-100, 100]), expected)


def test_levels_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="no numbers"):
        to_rgb(Image.fromarray(np.full((2, 2), np.nan, np.float32)), levels=[0, 1])


def logo(mode="RGBA"):
    """A black disc on a transparent ground whose hidden colour is black too."""
    y, x = np.mgrid[:32, :32]
    alpha = (((x - 16) ** 2 + (y - 16) ** 2) < 100) * 255
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 3] = alpha
    return Image.fromarray(pixels).convert(mode), alpha == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
@pytest.mark.parametrize("ground", ["white", "black"])
def test_a_transparent_image_is_laid_on_a_ground(mode, ground):
    picture, disc = logo("RGBA")
    picture = picture if mode == "RGBA" else picture.convert(mode)
    rgb, note = to_rgb(picture, ground)
    assert note == "transparent"
    expected = np.where(disc, 0, 255 if ground == "white" else 0)
    assert np.array_equal(np.asarray(rgb), np.repeat(expected[..., None], 3, axis=2))


def test_a_palettes_transparent_colour_is_transparent():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture = saved(picture, "PNG", transparency=1)
    assert np.asarray(to_rgb(picture)[0])[0, 0].tolist() == [255] * 3
    assert np.asarray(to_rgb(picture, "drop")[0])[0, 0].tolist() == [10, 20, 30]


def test_transparency_may_be_dropped_or_refused():
    picture, _ = logo()
    rgb, note = to_rgb(picture, "drop")
    assert note == "transparent" and np.array_equal(rgb, picture.convert("RGB"))
    with pytest.raises(UserError, match="it is transparent"):
        to_rgb(picture, "error")


def test_an_opaque_image_of_four_channels_is_as_without_the_fourth():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 7, 4), np.uint8)
    pixels[..., 3] = 255
    rgb, note = to_rgb(Image.fromarray(pixels), "error")
    assert note is None and np.array_equal(rgb, pixels[..., :3])


def test_an_image_that_lies_on_its_side_is_set_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture = saved(Image.fromarray(np.zeros((4, 8, 3), np.uint8)), "JPEG", exif=exif)
    assert picture.size == (4, 8)


def test_of_several_frames_the_first_is_read_and_said_so():
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    picture = saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    rgb, note = to_rgb(picture)
    assert note == "frames" and np.asarray(rgb)[0, 0].tolist() == [255, 0, 0]


def test_nothing_is_no_image():
    for value in (None, {"bytes": None, "path": None}):
        with pytest.raises(ValueError, match="empty"):
            open_picture(value)


def test_16_bits_a_colour_are_said_and_have_no_levels():
    """PIL reads their upper 8 bits, whatever the range that is used."""
    cells = np.full((4, 4), 4095, np.uint16)
    buffer = io.BytesIO()
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in cells)

    def chunk(kind, content):
        sum_ = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)

    buffer.write(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    )
    buffer.write(chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    colour = open_picture(buffer.getvalue())
    rgb, note = to_rgb(colour)
    assert note == "deep" and np.asarray(rgb)[0, 0].tolist() == [15] * 3
    with pytest.raises(UserError, match="16 bits a colour"):
        to_rgb(colour, levels=[0, 4095])


def test_a_tiff_whose_white_is_0_is_not_inverted():
    picture = saved(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})
    assert picture.tag_v2[262] == 0 and np.array_equal(picture, RAMP)
    assert np.array_equal(grey(picture), np.floor((65535 - RAMP.astype(float)) / 257 + 0.5))
