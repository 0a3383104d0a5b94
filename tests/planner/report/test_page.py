"""The HTML report: one file, no network, figures that add up, and nobody's text as markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.records import Advice, DataSettings, Plan
from planner.handover import plans
from planner.report.page import svg
from planner.report.page.content import gather

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>\x1b[31m'\"&"


class Tags(HTMLParser):
    """Every tag and attribute of a page, and whether it closes what it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def make_plan(path: Path) -> Path:
    plan = Plan(
        model="meta-llama/Llama-3.2-1B",
        gpu="a10g",
        settings=TrainingChoices(batch_size=2, max_length=512),
        advice=[Advice(name="learning_rate", value=2e-4, rule=EVIL, source="https://example.org/paper")],
        data=DataSettings(path=f"{EVIL}.jsonl"),
        created="2026-11-27T00:00:00+00:00",
        tuneplan_version=EVIL,
    )
    return plans.save(plan, path)


def test_a_run_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    """GIVEN a run whose plan and events hold markup and escapes WHEN its page is made THEN it is whole HTML without
    scripts, links, pictures from elsewhere or foreign markup, and has every part."""
    run = tmp_path / "run"
    run.mkdir()
    make_plan(run / "plan.yaml")
    events: list[dict[str, Any]] = []
    for step in range(1, 2001):
        data = {"step": step, "loss": 3 / step, "learning_rate": 1e-4, "tokens_per_second": 100.0}
        events.append({"schema": "tuneplan.event/1", "kind": "step", "time": step, "data": data})
    events.append({"schema": "tuneplan.event/1", "kind": "eval", "time": 1, "data": {"step": 2000, "loss": 0.5}})
    done = {"predicted_bytes": 4 * 2**30, "measured_bytes": 5 * 2**30, "reason": EVIL}
    events.append({"schema": "tuneplan.event/1", "kind": "finished", "time": 2, "data": done})
    (run / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"half')
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not {tag for tag, _ in tags.tags} & {"script", "link", "img", "iframe", "a", "object"}
    assert not [
        name for _, attributes in tags.tags for name in attributes if name in ("src", "href") or name.startswith("on")
    ]
    assert "<script>" not in text
    assert "\x1b" not in text
    for part in (
        "Memory over one step",
        "Peak against batch and length",
        "The run",
        "Predicted beside measured",
        "Settings",
        "Advice",
    ):
        assert f"<h2>{part}</h2>" in text
    assert "-20.0%" in text.replace("−", "-")
    assert "Other ways to the same training" in text
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text
    assert len(text) < 300_000
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 2


def test_the_area_is_the_prediction(tmp_path: Path) -> None:
    """GIVEN a plan THEN the components of each instant sum to the bytes that `plan check` gives for it, and the peak at
    the plan's own batch and length is the plan's."""
    content = gather(make_plan(tmp_path / "plan.yaml"))
    memory = content.report.memory
    for name, sizes in content.instants:
        assert sum(sizes.values()) == memory.instants[name]
    peaks = {length: dict(points) for length, points in content.by_batch}
    assert peaks[512][2] == memory.device_peak_bytes
    assert peaks[512][1] <= peaks[512][2] <= peaks[1024][2]


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0], [1.0, 1.0], [0.0, float("inf"), 2.0], list(range(5000))])
def test_lines_of_any_length_are_drawn(values: list[float]) -> None:
    """GIVEN no points, one, equal ones, endless ones and many THEN coordinates are numbers, few, with both ends."""
    points = tuple((float(place), value) for place, value in enumerate(values))
    text = svg.lines([svg.Series(name="a", points=points)], "label", x="step")
    assert "nan" not in text
    assert "inf" not in text
    drawn = re.search(r'points="([^"]*)"', text)
    assert drawn is None or len(drawn[1].split()) <= svg.MOST_POINTS + 2
    assert len(svg.thinned([(float(i), float(i % 7)) for i in range(5000)])) <= svg.MOST_POINTS + 2


MEASURE = """<script>addEventListener("load", () => {
const outside = [...document.querySelectorAll("svg text")].filter(t => { const a = t.getBoundingClientRect(),
  b = t.closest("svg").getBoundingClientRect();
  return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1; });
const wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
const asked = performance.getEntriesByType("resource").map(entry => entry.name);
document.body.dataset.seen = JSON.stringify([outside.map(t => t.textContent), wide.map(e => e.tagName), asked]);
});</script>"""
"""Says which labels leave their picture, what is wider than the window, and what the page asked for."""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_opens_it_without_a_word_or_a_request(tmp_path: Path) -> None:
    """GIVEN a page WHEN a browser opens it in a narrow window THEN its console stays empty, nothing is asked for, and
    nothing is cut off. The page forbids scripts: the one that measures comes with a looser policy."""
    assert CHROMIUM is not None
    page, look = tmp_path / "page.html", tmp_path / "look.html"
    assert main(["report", str(make_plan(tmp_path / "plan.yaml")), "--output", str(page)]) == 0
    text, policy = page.read_text(), "style-src 'unsafe-inline'"
    assert text.count(policy) == 1
    look.write_text(
        text.replace(policy, f"{policy}; script-src 'unsafe-inline'").replace("</body>", f"{MEASURE}</body>")
    )
    switches = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    switches += " --disable-component-update --disable-sync --disable-extensions --enable-logging=stderr --v=0"
    shown = {}
    for path in (page, look):
        command = [CHROMIUM, *switches.split(), "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=500,900"]
        command += [f"--user-data-dir={tmp_path / path.stem}", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "CONSOLE" not in done.stderr, done.stderr
        shown[path] = done.stdout
    assert "<h2>Memory over one step</h2>" in shown[page]
    seen = re.search(r'data-seen="([^"]*)"', shown[look])
    assert seen is not None
    assert json.loads(unescape(seen[1])) == [[], [], []]


def test_a_budgets_name_stands_where_no_curve_passes() -> None:
    """GIVEN curves that climb through the budget at the left THEN its name stands at the right; where they stay low, or
    there are none, at the left."""
    level = ("budget 20 GiB", 20.0)
    climbing = [
        svg.Series(name="a", points=tuple((float(x), 17 + x * slope) for x in range(1, 30))) for slope in (1, 9)
    ]
    low = [svg.Series(name="a", points=((1.0, 1.0), (30.0, 2.0)))]
    for series, anchor in ((climbing, "end"), (low, "start")):
        text = svg.lines(series, "peaks", x="batch", unit=" GiB", level=level)
        assert f'text-anchor="{anchor}">budget 20 GiB' in text
