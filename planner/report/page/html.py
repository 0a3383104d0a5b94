"""The page: one file, styles and pictures in it, light and dark, and as it prints."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from planner.contract.settings import to_settings
from planner.contract.units import format_bytes
from planner.contract.words import one_line
from planner.decide.reasons import component_text
from planner.report import words
from planner.report.page import svg
from planner.report.page.content import Content, of_kind

MOST_LAYERS = 9
"""Components with an area of their own; smaller ones are summed."""
STYLE = """
:root{--ink:#1b1f24;--dim:#5b6470;--paper:#fff;--line:#d8dde3;--good:#1a7f37;--tight:#9a6700;--bad:#cf222e}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--dim:#9aa4b0;--paper:#14171b;--line:#333a42;--good:#3fb950;
--tight:#d29922;--bad:#f85149}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:2rem 1rem;font:16px/1.5 system-ui,sans-serif;
color:var(--ink);background:var(--paper)}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem;
border-bottom:1px solid var(--line)}p{margin:.3rem 0}.dim{color:var(--dim)}.fits{color:var(--good)}
.tight{color:var(--tight)}.does_not_fit{color:var(--bad)}svg{width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--dim)}.grid{stroke:var(--line);stroke-width:1}.budget{stroke:var(--bad);stroke-width:1.5;
stroke-dasharray:5 4}table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{text-align:left;
padding:.2rem .6rem .2rem 0;vertical-align:top;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
.legend{list-style:none;padding:0;margin:.2rem 0;display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem}
.key{display:inline-block;width:.8em;height:.8em;margin-right:.4em;vertical-align:-1px}polyline{fill:none;
stroke-width:2}polygon{stroke:var(--paper);stroke-width:.5}
@media print{body{max-width:none;padding:0;font-size:11px}section{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
COLOURS = (
    *("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d", "#ff9da6", "#8a8f98"),
)


def page(content: Content) -> str:
    """The whole file."""
    report = content.report
    title = f"{one_line(report.model.id)} on {one_line(report.hardware['title'])}"
    colours = "".join(
        f".c{i}{{fill:{c};background:{c}}}.l{i}{{stroke:{c};background:{c}}}.d{i}{{fill:{c}}}"
        for i, c in enumerate(COLOURS)
    )
    parts = [_head(content, title), _memory(content), _around(content), _run(content), _beside(content)]
    parts += [_settings(content), _advice(content), _foot(content)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}{colours}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(one_line(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    top = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    return f"<table>{top}{body}</table>" if body else ""


def _head(content: Content, title: str) -> str:
    report = content.report
    memory = report.memory
    verdict = words.VERDICT_TEXT[report.verdict]
    share = memory.device_peak_bytes / max(1, memory.budget_bytes)
    sentences = "".join(f"<p>{escape(one_line(sentence))}</p>" for sentence in report.reasons)
    return (
        f"<header><h1>{escape(title)}</h1><p class='{report.verdict}'><strong>{escape(verdict)}</strong>: "
        f"{format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)} ({share:.0%}), batch "
        f"{escape(words.batch_text(report.settings))}, length {report.settings.max_length}</p>{sentences}</header>"
    )


def _memory(content: Content) -> str:
    names = [name for name, _ in content.instants]
    every = sorted({part for _, sizes in content.instants for part in sizes})
    most = {part: max(sizes.get(part, 0) for _, sizes in content.instants) for part in every}
    order = sorted(every, key=lambda part: -most[part])
    layers = [
        (component_text(part), [sizes.get(part, 0) for _, sizes in content.instants]) for part in order[:MOST_LAYERS]
    ]
    rest = order[MOST_LAYERS:]
    if rest:
        layers.append(("the rest", [sum(sizes.get(part, 0) for part in rest) for _, sizes in content.instants]))
    picture = svg.stacked(
        names, layers, content.report.memory.budget_bytes, "Bytes of tensors by component over one step"
    )
    said = (
        "Bytes of tensors at the largest moment of each part of a step; what the allocator and the device add is above."
    )
    return _section(
        "Memory over one step", picture + svg.legend([n for n, _ in layers], "c") + f"<p class='dim'>{said}</p>"
    )


def _around(content: Content) -> str:
    series = [
        svg.Series(name=f"length {length}", points=tuple((batch, peak / 2**30) for batch, peak in points))
        for length, points in content.by_batch
    ]
    level = ("budget", content.report.memory.budget_bytes / 2**30)
    picture = svg.lines(series, "Device peak by batch", x="sequences of a micro-batch", unit=" GiB", level=level)
    return (
        _section("Peak against batch and length", picture + svg.legend([item.name for item in series], "l"))
        if picture
        else ""
    )


def _run(content: Content) -> str:
    steps = of_kind(content, "step")
    if not steps:
        return ""
    loss = svg.Series(name="training loss", points=_points(steps, "loss"))
    held = svg.Series(name="validation loss", points=_points(of_kind(content, "eval"), "loss"))
    rate = svg.Series(name="learning rate", points=_points(steps, "learning_rate"))
    losses = [item for item in (loss, held) if item.points]
    body = svg.lines(losses, "Loss by step", x="optimizer step") + svg.legend([item.name for item in losses], "l")
    body += svg.lines([rate], "Learning rate by step", x="optimizer step") + svg.legend([rate.name], "l")
    return _section("The run", body)


def _points(data: list[dict[str, Any]], name: str) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(item["step"]), float(item[name]))
        for item in data
        if isinstance(item.get("step"), int) and isinstance(item.get(name), int | float)
    )


def _beside(content: Content) -> str:
    done: dict[str, object] = next(iter(reversed(of_kind(content, "finished"))), {})
    rows = []
    predicted, measured = done.get("predicted_bytes"), done.get("measured_bytes")
    if isinstance(predicted, int) and isinstance(measured, int) and measured:
        off = predicted / measured - 1
        rows.append(("peak", format_bytes(predicted), format_bytes(measured), f"{off:+.1%}"))
    speed, seen = (
        content.plan.predicted_speed,
        [s["tokens_per_second"] for s in of_kind(content, "step")[1:] if s.get("tokens_per_second")],
    )
    if speed is not None and seen:
        middle = sorted(seen)[len(seen) // 2]
        off = speed.tokens_per_second / middle - 1
        rows.append(("tokens/s", f"{speed.tokens_per_second:,.0f}", f"{middle:,.0f} (median)", f"{off:+.1%}"))
    return _section("Predicted beside measured", _table(rows, ("", "predicted", "measured", "off")))


def _settings(content: Content) -> str:
    h = content.plan.hyperparameters.model_dump(mode="json")
    values = {**to_settings(content.report.settings), **h}
    rows = [(name.replace("_", " "), _shown(value)) for name, value in values.items() if value not in (None, [], ())]
    return _section("Settings", _table(rows))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _advice(content: Content) -> str:
    rows = [(item.name.replace("_", " "), _shown(item.value), item.rule, item.source) for item in content.plan.advice]
    return _section("Advice", _table(rows, ("", "value", "rule", "source")))


def _foot(content: Content) -> str:
    plan = content.plan
    day, version = plan.created[:10] or "an unknown day", plan.tuneplan_version or "?"
    made = f"Plan of {day}, tuneplan {version}; figures computed anew."
    return f"<footer><p class='dim'>{escape(one_line(made))}</p></footer>"
