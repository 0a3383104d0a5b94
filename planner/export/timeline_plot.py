"""A traced step as a picture: live bytes by component over the step's allocations and releases."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from planner.contract.errors import InvalidInput
from planner.contract.sentence import named
from planner.contract.units import GIB, MIB
from planner.export.timeline import Timeline

Columns = npt.NDArray[np.int64]
Places = npt.NDArray[np.float64]

FORMATS = ("png", "svg", "pdf")
_STRETCHES = 1600
"""Stretches of the picture of which each shows its extremes."""


def check_format(name: str) -> str:
    """The picture's format by its file name; raises InvalidInput for one that can't be written."""
    ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    if ending not in FORMATS:
        raise InvalidInput(named("timeline"), f" {name}: end the name with .{', .'.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InvalidInput(named("timeline"), " needs matplotlib: pip install 'tuneplan[plot]'") from None
    return ending


def picture(timeline: Timeline, *, title: str, file_format: str) -> bytes:
    """Stacked areas by component, the step's instants marked, its peak named."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names, live = timeline.live_by_component()
    total = live.sum(axis=0)
    unit, label = (GIB, "GiB") if total.max() >= GIB else (MIB, "MiB")
    figure, axes = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
    starts = [(name, column if index else 0) for index, (name, column) in enumerate(timeline.phases())]
    every, edges = _places([start for _, start in starts], len(total) - 1)
    columns = _columns(total, every)
    places = every[columns]
    colours = pyplot.get_cmap("tab20")(np.arange(len(names)) % 20)
    words = [name.replace("_", " ") for name in names]
    # Memory stands still between events: a slope would make the shortest peaks, the ones that count, fade away.
    axes.stackplot(places, live[:, columns] / unit, labels=words, colors=colours, linewidth=0, step="post")
    top = int(total.argmax())
    peak = (float(places[np.searchsorted(columns, top)]), total[top] / unit)
    axes.plot(*peak, marker="v", color="black")
    axes.annotate(f"{peak[1]:.2f} {label}", peak, textcoords="offset points", xytext=(0, 7), ha="center")
    for edge in edges[1:-1]:
        axes.axvline(edge, color="black", linewidth=0.6, linestyle=":")
    middles = [(left + right) / 2 for left, right in pairwise(edges)]
    axes.set_xticks(middles, [name for name, _ in starts], rotation=20, fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, total.max() / unit * 1.12)
    axes.set_xlabel("allocations and releases of one step, in order (short instants are drawn wider than long ones)")
    axes.set_ylabel(f"allocated {label}")
    axes.set_title(title, parse_math=False, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format)
    pyplot.close(figure)
    return buffer.getvalue()


def _places(starts: list[int], last: int) -> tuple[Places, list[float]]:
    """Where each event stands, and the instants' edges: an instant is as wide as the square root of its events."""
    bounds = [*starts, last]
    edges = [0.0, *np.cumsum([max(right - left, 1) ** 0.5 for left, right in pairwise(bounds)])]
    return np.interp(np.arange(last + 1), bounds, edges), [float(edge) for edge in edges]


def _columns(total: Columns, places: Places) -> Columns:
    """Events that are drawn: of every stretch of the picture those with the most and the fewest live bytes."""
    cuts = np.unique(np.searchsorted(places, np.linspace(0, places[-1], _STRETCHES + 1)))
    cuts = np.append(cuts[cuts < len(total)], len(total))
    most = [start + int(total[start:stop].argmax()) for start, stop in pairwise(cuts)]
    fewest = [start + int(total[start:stop].argmin()) for start, stop in pairwise(cuts)]
    return np.unique([0, *most, *fewest, len(total) - 1])


__all__ = ["check_format", "picture"]
