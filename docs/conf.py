"""How the documentation is built as a site: ``make docs``."""

import argparse
import os
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

from pytest_capsule.cli import make_parser

project = "pytest-capsule"
author = "the pytest-capsule developers"
version = release = version_of("pytest-capsule")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = "pytest-capsule"
copybutton_prompt_text = "$ "


def write_command_line(app: Sphinx) -> None:
    """The page of the command line, from the parser itself."""
    os.environ["COLUMNS"] = "100"  # argparse fills lines to that width
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = ["# The command line\n", f"```text\n{parser.format_help()}```\n"]
    for name, command in commands.choices.items():
        parts.append(f"## {name}\n\n```text\n{command.format_help()}```\n")
    page = Path(app.srcdir, "reference", "command-line.md")
    text = "\n".join(parts)
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", lambda app, _: write_command_line(app))
