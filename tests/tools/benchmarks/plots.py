"""The two plots: a tick's cost by the number of orders, and memory by the number of waiters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Line = Sequence[tuple[int, float]]
"""(how many, how much)"""

OURS = "trooper_async"
_OURS, *_PEERS = "#d62728", "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b"


def plot(lines: Mapping[str, Line], file: Path, *, title: str, x: str, y: str) -> None:
    """Draw the lines into an SVG file, this package's above the peers'; with logarithmic axes."""
    # imported here, since every process that measures memory imports this file
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # text stays text, and the same figures give the same file
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8.5, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_prop_cycle(color=_PEERS)
        for name, points in lines.items():
            ours = name == OURS
            axes.plot(
                [many for many, _ in points],
                [much for _, much in points],
                label=name,
                marker="o" if ours else ".",
                linewidth=2.2 if ours else 1.2,
                color=_OURS if ours else None,
                zorder=3 if ours else 2,
            )
        axes.set(xscale="log", yscale="log", title=title, xlabel=x, ylabel=y)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(file, metadata={"Date": None, "Creator": None})
