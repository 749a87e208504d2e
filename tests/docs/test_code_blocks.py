"""Every code block of the README and of docs/ is run, page by page, in the order in which it is read.

What a block is for is said by a comment on the line before it, which no reader sees:

    <!-- file: tests/test_it.py -->     the block is that file of the page's folder, for the blocks that follow
    <!-- fails -->                      its last command ends with another code than 0
    <!-- not run: REASON -->            it is only looked at: Python must compile, YAML, TOML and Dockerfiles must parse

Without one, a ``console`` block is typed into a shell and must print what it shows (``...`` stands for any lines, or
for any part of a line), Python with a test in it is given to pytest, other Python to Python.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_capsule import dockerfile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
SECONDS = 300


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins on, and what the comment before it says."""

    language: str
    text: str
    line: int
    comment: str

    @property
    def file(self) -> str | None:
        return self.comment.removeprefix("file:").strip() if self.comment.startswith("file:") else None


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text().splitlines()
    opened: tuple[str, int, str] | None = None
    body: list[str] = []
    for number, line in enumerate(lines, 1):
        if opened is None and (fence := re.fullmatch(r"```([\w-]+)", line)):
            said = re.fullmatch(r"<!--\s*(.*?)\s*-->", next((one for one in reversed(lines[: number - 1]) if one), ""))
            opened, body = (fence[1], number, said[1] if said else ""), []
        elif opened is not None and line == "```":
            found.append(Block(opened[0], "\n".join(body) + "\n", opened[1], opened[2]))
            opened = None
        else:
            body.append(line)
    assert opened is None, f"{page}: the block of line {opened[1]} does not end"
    return found


class Reader:
    """Someone who follows a page to the letter, in a folder that holds nothing but the examples."""

    def __init__(self, page: Path, folder: Path, cache: Path) -> None:
        self.page = page
        self.folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        shutil.copytree(ROOT / "examples", folder / "examples")
        (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        # A reader's environment has none of the other plugins that these tests need and each pytest would import.
        plugins = "-p no:hypothesispytest -p no:anyio"
        self.environment = {
            **os.environ,
            "PATH": path,
            "XDG_CACHE_HOME": str(cache),
            "COLUMNS": "100",
            "PYTEST_ADDOPTS": plugins,
        }

    def follow(self, block: Block) -> None:
        if block.comment.startswith("not run:"):
            self.look_at(block)
        elif block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "console":
            self.type_in(block)
        elif block.language in ("python", "py"):
            path = self.folder / f"test_line_{block.line}.py"
            path.write_text(block.text)
            is_test = re.search(r"^(async )?def test_|^    def test_", block.text, re.MULTILINE)
            self.run(block, ["pytest", "-q", path.name] if is_test else [sys.executable, path.name])
        else:
            self.look_at(block)

    def type_in(self, block: Block) -> None:
        commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert commands[0] == "", f"{self.page}:{block.line}: what a console shows begins with a command"
        for number, one in enumerate(commands[1:], 1):
            command, _, expected = one.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = f"{command[:-1]}{more.strip()}"
            command = re.sub(r"\s+# .*$", "", command)
            fails = block.comment == "fails" and number == len(commands) - 1
            printed = self.run(block, ["bash", "-c", command], fails=fails)
            pattern = "".join(f"{re.escape(line)}\n" for line in expected.splitlines() if line)
            pattern = pattern.replace(re.escape("...") + "\n", "(?:.*\n)*?").replace(re.escape("..."), ".*")
            shown = "".join(f"{line.rstrip()}\n" for line in printed.splitlines() if line.strip())
            assert re.search(rf"^{pattern}", shown, re.MULTILINE), (
                f"{self.page}:{block.line}: {command} is said to print\n{expected}\nand prints\n{printed}"
            )

    def run(self, block: Block, words: list[str], *, fails: bool = False) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        where = f"{self.page}:{block.line}: {shlex.join(words)}"
        assert (done.returncode != 0) == fails, f"{where} ends with {done.returncode}\n{done.stdout}"
        return done.stdout

    def look_at(self, block: Block) -> None:
        if block.language in ("python", "py"):
            compile(block.text, f"{self.page}:{block.line}", "exec")
        elif block.language == "dockerfile":
            dockerfile.parse(block.text.encode(), path=f"{self.page}:{block.line}")
        elif block.language in ("yaml", "toml"):
            loads = pytest.importorskip("yaml").safe_load if block.language == "yaml" else _toml()
            assert loads(block.text), f"{self.page}:{block.line} says nothing"
        else:
            known = block.language in ("console", "text", "ini")
            assert known, f"{self.page}:{block.line}: who reads {block.language}?"


def _toml():
    return pytest.importorskip("tomllib", reason="Python 3.11 or newer").loads


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_does_what_the_page_says(page, tmp_path, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "docs-cache"
    reader = Reader(page, tmp_path, cache)
    for block in blocks_of(page):
        reader.follow(block)


def test_a_reader_notices_what_is_not_so(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one two\none three\n```\n")

    with pytest.raises(AssertionError, match=r"page\.md:1: echo one two is said to print"):
        Reader(page, tmp_path, tmp_path).follow(blocks_of(page)[0])
