"""docs/events.md says what the records of events say."""

from __future__ import annotations

from planner.contract import events
from tests.support import event_docs


def test_the_page_is_what_the_records_say() -> None:
    assert event_docs.PAGE.read_text(encoding="utf-8") == event_docs.render()


def test_every_field_of_every_kind_is_on_the_page() -> None:
    page = event_docs.render()
    for record, section in zip(events.RECORDS, page.split("\n## ")[1:], strict=True):
        assert section.startswith(f"{record.event_kind}\n\n{(record.__doc__ or '').split()[0]}")
        assert [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")] == [*record.model_fields]
