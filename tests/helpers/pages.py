"""The Python blocks of the project's pages and public docstrings, and the kind of each."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import trooper_async
from trooper_async import testing

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for folder in (".", "examples", "tests", "trooper_async")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
]


class Block(NamedTuple):
    """A Python block, and its place."""

    page: str
    line: int
    code: str

    @property
    def kind(self) -> str:
        """`test` for a test file, `script` for a whole program, else `fragment`, which may `await` at its top."""
        if "async def test_" in self.code:
            return "test"
        return "script" if "asyncio.run(" in self.code else "fragment"


def sections(path: Path, language: str) -> list[Block]:
    """The code blocks of a page that are in a language."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    name = str(path.relative_to(ROOT))
    return [Block(name, text.count("\n", 0, one.start()) + 2, one[1]) for one in found]


BLOCKS = [block for path in PAGES for block in sections(path, "python")]


def docstrings(package: ModuleType) -> Iterator[tuple[str, str]]:
    """The docstrings of a package and of what it exports, by name."""
    yield package.__name__, package.__doc__ or ""
    for name in package.__all__:
        exported = getattr(package, name)
        if inspect.isfunction(exported) or inspect.isclass(exported):
            yield name, exported.__doc__ or ""
        for member, value in inspect.getmembers(exported, inspect.isfunction) if inspect.isclass(exported) else ():
            yield f"{name}.{member}", value.__doc__ or ""


def examples(docstring: str) -> list[str]:
    """The indented code blocks above the sections of a docstring."""
    text, *_ = re.split(r"^(?:Args|Returns|Raises|Attributes):$", inspect.cleandoc(docstring), flags=re.M)
    found = re.finditer(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", text + "\n")
    return [textwrap.dedent(one[0]) for one in found]


BLOCKS += [
    Block(name, number, code)
    for package in (trooper_async, testing)
    for name, text in docstrings(package)
    for number, code in enumerate(examples(text), 1)
]
