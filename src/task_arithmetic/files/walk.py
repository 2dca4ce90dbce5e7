"""The files below a folder, and which of them are images."""

import mimetypes
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import UserError
from .paths import PathLike

SNIFFED = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"]  # by their bytes
_types = mimetypes.MimeTypes()  # Python's own table, not the machine's


class File(NamedTuple):
    """A file below a folder; `problem`: why it, or the folder at its place, cannot be read."""

    path: str
    size: int
    time: int  # of its last change, in nanoseconds
    problem: str | None


def walk(folder: PathLike, above: tuple[tuple[int, int], ...] = ()) -> Iterator[File]:
    """Every file below a folder in the order of names, links followed."""
    folder = os.fspath(folder)
    try:
        here = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield File(folder, 0, 0, error.strerror or str(error))
        return
    if (here.st_dev, here.st_ino) in above:
        yield File(folder, 0, 0, "a link to a folder that it lies in")
        return
    for entry in entries:
        if entry.is_dir():
            yield from walk(entry.path, (*above, (here.st_dev, here.st_ino)))
            continue
        size = time = 0
        problem = None
        try:
            about = entry.stat()
            size, time = about.st_size, about.st_mtime_ns
            if not stat.S_ISREG(about.st_mode):
                problem = "no regular file"
            entry.name.encode()
        except UnicodeEncodeError:
            problem = "its name is not UTF-8"
        except OSError as error:
            problem = lost_link(entry.path) if entry.is_symlink() else error.strerror
        yield File(entry.path, size, time, problem)


def lost_link(path: str) -> str:
    """What is wrong with a link to nothing."""
    return f"a link to {os.readlink(path)}, which is not there"


def is_image_name(path: str) -> bool:
    """Whether a file's extension is that of an image."""
    return (_types.guess_type(path, strict=False)[0] or "").startswith("image/")


def is_image(path: str) -> bool:
    """Whether a file is an image, by its extension or else by its bytes. The files that macOS puts
    beside others (._NAME) are none."""
    if os.path.basename(path).startswith("._"):
        return False
    if is_image_name(path):
        return True
    from PIL import Image, UnidentifiedImageError

    try:
        Image.open(path, formats=SNIFFED).close()
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:  # an image, and too large a one
        return True
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from None
    return True
