"""What the one line `repo_url` of pyproject.toml brings: python docs/repo_url.py

It writes the badges of README.md and, in notebook 00, the address that the notebook installs from on Colab. Empty: no
badges. The book (book/conf.py) links each notebook to Colab and Binder, and files to their source, by the same line.
"""

import json
import re
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest and Sphinx bring tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FIRST = "notebooks/00_start_here.ipynb"


def repo_url(root: Path = ROOT) -> str:
    """https://github.com/OWNER/NAME, or "" if there is none yet."""
    url = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["semppl_mini"]["repo_url"]
    if url and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise ValueError(f"repo_url = {url!r} is opened neither by Colab nor by Binder; give https://github.com/OWNER/NAME.")
    return url


def doors(url: str, notebook: str) -> dict[str, str]:
    """Where a notebook runs without a machine of one's own: {name: address}."""
    name = url.removeprefix("https://github.com/")
    return {} if not url else {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/main/{notebook}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{notebook}",
    }  # fmt: skip


def with_badges(readme: str, url: str) -> str:
    """README.md with a badge a door between its two marks."""
    image = {"Colab": "https://colab.research.google.com/assets/colab-badge.svg",
             "Binder": "https://mybinder.org/badge_logo.svg"}  # fmt: skip
    badges = " ".join(f"[![Open in {door}]({image[door]})]({to})" for door, to in doors(url, FIRST).items())
    return re.sub(r"(<!-- badges -->).*(<!-- badges end -->)", rf"\g<1>{badges}\g<2>", readme)


def with_address(notebook: str, url: str) -> str:
    """Notebook 00, as JSON text, with the address in its first cell of code."""
    return re.sub(r'(?<="repo_url = \\")[^"\\]*(?=\\")', url, notebook, count=1)


def main() -> None:
    url = repo_url()
    for name, renewed in (("README.md", with_badges), (FIRST, with_address)):
        text = renewed((ROOT / name).read_text(), url)
        assert name.endswith(".md") or json.loads(text)
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
