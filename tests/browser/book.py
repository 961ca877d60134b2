"""The built book in a browser: every page, its equations, its links, on a desk and on a phone; folding and search."""
import html
import re
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

BOOK = ROOT / "build" / "book"
PAGES = sorted(path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html"))
MODULES = [name for name in PAGES if name.startswith("_modules/semppl_mini/")]
CHAPTERS = [*(f"{path.relative_to(ROOT).with_suffix('.html')}" for folder in ("docs/*.md", "notebooks/[0-9]*.ipynb")
              for path in ROOT.glob(folder)), "README.html", "search.html", "index.html"]  # fmt: skip
EQUATIONS = """async () => {
    if (window.MathJax) await MathJax.startup.promise;
    return [...document.querySelectorAll('.math')].map(math => {
        const svg = math.querySelector('mjx-container svg'), box = svg && svg.getBoundingClientRect();
        const bad = !box || !box.width || math.querySelector('[data-mml-node=merror], [data-mjx-error]');
        return [math.textContent.slice(0, 60), !bad];
    });
}"""
LINKS = "() => [...document.links].map(link => link.href)"


def opened(page, site, name):
    page.goto(site + name)
    page.wait_for_load_state("networkidle")
    return page


@pytest.fixture(scope="module")
def anchors():
    """The names in each page that a link can lead to."""
    return {name: set(re.findall(r'\bid="([^"]+)"', (BOOK / name).read_text())) for name in PAGES}


def test_the_book_is_whole():
    assert set(CHAPTERS) <= set(PAGES), "run make book"
    assert len(MODULES) > 30


@pytest.mark.parametrize("name", PAGES)
def test_page(name, page, site, anchors):
    opened(page, site, name)
    assert not [tex for tex, drawn in page.evaluate(EQUATIONS) if not drawn]
    own = [urlsplit(link) for link in page.evaluate(LINKS) if link.startswith(site)]
    for path, fragment in {(unquote(link.path)[1:], unquote(link.fragment)) for link in own}:
        assert (BOOK / path).exists(), path
        assert not fragment or path not in anchors or fragment in anchors[path], f"{path}#{fragment}"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
    assert not page.complaints


def test_equations_are_there(page, site):
    assert len(opened(page, site, "notebooks/01_the_pieces.html").evaluate(EQUATIONS)) > 50


def test_the_front_door_leads_in(page, site):
    opened(page, site, "index.html").wait_for_url("**/docs/index.html")
    assert page.locator("article img").first.evaluate("image => image.naturalWidth") > 100


def test_search_finds_invariance(page, site):
    opened(page, site, "docs/index.html").locator("input[name=q]").first.fill("invariance")
    page.keyboard.press("Enter")
    results = page.locator("#search-results li a")
    results.first.wait_for()
    page.locator("#search-results p.search-summary", has_text="found").wait_for()
    found = results.evaluate_all("links => links.map(link => link.href)")
    assert [link for link in found if "notebooks/01_the_pieces" in link] and not page.complaints
    results.first.click()
    page.wait_for_url(lambda url: "search.html" not in url)
    assert "invariance" in page.locator("article").inner_text().lower()


def test_plumbing_and_solutions_are_folded(page, site):
    opened(page, site, "notebooks/01_the_pieces.html")
    plumbing, answer = page.get_by_text("check_parameters", exact=True).first, page.get_by_text("1149 steps")
    assert not plumbing.is_visible() and not answer.is_visible()
    page.locator("summary", has_text="Show this source").first.click()
    page.locator("summary", has_text="Solutions").first.click()
    assert plumbing.is_visible() and answer.is_visible()


def test_links_to_a_line_lead_to_its_words(page, site):
    """The title of such a link is in the line that it leads to."""
    opened(page, site, "docs/symbols.html")
    links = page.locator("article a[href*='#L'][title]")
    links = links.evaluate_all("all => all.map(a => [a.pathname, a.hash, a.title])")
    assert len(links) > 40
    for path, line, words in links:
        source = (BOOK / path[1:]).read_text().split(f'id="{line[1:]}"')[1].split("\n")[0]
        assert words in html.unescape(re.sub(r"<[^>]*>", "", f"<{source}")), (path, line)
