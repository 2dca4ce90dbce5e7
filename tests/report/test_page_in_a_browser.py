"""The report in a browser, in both colour schemes, at the width of a phone and of a desk."""

from itertools import product

import browser
import pytest
import test_report
import views

from task_arithmetic.config.available import figure_names
from task_arithmetic.config.view import view_of
from task_arithmetic.report import figures

pytestmark = pytest.mark.skipif(
    browser.PATH is None, reason="there is no Chromium here (apt-get install chromium)"
)
CASES = [*product((400, 1200), ("light", "dark"))]
CHECKS = r"""
(async () => {
  document.querySelectorAll("details").forEach(each => { each.open = true; });
  const wrong = [], root = document.documentElement;
  const rgba = text => {
    const found = text.match(/[\d.]+/g).map(Number);
    return found.length > 3 ? found : [...found, 1];
  };
  const luminance = color => color.slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const color = rgba(getComputedStyle(each).backgroundColor);
      if (color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  if (root.scrollWidth > root.clientWidth) wrong.push(`overflow: ${root.scrollWidth}`);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let counted = 0;
  while (texts.nextNode()) {
    const node = texts.currentNode, owner = node.parentElement;
    if (!node.data.trim() || !owner.getClientRects().length) continue;
    if (owner.closest("script, [id*=':on-map']")) continue;  // on a map: test_figures.py
    counted += 1;
    const style = getComputedStyle(owner), size = parseFloat(style.fontSize);
    const color = rgba(owner.closest("svg") ? style.fill : style.color);
    const [low, high] = [color, behind(owner)].map(luminance).sort((a, b) => a - b);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < (large ? 3 : 4.5) || color[3] < 1) {
      wrong.push(`contrast ${contrast.toFixed(2)}: ${node.data.trim().slice(0, 40)}`);
    }
  }
  const sources = [...document.querySelectorAll("img, svg image")]
    .map(each => each.getAttribute("src") ?? each.getAttribute("href"));
  for (const source of sources) {
    const image = new Image();
    image.src = source;
    try { await image.decode(); } catch { wrong.push(`image: ${source.slice(0, 40)}`); }
  }
  const svgs = [...document.querySelectorAll("svg")];
  for (const svg of svgs) {
    const box = svg.getBoundingClientRect();
    if (box.width < 200 || box.height < 50 || !svg.querySelector("text")) wrong.push("empty");
  }
  const ids = [...document.querySelectorAll("[id]")].map(each => each.id), known = new Set(ids);
  if (known.size < ids.length) wrong.push("an id stands twice");
  for (const [, own, other] of root.outerHTML.matchAll(/href="#([^"]+)"|url\(#([^)]+)\)/g)) {
    if (!known.has(own ?? other)) wrong.push(`no ${own ?? other}`);
  }
  return {wrong, counted, svgs: svgs.length, images: sources.length};
})()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with every table and figure that there is, of the paper's suite."""
    tasks = ["cars", "dtd", "svhn"]
    pairs = {"fig6": tasks[:2], "fig8": tasks[1:], "mine": [tasks[0], tasks[2]]}
    texts = views.TEXTS | {"merging": views.make_merging("ties", encoders=["t5"])}
    settings = views.make_settings(encoders=2, seeds=2, suite="paper", language=texts)
    settings |= {"tasks": tasks, "pairs": pairs, "merging": views.make_merging("ties", "tsv")}
    settings |= {"analyses": ["robustness", "layers", "spectra", "alignment", "retention"]}
    folder = tmp_path_factory.mktemp("browser")
    test_report.make_run(folder, settings, points=3, alphas=4)
    for name in figure_names(view_of(settings)):
        figures.write(name, folder / "metrics.csv", settings, folder / "figures")
    test_report.write(folder, settings)
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    chromium = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def complaints(chromium) -> list[str]:
    """Errors in the console, and what was asked for besides the page itself."""
    found, opened = [], chromium.evaluate("location.href")
    for event in chromium.events:
        method, told = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            found.append(str(told["exceptionDetails"]))
        if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            found.append(told["entry"]["text"])
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            found.append(str(told["args"]))
        if method == "Network.requestWillBeSent":
            url = told["request"]["url"]
            found += [url[:80]] * (url.split("#")[0] != opened and not url.startswith("data:"))
    return found


@pytest.mark.parametrize(("width", "scheme"), CASES)
def test_the_page_is_whole_and_can_be_read(width, scheme, folder, chromium):
    chromium.open(folder / "report.html", width, scheme)
    found = chromium.evaluate(CHECKS)
    assert found.pop("wrong") == []
    assert found["counted"] > 1000 and found["svgs"] == len([*folder.glob("figures/*.svg")]) + 1
    assert found["images"] >= 12  # of the heatmaps: six, and their scales
    assert complaints(chromium) == []
    dark = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(26, 26, 26)" if scheme == "dark" else "rgb(255, 255, 255)")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('<p style="color: #999; background: #fff">pale</p>', "contrast 2.85: pale"),
        ('<svg width="300" height="60"><text fill="#eee" y="9">pale</text></svg>', "contrast"),
        ('<div style="width: 500px">wide</div>', "overflow: 5"),
        ('<img src="figures/none.png" alt="">', "image: figures/none.png"),
        ('<a href="#nowhere">there</a>', "no nowhere"),
        ('<script>console.error("wrong")</script>', "wrong"),
        ("<script>throw Error('thrown')</script>", "thrown"),
        ('<link rel="stylesheet" href="https://example.invalid/a.css">', "example.invalid"),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(broken, said, folder, chromium):
    text = f'<!DOCTYPE html><html><body style="background: #fff">{broken}</body></html>'
    (folder / "broken.html").write_text(text, encoding="utf-8")
    chromium.open(folder / "broken.html", 400, "light")
    found = chromium.evaluate(CHECKS)["wrong"] + complaints(chromium)
    assert any(said in each for each in found)


def test_a_table_is_sorted_by_its_heading_with_the_mouse_and_with_the_keyboard(folder, chromium):
    chromium.open(folder / "report.html", 1200, "light")
    column = """[...document.querySelector("#table2 ~ .wide table").rows].slice(1)
                .map(row => row.cells[2].textContent)"""
    head = 'document.querySelectorAll("#table2 ~ .wide th")[2]'
    before = chromium.evaluate(column)
    chromium.evaluate(f'{head}.querySelector("button").click()')
    assert chromium.evaluate(f"{head}.ariaSort") == "ascending"
    numbers = [float(text.split(" ±")[0]) for text in chromium.evaluate(column)]
    assert numbers == sorted(numbers) and sorted(before) != before
    chromium.evaluate(f'{head}.querySelector("button").focus()')
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        chromium.call("Input.dispatchKeyEvent", type=kind, **key)
    assert chromium.evaluate(f"{head}.ariaSort") == "descending"
    numbers = [float(text.split(" ±")[0]) for text in chromium.evaluate(column)]
    assert numbers == sorted(numbers, reverse=True)
    chromium.evaluate(f'{head}.querySelector("button").click()')
    assert chromium.evaluate(column) == before


def test_the_button_changes_the_colours_and_print_is_light(folder, chromium):
    chromium.open(folder / "report.html", 1200, "dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = 'getComputedStyle(document.querySelector("svg text")).fill'
    assert chromium.evaluate(paper) == "rgb(26, 26, 26)"
    dark, light = chromium.evaluate(ink), ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert [chromium.evaluate(each) for each in (paper, ink)] == light
    prefers = {"name": "prefers-color-scheme", "value": "dark"}
    chromium.call("Emulation.setEmulatedMedia", media="", features=[prefers])
    assert chromium.evaluate(ink) == dark != light[1]
    chromium.evaluate('document.getElementById("scheme").click()')
    assert [chromium.evaluate(each) for each in (paper, ink)] == light


def test_a_figures_text_is_selected_as_it_is_read(folder, chromium):
    chromium.open(folder / "report.html", 1200, "light")
    text = chromium.evaluate(
        '[...document.querySelectorAll("#figure-fig6 text")].map(each => each.textContent)'
    )
    assert {"α₁ (cars)", "ξ: KL divergence (nats)", "Attention modules only"} <= {*text}


def test_without_the_script_all_is_there_but_the_buttons(folder, chromium):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(folder / "report.html", 400, "light")
        found = chromium.evaluate(CHECKS)
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
    assert found["wrong"] == [] and found["counted"] > 1000
    assert chromium.evaluate('document.getElementById("scheme").hidden')
    assert chromium.evaluate('document.querySelectorAll("th button").length') == 0
