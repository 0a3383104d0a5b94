"""The page: one file, styles and pictures in it, light and dark, and as it prints."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from html import escape
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.run_settings import Hyperparameters
from planner.contract.settings import to_settings
from planner.contract.units import counted, format_bytes, format_duration, format_energy
from planner.contract.words import one_line
from planner.decide.reasons import component_text
from planner.report import words
from planner.report.page import svg
from planner.report.page.content import Content, of_kind

MOST_LAYERS = 9
"""Components with an area of their own; smaller ones are summed."""
STAYING = ("weights", "adapters", "optimizer_state", "gradients")
"""What lies at the bottom of the picture, since it is there whatever the step does."""
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
padding:.2rem .6rem .2rem 0;vertical-align:top;border-bottom:1px solid var(--line);overflow-wrap:break-word}
.short{white-space:nowrap}.long{overflow-wrap:anywhere}th{overflow-wrap:normal}
figure{margin:0 0 .8rem}.legend{list-style:none;padding:0;margin:.2rem 0;display:flex;
flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem}
.key{display:inline-block;width:.8em;height:.8em;margin-right:.4em;vertical-align:-1px}polyline{fill:none;
stroke-width:2}.pairs{columns:2;column-gap:2.5rem;margin:.3rem 0;font-size:.9rem}.pairs div{display:flex;
gap:.6rem;justify-content:space-between;break-inside:avoid;border-bottom:1px solid var(--line);padding:.15rem 0}
.pairs dt{color:var(--dim)}.pairs dd{margin:0;text-align:right;max-width:70%;overflow-wrap:break-word}.pairs .own dt,
.pairs .own dd{color:var(--ink);font-weight:600}.own td{font-weight:600}
@media (max-width:40rem){svg{font-size:19px}.pairs{columns:1}}
@media print{:root{--ink:#1b1f24;--dim:#5b6470;--paper:#fff;--line:#d8dde3;--good:#1a7f37;--tight:#9a6700;
--bad:#cf222e}@page{margin:15mm}body{max-width:none;padding:0;font-size:11px}figure,tr{break-inside:avoid}
h2{break-after:avoid}svg{max-height:60mm;font-size:12px}.pairs{columns:2}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
COLOURS = (
    *("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d", "#ff9da6", "#8a8f98"),
    *("#2f9e8f", "#8f6bb3"),
)
PARTS = (
    *("weights", "lora_activations", "attention", "layer_activations", "temporaries", "logits_and_loss"),
    *("optimizer_state", "gradients", "adapters", "", "checkpoints"),
)
"""Components in the order of their colours, the same on every page."""
GREY = 9


def page(content: Content) -> str:
    """The whole file."""
    report = content.report
    title = f"{_short(report.model.id)} on {one_line(report.hardware['title'])}"
    colours = "".join(
        f".c{i}{{fill:{c};background:{c}}}.l{i}{{stroke:{c};background:{c}}}.d{i}{{fill:{c}}}"
        for i, c in enumerate(COLOURS)
    )
    parts = [_head(content, title), _memory(content), _around(content), _run(content), _beside(content)]
    parts += [_front(content), _settings(content), _advice(content), _foot(content)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}{colours}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _short(model: str) -> str:
    """A hub id, or the last part of a folder's path: the rest of it is nobody's business."""
    text = one_line(model)
    return text if text.count("/") == 1 and text[0] not in "./~" else text.rstrip("/").rpartition("/")[2] or text


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _figure(picture: str, names: Sequence[str], kind: str) -> str:
    """A picture and its legend, which a page break leaves together."""
    return f"<figure>{picture}{svg.legend(names, kind)}</figure>"


def _width(cell: str) -> str:
    """Figures stay on one line, words whole; what is long may break anywhere, as addresses must."""
    return " class=short" if len(cell) <= 10 else " class=long" if len(cell) > 40 else ""


def _table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = (), marked: Container[int] = ()) -> str:
    body = "".join(
        f"<tr{' class=own' if number in marked else ''}>"
        + "".join(f"<td{_width(cell)}>{escape(one_line(cell))}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
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
        f"{escape(words.batch_text(report.settings))}, length {report.settings.max_length}</p>"
        f"{_pace(content)}{sentences}</header>"
    )


def _pace(content: Content) -> str:
    """How fast, and how long the plan takes where its data is known."""
    speed = content.report.speed
    if speed is None:
        return ""
    low, high = speed.interval_tokens_per_second
    text = f"{speed.tokens_per_second:,.0f} tokens/s ({low:,.0f} to {high:,.0f}), "
    text += f"{format_duration(speed.step_seconds)} for an optimizer step."
    return f"<p>{escape(text)}</p>"


def _memory(content: Content) -> str:
    names = [name for name, _ in content.instants]
    every = sorted({part for _, sizes in content.instants for part in sizes})
    most = {part: max(sizes.get(part, 0) for _, sizes in content.instants) for part in every}
    largest = sorted(every, key=lambda part: -most[part])
    shown = sorted(largest[:MOST_LAYERS], key=lambda part: STAYING.index(part) if part in STAYING else len(STAYING))
    layers = [
        svg.Layer(
            name=component_text(part),
            colour=PARTS.index(part) if part in PARTS else len(PARTS),
            sizes=[sizes.get(part, 0) for _, sizes in content.instants],
        )
        for part in shown
    ]
    rest = largest[MOST_LAYERS:]
    if rest:
        sums = [sum(sizes.get(part, 0) for part in rest) for _, sizes in content.instants]
        layers.append(svg.Layer(name="the rest", colour=GREY, sizes=sums))
    picture = svg.stacked(
        names, layers, content.report.memory.budget_bytes, "Bytes of tensors by component over one step"
    )
    said = (
        "Bytes of tensors at the largest moment of each part of a step; what the allocator and the device add is above."
    )
    legend = svg.legend([layer.name for layer in layers], "c", [layer.colour for layer in layers])
    return _section("Memory over one step", f"<figure>{picture}{legend}</figure><p class='dim'>{said}</p>")


def _around(content: Content) -> str:
    highest = max((peak for _, points in content.by_batch for _, peak in points), default=1)
    unit, size = svg.scale(highest)
    series = [
        svg.Series(name=f"length {length}", points=tuple((batch, peak / size) for batch, peak in points))
        for length, points in content.by_batch
    ]
    budget = content.report.memory.budget_bytes
    level = (f"budget {format_bytes(budget)}", budget / size) if budget < 2 * highest else None
    batches = sorted({batch for _, points in content.by_batch for batch, _ in points})
    picture = svg.lines(
        series, "Device peak by batch", x="sequences of a micro-batch", unit=unit, level=level, marks=batches
    )
    body = _figure(picture, [item.name for item in series], "l")
    return _section("Peak against batch and length", body if picture else "")


def _front(content: Content) -> str:
    """A table of what else trains the same; the plan's own row comes first."""
    report = content.report
    own, speed = report.settings, report.speed
    own_row = (
        f"{words.batch_text(own)} (this plan)",
        words.checkpoint_text(own).replace("lay.", "layers"),
        format_bytes(report.memory.device_peak_bytes),
        "" if speed is None else format_duration(speed.step_seconds),
    )
    rows = [own_row]
    for point in content.front:
        recomputed = counted(point.checkpoint_layers, "layer") if point.checkpoint_layers else "off"
        if own.made_again and not point.made_again and own.stack == "builtin":
            recomputed += ", all kept"
        batch = f"{point.batch_size}×{point.gradient_accumulation_steps}"
        row = (batch, recomputed, format_bytes(point.device_peak_bytes), format_duration(point.step_seconds))
        if row[:2] != (words.batch_text(own), own_row[1]):
            rows.append(row)
    if len(rows) == 1:
        return ""
    said = "The same effective batch and length, divided and recomputed otherwise."
    table = _table(rows, ("batch", "recomputation", "peak", "step"), {0})
    return _section("Other ways to the same training", f"<p class='dim'>{said}</p>{table}")


def _run(content: Content) -> str:
    steps = of_kind(content, "step")
    if not steps:
        return ""
    loss = svg.Series(name="training loss", points=_points(steps, "loss"))
    held = svg.Series(name="validation loss", points=_points(of_kind(content, "eval"), "loss"))
    rate = svg.Series(name="learning rate", points=_points(steps, "learning_rate"))
    losses = [item for item in (loss, held) if item.points]
    body = _figure(svg.lines(losses, "Loss by step", x="optimizer step"), [item.name for item in losses], "l")
    body += _figure(svg.lines([rate], "Learning rate by step", x="optimizer step"), [rate.name], "l")
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
        rows.append(("peak", format_bytes(predicted), format_bytes(measured), _off(predicted / measured)))
    speed, seen = (
        content.plan.predicted_speed,
        [s["tokens_per_second"] for s in of_kind(content, "step")[1:] if s.get("tokens_per_second")],
    )
    if speed is not None and seen:
        middle = sorted(seen)[len(seen) // 2]
        rows.append(
            (
                "tokens/s",
                f"{speed.tokens_per_second:,.0f}",
                f"{middle:,.0f} (median)",
                _off(speed.tokens_per_second / middle),
            )
        )
    energy = done.get("device_watt_hours")
    if isinstance(energy, int | float) and energy > 0:
        rows.append(("energy", "", format_energy(energy), ""))
    return _section("Predicted beside measured", _table(rows, ("", "predicted", "measured", "off")))


def _off(ratio: float) -> str:
    """Predicted over measured; what is off by factors is told as one."""
    return f"{ratio - 1:+.1%}" if ratio < 2 else f"{ratio:,.1f} times"


def _settings(content: Content) -> str:
    h = content.plan.hyperparameters.model_dump(mode="json")
    values = {**to_settings(content.report.settings), **h}
    usual = {**to_settings(TrainingChoices()), **Hyperparameters().model_dump(mode="json")}
    pairs = []
    for name, value in values.items():
        if value in (None, [], ()):
            continue
        kind = "" if value == usual.get(name) else " class=own"
        label = escape(one_line(name.replace("_", " ")))
        pairs.append(f"<div{kind}><dt>{label}</dt><dd>{escape(one_line(_shown(value)))}</dd></div>")
    said = "<p class='dim'>Bold: not the default.</p>"
    return _section("Settings", f"{said}<dl class='pairs'>{''.join(pairs)}</dl>")


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _advice(content: Content) -> str:
    """Each source under its rule: beside it, one of the two would be a column of single words on paper and phones."""
    rows = [
        f"<tr><td>{escape(one_line(item.name.replace('_', ' ')))}</td><td>{escape(one_line(_shown(item.value)))}</td>"
        f"<td class=long>{escape(one_line(item.rule))}<div class=dim>{escape(one_line(item.source))}</div></td></tr>"
        for item in content.plan.advice
    ]
    head = "<tr><th></th><th>value</th><th>rule, and where it is from</th></tr>"
    return _section("Advice", f"<table>{head}{''.join(rows)}</table>" if rows else "")


def _foot(content: Content) -> str:
    plan = content.plan
    day, version = plan.created[:10] or "an unknown day", plan.tuneplan_version or "?"
    made = f"Plan of {day}, tuneplan {version}; figures computed anew."
    return f"<footer><p class='dim'>{escape(one_line(made))}</p></footer>"
