"""A contact sheet of the embedded tasks and of the corpus (docs/images/embedded.png).

python tools/embedded/sheet.py --output docs/images/embedded.png
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from corpus import draw_pair
from task_arithmetic.embedded.draw import FONT_FOLDER, SIDE
from task_arithmetic.embedded.tasks import CLASSES, draw_task

COLUMNS, ZOOM, MARGIN = 14, 2, 118


def contact_sheet(seed: int = 0) -> Image.Image:
    """One row of test images per task, then two rows of the corpus; an RGB image."""
    rows = []
    for name in CLASSES:
        # Classes follow each other in drawn tasks: every seventh image shows most of them.
        images = draw_task(name, seed, limit=7 * COLUMNS)["test"][0][::7]
        rows.append((name, images))
    pairs = [draw_pair(seed, index)[0] for index in range(2 * COLUMNS)]
    rows += [("corpus", np.stack(pairs[:COLUMNS])), ("", np.stack(pairs[COLUMNS:]))]
    step = SIDE * ZOOM + 3
    sheet = Image.new("RGB", (MARGIN + COLUMNS * step, len(rows) * step + 8), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(FONT_FOLDER / "DejaVuSans.ttf"), 16)
    for row, (name, images) in enumerate(rows):
        y = row * step + (8 if row >= len(CLASSES) else 0)
        draw.text((6, y + step / 2 - 11), name, (20, 20, 20), font)
        for column, image in enumerate(images):
            tile = Image.fromarray(image).resize((step - 3, step - 3), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * step, y))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    contact_sheet().quantize(256).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
