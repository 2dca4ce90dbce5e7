"""The documentation is run: every block of README and docs, in order of the page."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pages import LANGUAGES, SKIP, Block, Page, Wrong, blocks_of, matches, prose_of
from runs import ROOT

SKIPPED = 5  # blocks of the whole documentation that may not be run
PAGES = [path for name in ("README.md", "CONTRIBUTING.md") if (path := ROOT / name).exists()]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
RUN = ("python", "console", "yaml")
named = {"argvalues": PAGES, "ids": [str(page.relative_to(ROOT)) for page in PAGES]}


def _run_blocks() -> list[Block]:
    found = []
    for page in PAGES:
        try:
            found += [b for b in blocks_of(page) if b.language in RUN or b.output]
        except Wrong:  # which its own test says
            continue
    return found


@pytest.fixture(scope="module")
def pages(nano, tmp_path_factory) -> Iterator:
    """Page → the page as it is run; one at a time."""
    opened: list[Page] = []

    def page(path: Path) -> Page:
        if not opened or opened[-1].blocks[0].page != path:
            if opened:
                opened.pop().close()
            folder = tmp_path_factory.mktemp("page") / "page"
            opened.append(Page(path, nano.folder, folder, nano.folder.parent / "cache"))
        return opened[-1]

    yield page
    for each in opened:
        each.close()


@pytest.mark.slow
@pytest.mark.parametrize("block", _run_blocks(), ids=str)
def test_block(pages, block):
    if block.skip is not None:
        pytest.skip(block.skip)
    page, wrong = pages(block.page), ""
    try:
        page.run(block)
    except Wrong as error:
        wrong = str(error)
    if wrong:
        pytest.fail(wrong, pytrace=False)
    if block not in page.done:
        pytest.skip(f"{page.broken} failed")


@pytest.mark.parametrize("page", **named)
def test_form_of_a_page(page):
    wrong = []
    for block in blocks_of(page):
        if block.language not in LANGUAGES:
            wrong.append(f"{block}: `{block.language}` is none of {', '.join(sorted(LANGUAGES))}")
        if block.skip == "":
            wrong.append(f"{block}: is skipped without a reason")
        if block.language == "text" and re.search(r"^\s*(\$|%|>>>) ", block.text, re.M):
            wrong.append(f"{block}: holds a command, as console or python does")
    in_list, above = False, ""
    for number, line in prose_of(page):
        if line.strip():
            if not line.startswith(" "):
                in_list = bool(re.match(r"([-*+]|\d+\.) ", line))
            elif line.startswith("    ") and not in_list and not above.strip():
                wrong.append(f"{page}:{number}: an indented block; fence it")
        if line.strip().startswith("<!-- skip") and not SKIP.match(line):
            wrong.append(f"{page}:{number}: write <!-- skip: next: reason -->")
        above = line
    assert not wrong, "\n".join(wrong)


def test_few_blocks_are_skipped():
    skipped = [block for page in PAGES for block in blocks_of(page) if block.skip is not None]
    assert len(skipped) <= SKIPPED, "\n".join(f"{block}: {block.skip}" for block in skipped)


def _anchor(heading: str, site: bool) -> str:
    """The anchor of a heading, as the site makes it or as GitHub does."""
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    if not site:
        return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@cache
def _anchors(page: Path, site: bool) -> set[str]:
    found, seen = set(), Counter()
    for _, line in prose_of(page):
        if heading := re.match(r"#{1,6} +(.*?)(?: +#+)?$", line):
            anchor = _anchor(heading[1], site)
            again = f"{'_' if site else '-'}{seen[anchor]}" if seen[anchor] else ""
            seen[anchor] += 1
            found.add(anchor + again)
        found.update(re.findall(r'<a (?:id|name)="([^"]+)"', line))
    return found


@pytest.mark.parametrize("page", **named)
def test_links_and_anchors(page):
    wrong, docs = [], ROOT / "docs"
    for number, line in prose_of(page):
        line = re.sub(r"`[^`]*`", "``", line)
        for target in re.findall(r"\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)?)\)", line):
            if re.match(r"(https?|mailto):", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            where = f"{page.relative_to(ROOT)}:{number}: {target}"
            if not path.exists():
                wrong.append(f"{where} is not there")
            elif docs in page.parents and docs not in path.parents:
                wrong.append(f"{where} leaves docs/: name the file in `code`")
            elif anchor and path.suffix == ".md" and "." not in anchor:
                # one with a dot is of the generated library reference: the site's build checks it
                if anchor not in _anchors(path, site=docs in path.parents):
                    wrong.append(f"{where}: no such heading")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "expected, actual, same",
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n...\n", "a\nb\nc\n", True),
        ("...\nc\n", "a\nb\nc\n", True),
        ("a ... c\n", "a b b c\n", True),
        ("a ... c\n", "a b\n c\n", False),
        ("a.c\n", "abc\n", False),
        ("a\n\nb\n", "\na  \n\nb\n\n", True),
    ],
)
def test_wildcards(expected, actual, same):
    assert matches(expected, actual) is same


def test_a_wrong_block_fails_with_its_line_and_the_ones_below_are_not_run(tmp_path):
    nano = tmp_path / "nano"
    (nano / "src").mkdir(parents=True)
    page = ROOT / "docs" / "page.md"  # which is not there
    texts = ["x = 1\n", "print(x + 1)\n", "2\n", "$ echo a b\na ...\n", "assert x == 2\n", "x\n"]
    kinds = ["python", "python", "text", "console", "python", "python"]
    given = zip(texts, kinds, strict=True)
    blocks = [Block(page, 10 * i, kind, text, None, i == 2) for i, (text, kind) in enumerate(given)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pages.blocks_of", lambda path: blocks)
        run = Page(page, nano, tmp_path / "page", tmp_path / "cache")
    for block in blocks[:4]:
        run.run(block)
    with pytest.raises(Wrong, match=r"docs/page.md:40.*(?s:.)*page.md\", line 41"):
        run.run(blocks[4])
    run.run(blocks[5])
    assert run.broken == blocks[4] and blocks[5] not in run.done
    run.close()
