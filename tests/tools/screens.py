"""The command's screens, made again from real runs on the fake: `python -m tests.tools.screens`.

Writes a picture of each to examples/images, and shows them as text at 40, 80 and 200 columns (`--text`).
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.cli.terminal import Terminal, screen, styled_lines, terminal

IMAGES = Path(__file__).parents[2] / "examples" / "images"
_WIDTH = 104


def _answer(shown: Terminal) -> None:
    for _ in range(2):
        shown.until("[y/N]")
        shown.type("y")
        shown.forget()


def _look(shown: Terminal) -> None:
    shown.until("Ctrl-C ends it", "ago")
    shown.ctrl_c()


def _nothing(shown: Terminal) -> None:
    """It ends by itself."""


SCREENS: dict[str, tuple[str, Callable[[Terminal], None]]] = {
    "trooper-ps": ("ps", _nothing),
    "trooper-show": ("show 128", _nothing),
    "trooper-watch": ("watch --interval 0.5", _look),
    "trooper-order": ("order --gpu 'RTX 4090' --max-price-h 0.90", _answer),
}


def run(command: str, act: Callable[[Terminal], None], columns: int) -> str:
    """What a command of the demo writes to a terminal of that width."""
    variables = {"HOME": os.devnull, "PATH": os.defpath}
    with terminal("demo", "--", *shlex.split(command), environment=variables, columns=columns) as shown:
        act(shown)
        status, _ = shown.end()
    assert status in (0, 130), shown.all
    return shown.all


def draw(name: str, command: str, written: str) -> None:
    """A picture of the output."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ trooper demo -- {command}", "bold"))
    lines = [line.rstrip() for line in styled_lines(written) if line.strip()]
    for line in lines:
        console.print(Text.from_ansi(line))
    image = IMAGES / f"{name}.svg"
    image.write_text(console.export_svg(title="trooper", unique_id=name), encoding="utf-8")
    print(f"{image}: {len(lines)} lines")


def main() -> None:
    """Draw all, or show all as text."""
    for name, (command, act) in SCREENS.items():
        if "--text" in sys.argv:
            for columns in (40, 80, 200):
                print(f"--- {command}, {columns} columns\n{screen(run(command, act, columns))}")
        else:
            draw(name, command, run(command, act, _WIDTH))


if __name__ == "__main__":
    main()
