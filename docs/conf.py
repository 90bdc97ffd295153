"""How Sphinx makes the site of the documents and the docstrings: `scripts/docs` runs it, and warnings are errors."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

from hypoll.version import __version__

ROOT = Path(__file__).parent.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]

SOURCE = f"{REPOSITORY}/blob/main/"
"""Where a link leads that leaves the documents: to a file of the sources."""

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples": "examples.md",
    "deploy": "deploy.md",
}
"""Documents and directories beside this folder, and the pages that show them."""


def _shown_files() -> dict[str, str]:
    """The files that pages show whole, each with its page and the heading that it stands below."""
    found = {}
    for page in ("examples.md", "deploy.md"):
        text = (ROOT / "docs" / page).read_text()
        for title, name in re.findall(r"(?m)^## (\S+)\n(?:(?!##|```).*\n)+```\{literalinclude\} \.\./(\S+)", text):
            found[name] = f"{page}#{re.sub(r'[^a-z_-]', '', title)}"
    return found


PAGES |= _shown_files()

project = "hypoll"
copyright = "the hypoll developers, MIT license"  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # what is included begins with a title of its own

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"hypoll {__version__}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": SOURCE.removesuffix("blob/main/"),
    "source_branch": "main",
    "source_directory": "docs/",
}


def setup(app: Sphinx) -> None:
    """Have the links of pages, and of what they include, lead where they do in the repository."""
    app.connect("source-read", lambda app, page, source: _resolve(source, f"docs/{page}", page))
    app.connect(
        "include-read", lambda app, path, page, source: _resolve(source, os.path.normpath(ROOT / "docs" / path), page)
    )


def _resolve(source: list[str], document: str, page: str) -> None:
    """Change the links of a document, which are relative to its folder, to those of the page that shows it."""
    folder, shown_in = (ROOT / document).parent, (ROOT / "docs" / page).parent
    source[0] = re.sub(r"\]\(([^)\s]+)\)", lambda match: f"]({_target(match[1], folder, shown_in)})", source[0])


def _target(link: str, folder: Path, shown_in: Path) -> str:
    """Where a link leads: to a page of the site, or to a file of the sources."""
    path, mark, fragment = link.partition("#")
    found = Path(os.path.normpath(folder / path))
    if not path or ":" in path or not found.is_relative_to(ROOT):
        return link
    name = str(found.relative_to(ROOT))
    if name not in PAGES and not (name.startswith("docs/") and found.is_file()):
        return SOURCE + name + mark + fragment
    return os.path.relpath(ROOT / "docs" / PAGES.get(name, name.removeprefix("docs/")), shown_in) + mark + fragment
