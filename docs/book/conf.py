"""The book: `make book` makes it of README.md, docs/ and the notebooks as they are committed, into build/book.

Nothing is executed, and neither the build nor a reader's browser asks another host: the theme comes with its package,
MathJax with sphinx-mathjax-offline. The sources' root is the repository, so a link leads to the same place as in the
files, but for what is below: pages of source code, folders, the contents, docstrings.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "notebooks")]
from repo_url import doors, repo_url  # noqa: E402

REPO = repo_url()
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"

project, html_title = "semppl-mini", "semppl-mini"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
root_doc = "docs/index"
include_patterns = ["*.md", "*/README.md", "docs/*.md", "docs/book/*.rst", "notebooks/[0-9]*.ipynb"]
include_patterns += ["notebooks/encoders/*/README.md"]  # cards, no chapters: pages that others link to
exclude_patterns = [".*", "build", "runs", "data/packs"]  # not searched for pages
html_theme, html_favicon, html_show_copyright = "furo", "icon.svg", False
html_static_path = ["style.css", str(MATHJAX / "tex-svg-full.js")]
html_css_files, html_extra_path = ["style.css"], ["index.html"]
html_theme_options = {"source_repository": REPO, "source_branch": "main", "source_directory": ""} if REPO else {}
mathjax_path, mathjax3_config = "tex-svg-full.js", {"options": {"enableMenu": False}}
myst_enable_extensions, myst_heading_anchors = ["dollarmath", "amsmath", "html_image"], 3
nb_execution_mode, nb_render_markdown_format = "off", "myst"  # which has tables
nb_code_prompt_show, nb_code_prompt_hide = "Show this {type}", "Hide this {type}"
autodoc_inherit_docstrings = False  # of torch, on every `forward`
autodoc_member_order, maximum_signature_line_length = "bysource", 100
python_use_unqualified_type_names = viewcode_line_numbers = True


def contents(app, docname, source) -> None:
    """The list of chapters is read from docs/index.md: a part a heading, a chapter a link that begins a line's item."""
    if docname == root_doc:
        for caption, section in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", source[0], re.MULTILINE):
            chapters = re.findall(r"^- \[(.+?)\]\((\S+)\.\w+\)", section, re.MULTILINE)
            listed = "\n".join(f"{title} <{page}>" for title, page in chapters)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"
    if docname.startswith("notebooks/encoders/"):
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    if docname == "README":
        source[0] = re.sub(r"<!-- badges -->.*<!-- badges end -->", "", source[0])  # pictures on other hosts


def to_source(app, doctree) -> None:
    """A link to a file that is no page leads to its page of source code, else to the repository, else downloads it."""
    docname = app.env.docname
    here = (ROOT / docname).parent
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        path = os.path.normpath(here / node["reftarget"].split("#")[0])
        if node.get("refdomain") or not os.path.exists(path):
            continue
        name, folder, words = os.path.relpath(path, ROOT), os.path.isdir(path), node.get("reftitle")
        line = f"#L{1 + Path(path).read_text().split(words)[0].count(chr(10))}" if words else ""
        if name.startswith("semppl_mini/") and name.endswith(".py"):
            page = re.sub(r"(/__init__)?\.py$", ".html", name)
            uri = f"{'../' * docname.count('/')}_modules/{page}{line}"
        elif REPO:
            uri = f"{REPO}/{'tree' if folder else 'blob'}/main/{name}{line}"
        elif folder:
            node.replace_self(node.children)
            continue
        else:
            continue
        link = nodes.reference("", "", *node.children, refuri=uri, internal=not uri.startswith("http"))
        link.attributes |= {"reftitle": words} if words else {}
        node.replace_self(link)


def on_page(app, pagename, templatename, context, doctree) -> None:
    """Lines of source code can be linked to (#L7), notebooks open on Colab and Binder."""
    body = context.get("body", "")
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(r'<span class="linenos">( *(\d+))', r'<span class="linenos" id="L\2">\1', body)
    if pagename.startswith("notebooks/"):
        links = [f'<a href="{to}">Open in {door}</a>' for door, to in doors(REPO, f"{pagename}.ipynb").items()]
        context["body"] = body.replace("</h1>", f"</h1><p>{' · '.join(links)}</p>" if links else "</h1>", 1)


def as_typed(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text: what is indented stays as it is typed, `names` are code, nothing else is markup."""
    blocks = re.split(r"((?:^ .*\n|^\n(?= ))+)", "\n".join(lines) + "\n", flags=re.MULTILINE)
    for i, block in enumerate(blocks):
        if i % 2:
            blocks[i] = f"\n::\n\n{block}\n"
        else:
            words = re.split(r"`([^`]+)`", block)
            words[::2] = [re.sub(r"([\\*_|`])", r"\\\1", text) for text in words[::2]]
            words[1::2] = [rf"\ ``{code}``\ " for code in words[1::2]]
            blocks[i] = "".join(words)
    lines[:] = "".join(blocks).splitlines()


def explorer_map(app, error) -> None:
    """The page in the frame of docs/explorer.md: the kept film of the embedded digits, with images and script in it."""
    if error is None and app.builder.format == "html":
        import explorer
        import film

        from semppl_mini import data_for, presets

        page = explorer.page(film.load("digits"), data_for(presets.digits()))
        (Path(app.outdir) / "docs" / "explorer-map.html").write_text(page, encoding="utf-8")


def setup(app) -> None:
    app.connect("source-read", contents)
    app.connect("doctree-read", to_source, priority=400)  # before downloads are collected
    app.connect("html-page-context", on_page)
    app.connect("autodoc-process-docstring", as_typed)
    app.connect("build-finished", explorer_map)
