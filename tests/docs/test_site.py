"""The documentation site: built as `make docs` builds it, and every page opened in a browser, in
both colour schemes, at the width of a phone and of a desk, without a network."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path

import browser
import pytest
import yaml

from task_arithmetic.files import metrics, records

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
has_browser = pytest.mark.skipif(
    browser.PATH is None, reason="there is no Chromium here (apt-get install chromium)"
)
LOOKS = [(1200, "light"), (400, "dark"), (1200, "dark"), (400, "light")]


def tool(name: str):
    """A module of tools/docs."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"tools/docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nav(entries) -> list[str]:
    """The pages of a navigation, in its order."""
    found = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found += nav(value) if isinstance(value, list) else [value]
    return found


PAGES = nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
URLS = [page.removesuffix("index.md").replace(".md", "/") for page in PAGES]


# --- Reference pages ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["configuration.md", "command-line.md"])
def test_pages_that_are_made_are_as_the_code_makes_them(name):
    made, found = tool("pages").PAGES[name](), (REFERENCE / name).read_text("utf-8")
    assert made == found, "make docs writes it again"


def test_every_page_is_in_the_navigation():
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert sorted(PAGES) == sorted(pages)


def test_every_column_has_its_meaning():
    text = (REFERENCE / "metrics.md").read_text("utf-8")
    said = set(re.findall(r"`([a-z_]+)`", text))
    assert {*metrics.COLUMNS, *records.COLUMNS} <= said


def test_every_metric_that_a_stage_writes_has_its_meaning():
    said = set(re.findall(r"`([a-z_]+)`", (REFERENCE / "metrics.md").read_text("utf-8")))
    stages = [*(ROOT / "src/task_arithmetic/stages").glob("*.py")]
    written = {
        name
        for path in stages
        for name in re.findall(r'"([a-z]+_[a-z_]+)"', path.read_text("utf-8"))
        if re.search(
            r"_(accuracy|error|norm|similarity|rank|energy|seconds|bytes|alignment)$", name
        )
        or name.endswith(("_matrices", "_parameters", "_loss"))
    }
    assert len(written) > 15 and written - said == set()


def test_the_library_page_has_every_public_name():
    import task_arithmetic

    text = (REFERENCE / "library.md").read_text("utf-8")
    said = set(re.findall(r"^::: task_arithmetic\.(\w+)$", text, re.M))
    assert said == set(task_arithmetic.__all__)
    for room in ("core", "merging", "analysis"):
        modules = {path.stem for path in ROOT.glob(f"src/task_arithmetic/{room}/[a-z]*.py")}
        assert modules == set(re.findall(rf"^::: task_arithmetic\.{room}\.(\w+)$", text, re.M))


# --- Equations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (r"$\theta_0 + \alpha$ and $x$", 2),
        ("$$\n\\xi = \\sum_t \\tau_t\n$$", 1),
        ("one\n$$ a $$\ntwo", 1),
        ("- in a list $a$\n\n    $$\n    b\n    $$\n", 2),
        ("`$HOME` and $a$", 1),
        ("```text\n$$\nx\n$$\n```", 0),
        ("from 5$ to 10$", 0),
        ("| $a$ | b |\n| - | - |\n| c | $d$ |", 2),
    ],
)
def test_equations_become_mathml(text, count):
    markdown = pytest.importorskip("markdown")
    extensions = ["tables", "pymdownx.superfences", tool("equations").Equations()]
    found = markdown.markdown(text, extensions=extensions)
    assert found.count("<math ") == found.count("</math>") == count


def test_an_equation_that_is_not_known_ends_the_build():
    pytest.importorskip("latex2mathml")
    with pytest.raises(ValueError, match="unheardof"):
        tool("equations").mathml(r"\unheardof{x}", "inline")


# --- The site -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    pytest.importorskip("mkdocs", reason="make docs installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict"]
    built = subprocess.run(
        [*command, "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tools/docs", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def served(site):
    """Its address on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    chromium = browser.Browser(tmp_path_factory.mktemp("profile"), network=False)
    yield chromium
    chromium.close()


def text_of(page: str) -> str:
    """A page's HTML without what is code, and without scripts."""
    return re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", page, flags=re.S)


def test_every_page_can_be_searched_for(site):
    found = json.loads((site / "search/search_index.json").read_text("utf-8"))["docs"]
    assert set(URLS) <= {each["location"] for each in found}


def test_every_equation_is_mathml(site):
    equations = 0
    for url in URLS:
        page = (site / url / "index.html").read_text("utf-8")
        plain = re.sub(r'alttext="[^"]*"', "", text_of(page))
        assert "$" not in plain, (url, re.findall(r".{30}\$.{30}", plain)[:3])
        for equation in re.findall(r"<math .*?</math>", plain, re.S):
            assert "\\" not in equation and "merror" not in equation, (url, equation)
            equations += 1
    assert equations


def test_no_page_names_a_file_of_another_host(site):
    for path in site.rglob("*.html"):
        page = path.read_text("utf-8")
        loads = re.findall(
            r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)="([^"]+)"', page
        )
        assert [url for url in loads if re.match(r"(https?:)?//", url)] == [], path


CHECKS = """
(async () => {
  const wrong = [], root = document.documentElement, still = document.createElement("style");
  still.textContent = "* { transition: none !important; animation: none !important; }";
  document.head.append(still);
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...document.querySelectorAll("article *")]
      .filter(each => each.getBoundingClientRect().right > root.clientWidth + 1)
      .map(each => each.textContent.trim().slice(0, 60));
    wrong.push(`overflow: ${root.scrollWidth}: ${wide.slice(0, 3)}`);
  }
  for (const image of document.querySelectorAll("img")) {
    image.loading = "eager";
    try { await image.decode(); } catch { wrong.push(`image: ${image.src}`); }
    if (!image.alt.trim()) wrong.push(`no alt: ${image.src}`);
  }
  for (const each of document.querySelectorAll("math, .equation")) {
    const box = each.getBoundingClientRect();
    if (!box.width || !box.height) wrong.push(`empty: ${each.getAttribute("alttext")}`);
  }
  const ids = [...document.querySelectorAll("article [id]")].map(each => each.id);
  const twice = ids.filter((id, i) => ids.indexOf(id) < i);
  if (twice.length) wrong.push(`twice: ${twice.slice(0, 3)}`);
  return {
    wrong,
    title: document.querySelector("article h1")?.textContent.trim(),
    paper: getComputedStyle(document.body).backgroundColor,
  };
})()
"""


def complaints(chromium, served: str) -> list[str]:
    """Errors in the console, and requests to another host."""
    found = []
    for event in chromium.events:
        method, told = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            found.append(str(told["exceptionDetails"]))
        if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            found.append(told["entry"]["text"] + told["entry"].get("url", ""))
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            found.append(str(told["args"]))
        if method == "Network.requestWillBeSent":
            url = told["request"]["url"]
            found += [url] * (not url.startswith((served, "data:", "blob:")))
    return found


@has_browser
def test_every_page_is_whole_and_fits(served, chromium):
    wrong, papers = {}, {"light": set(), "dark": set()}
    for url, look in zip(URLS, cycle(LOOKS)):  # noqa: B905
        chromium.open(served + url, *look)
        seen = chromium.evaluate(CHECKS)
        papers[look[1]].add(seen["paper"])
        # The other width and scheme without a second visit.
        other = (1600 - look[0], "dark" if look[1] == "light" else "light")
        chromium.look(*other)
        again = chromium.evaluate(CHECKS)
        papers[other[1]].add(again["paper"])
        found = seen["wrong"] + again["wrong"] + complaints(chromium, served)
        if found or not seen["title"]:
            wrong[url] = found
    assert wrong == {}
    assert [len(each) for each in papers.values()] == [1, 1]
    assert papers["light"] != papers["dark"]


@has_browser
def test_search_finds_a_function_and_the_switch_changes_the_colours(served, chromium):
    chromium.open(served, 1200, "light")
    found = """
    (async () => {
      const box = document.querySelector("input.md-search__input");
      document.querySelector("#__search").click();
      box.focus();
      box.value = "choose_negation";
      box.dispatchEvent(new Event("input", {bubbles: true}));
      box.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
      for (let wait = 0; wait < 100; wait++) {
        const links = [...document.querySelectorAll(".md-search-result__link")];
        if (links.length) return links.map(each => each.href);
        await new Promise(done => setTimeout(done, 50));
      }
      return [];
    })()
    """
    assert any("reference/library/" in each for each in chromium.evaluate(found))
    paper = "getComputedStyle(document.body).backgroundColor"
    light = chromium.evaluate(paper)
    for _ in range(2):  # from the system's to light, and then to dark
        chromium.evaluate(
            "[...document.querySelectorAll('[data-md-component=palette] label')]"
            ".find(each => !each.hidden).click()"
        )
    assert chromium.evaluate(paper) != light
