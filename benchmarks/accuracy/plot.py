"""The scatter plot: predicted against true bytes, and the error beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

GIB = 1024**3


def scatter(groups: Mapping[str, Sequence[tuple[int, int]]], path: Path) -> None:
    """`groups`: (true, predicted) bytes by name. Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6))
    for (name, pairs), marker in zip(groups.items(), "osD^vP*", strict=False):
        if not pairs:
            continue
        true = [pair[0] / GIB for pair in pairs]
        left.plot(true, [pair[1] / GIB for pair in pairs], marker, markersize=3.5, alpha=0.6, label=name)
        errors = [100 * (pair[1] / pair[0] - 1) for pair in pairs]
        right.plot(true, errors, marker, markersize=3.5, alpha=0.6, label=name)
    low, high = left.get_xlim()
    left.plot([max(low, 0.01), high], [max(low, 0.01), high], "k-", linewidth=0.6)
    left.set(xscale="log", yscale="log", xlabel="traced or measured [GiB]", ylabel="predicted [GiB]")
    left.legend(fontsize=8)
    right.axhline(0, color="k", linewidth=0.6)
    right.set(xscale="log", xlabel="traced or measured [GiB]", ylabel="signed error [%] (linear within ±0.1)")
    right.set_yscale("symlog", linthresh=0.1)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
