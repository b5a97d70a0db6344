"""The Python blocks of the project's pages, and how each kind of block is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for folder in (".", "examples", "tests", "trooper_async")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
]


class Block(NamedTuple):
    """A Python block, and where it stands."""

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
