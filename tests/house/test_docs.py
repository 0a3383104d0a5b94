"""What the site tells people to type works: every command under a `$` is run, and prints the lines shown below it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from planner.cli import main
from planner.cli.app import COMMANDS
from planner.contract.settings import SETTINGS
from tests.support import option_docs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "start.md", *sorted((DOCS / "howto").glob("*.md"))]
QUICK = ("start", "other-trainers", "limited-time")
"""The others' commands are those of the command line's own tests on larger models: a second each and more."""
RUN = re.compile(r"```console\n(.*?)```", re.DOTALL)
FAQ = "".join(f'How long does order {n} take?,"Order {n} takes {n % 7 + 1} days."\n' for n in range(400))


def test_every_command_and_choice_is_on_the_page_of_options() -> None:
    """The page that `make docs` makes has a section for each command, and each training choice once, with its help."""
    page = option_docs.render()
    assert [line[8:] for line in page.splitlines() if line.startswith("## plan ")] == [
        name for names in COMMANDS.values() for name in names
    ]
    for setting in SETTINGS:
        name = setting.name.replace("_", "-")
        assert len(re.findall(rf"^\| `--{name}`(?:, `--no-{name}`)? \| \S", page, re.MULTILINE)) == 1, name


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.stem in QUICK else pytest.mark.nightly, id=page.stem) for page in PAGES],
)
def test_the_pages_commands_do_what_they_say(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a folder with the page's files WHEN its commands are run in turn THEN each prints what is shown under it,
    in that order, and ends with 3 where that says so; lines may be left out."""
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("faq.csv").write_text("question,answer\n" + FAQ)
    for file in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        Path("qlora.yml").write_text(file)
    for block in RUN.findall(text):
        for part in re.split(r"^\$ plan ", block, flags=re.MULTILINE)[1:]:
            words, *shown = part.splitlines()
            ended = main(shlex.split(words))
            said = capsys.readouterr()
            printed = iter([line.strip() for line in said.out.splitlines()])
            for line in filter(None, map(str.strip, shown)):
                assert line in printed, (words, line, said)
            assert ended == (3 if any(line.startswith("Does not fit") for line in shown) else 0), said.err


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.stem)
def test_what_is_not_run_here_names_real_options(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands without a `$` need a GPU, minutes or an account: their names and options are looked up."""
    known = {name for names in COMMANDS.values() for name in names}
    for line in re.findall(r"^plan ([a-z].*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(re.split(r"  |#", line)[0])  # what it does stands further right
        assert words[0] in known, line
        main([words[0], "--help"])
        helped = capsys.readouterr().out
        for option in (word for word in words[1:] if word.startswith("--")):
            assert option in helped, line
