"""JupyterLab as a reader has it: Run All of notebooks 00 and 01 with their quick parameters, and 01's sliders."""
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import papermill
import pytest
from conftest import ROOT

NAMES = ("00_start_here.ipynb", "01_the_pieces.ipynb")
EXPLORER = f"""import sys
sys.path.insert(0, {str(ROOT / "notebooks")!r})
import explorer, film, semppl_mini as s
explorer.explore(film.load("digits"), s.data_for(s.presets.digits()))"""
SLIDERS = ("image", "tau", "k", "query")  # by label: whole numbers, powers of ten, a choice, whole numbers
MINUTE = 60_000  # in milliseconds
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent)"  # folded cells: ""


def copies(folder):
    """The notebooks with quick parameters, none of their cells run."""
    quick = json.loads((ROOT / "notebooks" / "quick.json").read_text())
    for name in NAMES:
        notebook = papermill.execute_notebook(ROOT / "notebooks" / name, None, quick[name], prepare_only=True)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.update(execution_count=None, outputs=[])
        nbformat.write(notebook, folder / name)
    cells = [nbformat.v4.new_code_cell(EXPLORER)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "explorer.ipynb")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a folder of copies; it keeps all cells in the page, seen or not."""
    folder = tmp_path_factory.mktemp("lab")
    copies(folder)
    tracker = folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--ServerApp.root_dir={folder}",
               "--IdentityProvider.token="]  # fmt: skip
    own = {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / f".{name}") for name in ("settings", "workspaces")}
    environment = os.environ | own | {"TQDM_DISABLE": "1"}
    environment.pop("MPLBACKEND", None)  # notebooks draw inline
    log = folder / ".log"
    with log.open("w") as out:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    wait_for(f"http://127.0.0.1:{port}/api", server, log)
    yield f"http://127.0.0.1:{port}"
    server.terminate()  # it ends its kernels, too
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()


def wait_for(address, server, log):
    for _ in range(240):
        try:
            return urllib.request.urlopen(address, timeout=10).close()
        except (urllib.error.URLError, TimeoutError):
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab does not answer: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def opened(chromium, lab):
    """name -> its page, once."""
    pages = {}

    def page_of(name):
        if name not in pages:
            pages[name] = page = chromium.new_page(viewport={"width": 1200, "height": 900})
            page.set_default_timeout(5 * MINUTE)  # a busy machine is no error
            page.goto(f"{lab}/lab/workspaces/{name[:2]}/tree/{name}")  # alone: no other tabs come back
            run_all(page)
        return pages[name]

    yield page_of
    for page in pages.values():
        page.close()


def start_all(page):
    """The menu's Run All Cells, once there is a kernel; back when the cells wait for it."""
    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").first.wait_for(state="attached")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    while "[*]:" not in page.evaluate(PROMPTS):
        page.wait_for_timeout(200)


def run_all(page):
    """Back when no cell waits any more."""
    start_all(page)
    end = time.monotonic() + 20 * 60
    while "[*]:" in (prompts := page.evaluate(PROMPTS)):
        assert time.monotonic() < end, prompts
        page.wait_for_timeout(1000)


@pytest.mark.parametrize("name", NAMES)
def test_run_all_ends_without_an_error(name, opened):
    page = opened(name)
    assert page.locator(".jp-OutputArea-output", has_text="Traceback (most recent").all_inner_texts() == []
    assert "[ ]:" not in page.evaluate(PROMPTS), page.locator(".jp-Dialog").all_inner_texts()
    assert page.locator(".jp-OutputArea-output img").count() > 3


@pytest.mark.parametrize("name", NAMES)
def test_plumbing_is_folded(name, opened):
    """A folded cell shows a placeholder in the place of its code."""
    code = opened(name).locator(".jp-InputArea-editor", has_text="check_parameters(values")
    assert code.count() == 0 or not code.first.is_visible()
    assert opened(name).locator(".jp-CodeCell .jp-Placeholder").count() > 0


@pytest.mark.parametrize("label", SLIDERS)
def test_a_slider_changes_its_picture(label, opened):
    """By the keyboard, as a reader without a mouse would."""
    page = opened("01_the_pieces.ipynb")
    row = page.locator(".widget-hslider", has=page.locator(f".widget-label:text-is('{label}')"))
    picture = page.locator(".widget-interact", has=row).locator("img").first
    before = picture.get_attribute("src")
    row.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("([image, before]) => image.isConnected === false || image.src !== before",
                           arg=[picture.element_handle(), before])  # fmt: skip
    assert picture.get_attribute("src") != before


def test_the_explorer_answers_in_its_frame(opened):
    """In a widget, without a network: the slider, hovering, a click."""
    page = opened("explorer.ipynb")
    inside = page.frame_locator(".jp-OutputArea-output iframe[srcdoc]")
    told, chosen = inside.locator("#told"), inside.locator("#right > figure").first
    chosen.wait_for()
    before, picked = told.inner_text(), chosen.get_attribute("data-image")
    inside.locator("#time").focus()
    page.keyboard.press("Home")
    assert told.inner_text() != before and "epoch 0" in told.inner_text()
    page.keyboard.press("End")
    x, y = inside.locator("canvas").evaluate("() => place(picked === 7 ? 8 : 7)")
    inside.locator("canvas").hover(position={"x": x, "y": y})
    inside.locator("#tip .tile").wait_for()
    inside.locator("canvas").click(position={"x": x, "y": y})
    assert chosen.get_attribute("data-image") != picked and inside.locator("#voters figure").count() > 2
    assert page.locator(".jp-OutputArea-output img").count() > 0  # the still figure
