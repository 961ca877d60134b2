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


def test_a_table_in_an_output_is_a_table(page, site):
    opened(page, site, "notebooks/08_the_claims.html")
    assert page.locator(".cell_output table tr").count() > 40
    assert "| - |" not in page.locator("article").inner_text()


def test_links_to_a_line_lead_to_its_words(page, site):
    """The title of such a link is in the line that it leads to."""
    opened(page, site, "docs/symbols.html")
    links = page.locator("article a[href*='#L'][title]")
    links = links.evaluate_all("all => all.map(a => [a.pathname, a.hash, a.title])")
    assert len(links) > 40
    for path, line, words in links:
        source = (BOOK / path[1:]).read_text().split(f'id="{line[1:]}"')[1].split("\n")[0]
        assert words in html.unescape(re.sub(r"<[^>]*>", "", f"<{source}")), (path, line)


# ---- the embedding explorer

@pytest.fixture
def explorer(page, site):
    """The frame of docs/explorer.html, and the page around it; `dot(i)` is where a dot is, in pixels of the page."""
    opened(page, site, "docs/explorer.html")
    page.locator("iframe.explorer").scroll_into_view_if_needed()
    (frame,) = (frame for frame in page.frames if frame.url.endswith("explorer-map.html"))
    frame.locator("#voters figure").first.wait_for()
    left, top = (page.locator("iframe.explorer").bounding_box()[side] for side in "xy")

    def dot(i):
        x, y = frame.evaluate("i => { const b = canvas.getBoundingClientRect(), p = place(i); "
                              "return [b.x + p[0], b.y + p[1]]; }", i)  # fmt: skip
        return left + x, top + y

    frame.dot = dot
    yield frame
    assert not page.complaints


def lonely(frame):
    """A test image whose dot no other one covers."""
    return frame.evaluate("""() => {
        const at = classes.map((_, i) => place(i)), far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
        return at.findIndex((a, i) => i < n && at.every((b, j) => j === i || far(a, b) > 12));
    }""")


def size_of(page, address):
    """Of the image at an address, which is read whole."""
    return page.evaluate("""async address => { const image = new Image(); image.src = address; await image.decode();
        return [image.naturalWidth, image.naturalHeight]; }""", address)


def test_the_explorers_slider_changes_its_picture(explorer):
    picture, told = "canvas.toDataURL()", explorer.locator("#told")
    seen, words = {explorer.evaluate(picture)}, {told.inner_text()}
    explorer.locator("#time").focus()
    for key in ("Home", "PageUp", "PageUp"):
        explorer.page.keyboard.press(key)
        seen.add(explorer.evaluate(picture))
        words.add(told.inner_text())
    assert len(seen) == len(words) == 4 and any("epoch 0" in text for text in words)


def test_the_explorer_plays_through_the_training(explorer):
    explorer.locator("#play").click()
    explorer.wait_for_function("time > 0 && time < last")
    explorer.wait_for_function("time === last && !running")
    assert "epoch 24" in explorer.locator("#told").inner_text()


def test_hovering_shows_the_image(explorer):
    i = lonely(explorer)
    tip = explorer.locator("#tip")
    assert not tip.is_visible()
    explorer.page.mouse.move(*explorer.dot(i))
    tip.wait_for()
    assert f"is {explorer.evaluate('i => film.classes[film.truth[i]]', i)}" in tip.inner_text()
    shown = tip.locator(".tile").evaluate("tile => getComputedStyle(tile).backgroundImage")
    width, height = size_of(explorer.page, shown[5:-2])
    assert shown.startswith('url("data:image/jpeg') and (width, height) == (25 * 32, 20 * 32)
    x, y, corner = *explorer.dot(i), explorer.evaluate("i => place(i)", i)
    explorer.page.mouse.move(x - corner[0] + 2, y - corner[1] + 2)  # of the canvas, where no dot is
    tip.wait_for(state="hidden")


def test_a_click_shows_votes_and_positives(explorer):
    i, before = lonely(explorer), explorer.evaluate("canvas.toDataURL()")
    explorer.page.mouse.click(*explorer.dot(i))
    explorer.locator(f"#right > figure[data-image='{i}']").wait_for()
    assert explorer.evaluate("canvas.toDataURL()") != before
    n, moment = explorer.evaluate("[n, now()]")
    for name in ("voters", "positives"):
        shown = explorer.locator(f"#{name} figure").evaluate_all("all => all.map(one => +one.dataset.image)")
        assert shown == [n + place for place in moment[name][i]] and len(shown) > 2


@pytest.mark.parametrize("name", ["README.html", "docs/explorer.html"])
def test_the_film_moves(name, page, site):
    """A while later the picture is another one."""
    film = opened(page, site, name).locator("article img[src$='film.svg']")
    first, frames = film.screenshot(), 0
    while film.screenshot() == first and frames < 200:
        page.wait_for_timeout(100)
        frames += 1
    assert film.screenshot() != first and not page.complaints
