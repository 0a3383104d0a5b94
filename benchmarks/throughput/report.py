"""Medians, ratios and goals from the runs' results; the tables in markdown."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.throughput import contenders, limits
from benchmarks.throughput.contenders import OURS
from benchmarks.throughput.workload import FIXED, RAGGED, Workload

MIB = 2**20
CHECKPOINTED = "ours-checkpointed"
EQUAL_LOSS = {"fp32": 1e-4, "bf16": 1e-2}
"""Largest relative distance of the mean loss per token, at which two contenders did the same work."""
GOALS: dict[str, dict[str, dict[str, float]]] = {
    "cpu": {
        RAGGED: {"transformers-grouped": 1.6, "transformers": 2.0, "trl": 2.0, "trl-packed": 2.0},
        FIXED: dict.fromkeys(("transformers", "transformers-grouped", "trl", "trl-packed"), 1.2),
    },
    "cuda": {RAGGED: {"transformers": 1.4, "transformers-grouped": 1.4, "trl-packed": 1.1}, FIXED: {}},
}
"""Our tokens per second over theirs."""
PEAK_SHARE = 0.6
"""Our peak over another's."""
LIKE_WITH_LIKE = (
    (OURS, "transformers"),
    (OURS, "transformers-grouped"),
    (CHECKPOINTED, "trl"),
    (CHECKPOINTED, "trl-packed"),
)
"""Peaks that are compared: TRL checkpoints every layer unless told otherwise."""
PLANNED_WITHIN = 0.03

Run = tuple[str, str, str, dict[str, Any]]


def summarize(runs: list[Run], load: Workload, device: str) -> dict[str, Any]:
    """Everything that the tables show, as JSON values."""
    peaks = [speed for kind, _, _, result in runs if kind == "peak" for speed in result["flops_per_second"].values()]
    peak = max(peaks)
    tables: dict[str, Any] = {}
    for data in dict.fromkeys(data for kind, data, _, _ in runs if kind == "timed"):
        lengths = load.lengths(data)
        needed, real, floor = limits.flops(load, lengths), sum(lengths), limits.floor_bytes(load, lengths)
        names = list(dict.fromkeys(name for kind, d, name, _ in runs if kind == "timed" and d == data))
        timed = {name: _of(runs, "timed", data, name) for name in names}
        rows = {}
        for name in names:
            seconds = [result["seconds"] for result in timed[name]]
            metered = _of(runs, "metered", data, name) or timed[name]
            planned = None
            if name in (OURS, CHECKPOINTED):
                planned = limits.planned_bytes(load, lengths, device, checkpointed=name == CHECKPOINTED)
            rows[name] = {
                "tokens_per_second": real / statistics.median(seconds),
                "seconds": seconds,
                "processor_seconds": [result["processor_seconds"] for result in timed[name]],
                "ours_over_it": _ratio(timed[OURS], timed[name], "seconds"),
                "ours_over_it_by_processor": _ratio(timed[OURS], timed[name], "processor_seconds"),
                "model_flops_utilization": needed / statistics.median(seconds) / peak,
                "peak_bytes": metered[0]["peak_bytes"],
                "planned_bytes": planned,
                "peak_over_floor": metered[0]["peak_bytes"] / floor,
                "loss_per_token": timed[name][0]["loss_per_token"],
                "targets": timed[name][0]["targets"],
                "steps": timed[name][0]["steps"],
            }
        tables[data] = {
            "sequences": len(lengths),
            "real_tokens": real,
            "flops": needed,
            "floor_bytes": floor,
            "rows": rows,
        }
    return {"matmul_flops_per_second": peak, "tables": tables}


def _of(runs: list[Run], kind: str, data: str, name: str) -> list[dict[str, Any]]:
    return [result for k, d, n, result in runs if (k, d, n) == (kind, data, name)]


def _ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], what: str) -> float:
    """Median over the rounds of their time over ours in the same round."""
    return statistics.median(b[what] / a[what] for a, b in zip(ours, theirs, strict=True))


def _planned_error(row: dict[str, Any]) -> float | None:
    """Planned peak over the measured one, less 1; None where the planner has no figure."""
    return None if row["planned_bytes"] is None else row["planned_bytes"] / row["peak_bytes"] - 1


def judge(found: dict[str, Any], load: Workload, device: str) -> list[tuple[str, bool]]:
    """Every goal as a sentence, and whether it is met."""
    verdicts: list[tuple[str, bool]] = []
    for data, table in found["tables"].items():
        rows = table["rows"]
        ours = rows[OURS]
        for name, wanted in GOALS[device][data].items():
            if name in rows:
                ratio = rows[name]["ours_over_it"]
                verdicts.append((f"{data}: {ratio:.2f} x {contenders.title(name)}, wanted {wanted}", ratio >= wanted))
        for name, row in rows.items():
            off = abs(row["loss_per_token"] / ours["loss_per_token"] - 1)
            if name != OURS:
                sentence = f"{data}: loss per token of {contenders.title(name)} differs by {off:.1e}"
                verdicts.append((sentence, off <= EQUAL_LOSS[load.precision] and row["targets"] == ours["targets"]))
        for mine, theirs in LIKE_WITH_LIKE:
            if mine in rows and theirs in rows:
                share = rows[mine]["peak_bytes"] / rows[theirs]["peak_bytes"]
                sentence = f"{data}: peak bytes of {contenders.title(mine)} {share:.0%} of {contenders.title(theirs)}'s"
                verdicts.append((f"{sentence}, wanted {PEAK_SHARE:.0%}", share <= PEAK_SHARE))
        for name in (OURS, CHECKPOINTED):
            if name in rows:
                error = _planned_error(rows[name])
                told = "unknown" if error is None else f"{error:+.2%} off the measured one"
                met = error is not None and abs(error) <= PLANNED_WITHIN
                verdicts.append((f"{data}: planned peak of {contenders.title(name)} {told}", met))
    return verdicts


def text(found: dict[str, Any], verdicts: list[tuple[str, bool]], skipped: list[str]) -> str:
    """The tables in markdown."""
    lines: list[str] = []
    for data, table in found["tables"].items():
        lines += [
            f"**{data.capitalize()}**: {table['sequences']} sequences, {table['real_tokens']:,} tokens",
            "",
            "| | real tokens/s | ours is faster by | by processor time | utilisation | peak MiB | planned MiB "
            "| peak / floor | loss per token |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, row in table["rows"].items():
            planned = "–" if row["planned_bytes"] is None else f"{row['planned_bytes'] / MIB:,.0f}"
            faster = "– | –"
            if name != OURS:
                faster = f"{row['ours_over_it']:.2f} x | {row['ours_over_it_by_processor']:.2f} x"
            lines.append(
                f"| {contenders.title(name)} | {row['tokens_per_second']:.0f} | {faster} "
                f"| {row['model_flops_utilization']:.0%} | {row['peak_bytes'] / MIB:,.0f} "
                f"| {planned} | {row['peak_over_floor']:.2f} | {row['loss_per_token']:.5f} |"
            )
        lines += ["", f"Floor of the bytes (weights, adapters, inputs): {table['floor_bytes'] / MIB:,.1f} MiB.", ""]
    best = found["matmul_flops_per_second"] / 1e9
    lines.append(f"Utilisation is the operations that no trainer can do without, over {best:,.0f} GFLOP/s, the fastest")
    lines.append("large matrix product seen in the same rounds.")
    lines += ["", *(f"- {'met' if met else 'MISSED'}: {sentence}" for sentence, met in verdicts)]
    lines += [f"- left out: {reason}" for reason in skipped]
    return "\n".join(lines) + "\n"
