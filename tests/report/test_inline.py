"""Figures as part of a page: ids of their own, colours of a dark page."""

import re

import numpy as np
import pytest

from task_arithmetic.report import drawing
from task_arithmetic.report.inline import DARK, inline, on_dark, variables


def luminance(color: str) -> float:
    """Of #rrggbb, by WCAG 2.2."""
    found = 0.0
    for weight, at in zip((0.2126, 0.7152, 0.0722), (1, 3, 5), strict=True):
        value = int(color[at : at + 2], 16) / 255
        found += weight * (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    return found


def contrast(one: str, two: str) -> float:
    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


STYLES = [*drawing.MODE_STYLES.values(), *drawing.OTHER_STYLES]
PAGE = on_dark("#ffffff")


def test_white_becomes_the_dark_page_and_a_grey_keeps_its_contrast():
    assert PAGE == "#1a1a1a" and luminance(PAGE) == pytest.approx(DARK, abs=1e-3)
    for grey in ("#e6e6e6", "#cccccc", "#808080", "#666666", "#4d4d4d"):
        assert contrast(on_dark(grey), PAGE) == pytest.approx(contrast(grey, "#ffffff"), rel=0.05)
    assert contrast(on_dark("#000000"), PAGE) > 12


@pytest.mark.parametrize("color", [style.color for style in STYLES])
def test_the_colour_of_every_mode_can_be_seen_on_a_dark_page(color):
    assert contrast(on_dark(color), PAGE) >= 3


def test_modes_differ_in_lightness_on_a_dark_page_too():
    colors = [
        on_dark(drawing.MODE_STYLES[mode].color) for mode in ("nonlinear", "ntk", "attention")
    ]
    lightness = sorted(luminance(color) ** (1 / 3) for color in colors)
    assert min(np.diff(lightness)) > 0.1


def drawn(folder):
    """A figure of a map with text on it, beside one of a line."""
    figure, ((left, right),) = drawing.new_figure(4, 2, 1, 2)
    left.imshow(np.eye(2))
    left.text(0, 0, "on it", color="#123456")
    right.plot([0, 1], color="#003d33", label="a < b")
    right.text(0, 0, "beside", color="#123456")
    drawing.save(drawing.placed(figure), folder, "mine")
    return (folder / "mine.svg").read_text(encoding="utf-8")


def test_an_inline_figure_has_ids_of_its_own_and_no_address(tmp_path):
    text = drawn(tmp_path)
    svg = inline(text, "one").svg
    assert svg.startswith("<svg ") and svg.rstrip().endswith("</svg>")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert ids and all(each.startswith("one:") for each in ids)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
    assert used and {own or other for own, other in used} <= {*ids}
    rest = re.sub(r"data:image/png;base64,[\w+/=\s]+", "", svg)
    assert "http" not in rest and "<style" not in rest and "<?xml" not in rest
    assert len(ids) == text.count(' id="')


def test_colours_are_the_pages_but_not_on_a_map(tmp_path):
    found = inline(drawn(tmp_path), "one")
    kept, beside = (re.search(rf"<text[^>]*>{text}<", found.svg)[0] for text in ("on it", "beside"))
    assert "fill: #123456" in kept
    assert "fill: var(--c123456, #123456)" in beside
    assert {"#003d33", "#ffffff", "#123456"} <= found.colors
    css = variables(found.colors)
    assert all(f"--c{color[1:]}: light-dark({color}, " in css for color in found.colors)
    assert {*re.findall(r"var\(--c(\w{6}),", found.svg)} == {c[1:] for c in found.colors}
