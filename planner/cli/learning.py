"""Questions about a model without a written program: it is learned on the way, where the train extra is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from planner.cli.talk import print_json, say
from planner.contract.errors import Infeasible
from planner.handover.recorder import installed
from planner.models.recorded import Unlearned

if TYPE_CHECKING:
    from planner.cli.asked import Target
    from planner.decide.learning import Teacher

Answer = TypeVar("Answer")


def learned(work: Callable[[], Answer], *, many: bool = True) -> Answer:
    """What `work` returns; what it lacks is recorded first. Raises `Unlearned` where nothing can be traced here.

    `many`: a search follows, which asks for so much that a second child is worth its start.
    """
    try:
        return work()
    except Unlearned:
        if not installed():
            raise
    from planner.decide import learning

    return learning.learned(work, say, allowed=installed, teacher=lambda: _asked_for(many))


def _asked_for(many: bool) -> Teacher:
    teacher = _teacher()
    teacher.many = many
    return teacher


@cache
def _teacher() -> Teacher:
    """One for all questions of a command: its child takes long to start."""
    import atexit

    from planner.decide import learning

    made = learning.Teacher(say)
    atexit.register(made.close)
    return made


def run_learn(target: Target, *, as_json: bool) -> int:
    """`plan learn`: what `plan` and `plan check` would ask about this model, asked ahead of time."""
    from planner.cli.children import require_train_extra
    from planner.cli.resolve import resolve
    from planner.decide import search
    from planner.models import recorded

    require_train_extra("learn")
    question = learned(lambda: resolve(target))
    spec = question.model
    if "recorded" not in spec.config:
        said = f"{spec.architecture} has a written program; nothing needs to be recorded"
        print_json({"model": spec.id, "basis": "written"}) if as_json else say(said)
        return 0
    with contextlib.suppress(Infeasible):
        learned(lambda: search.recommend(question))
    place = recorded.folder(recorded.plain(spec))
    kept, refused = recorded.programs(recorded.plain(spec))
    if as_json:
        print_json({"model": spec.id, "basis": "recorded", "folder": str(place), "programs": kept, "refused": refused})
    else:
        say(f"{spec.id}: {kept} programs in {place}")
        for reason in refused:
            say(f"not recorded: {reason}")
    return 0
