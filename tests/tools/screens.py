"""The picture of the command in the README, made again from a real run: `python -m tests.tools.screens`."""

from __future__ import annotations

import io
import os
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.cli.terminal import styled_lines, terminal

IMAGE = Path(__file__).parents[2] / "examples" / "images" / "trooper-ps.svg"


def main() -> None:
    """Run `trooper demo -- ps` in a terminal, and draw what its screen shows."""
    with terminal("demo", "--", "ps", environment={"HOME": os.devnull, "PATH": os.defpath}) as shown:
        status, _ = shown.end()
    assert status == 0, shown.said
    lines = [line for line in styled_lines(shown.said) if line.strip()]
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ trooper demo -- ps", "bold"))
    for line in lines:
        console.print(Text.from_ansi(line.rstrip()))
    IMAGE.write_text(console.export_svg(title="trooper", unique_id="trooper-ps"), encoding="utf-8")
    print(f"{IMAGE}: {len(lines)} lines")


if __name__ == "__main__":
    main()
