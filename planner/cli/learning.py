"""Questions about a model without a written program: it is learned on the way, where the train extra is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from planner.cli.talk import print_json, say
from planner.contract.errors import Infeasible
from planner.models.recorded import Unlearned

Answer = TypeVar("Answer")


def learned(work: Callable[[], Answer]) -> Answer:
    """What `work` returns; what it lacks is recorded first. Raises `Unlearned` where nothing can be traced here."""
    try:
        return work()
    except Unlearned:
        if not installed():
            raise
    from planner.decide import learning

    return learning.learned(work, say, allowed=installed)


def installed() -> bool:
    """Whether torch, transformers and peft are there; imports nothing."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers", "peft"))


def run_learn(name: str, *, gpu: str | None, as_json: bool, settings: Mapping[str, Any]) -> int:
    """`plan learn`: what `plan` and `plan check` would ask about this model, asked ahead of time."""
    from planner.cli.children import require_train_extra
    from planner.cli.request import resolve
    from planner.decide import search
    from planner.models import recorded

    require_train_extra("learn")
    request = learned(lambda: resolve(gpu=gpu, model=name, reserve=None, values=settings))
    spec = request.model
    if "recorded" not in spec.config:
        said = f"{spec.architecture} has a written program; nothing needs to be recorded"
        print_json({"model": spec.id, "basis": "written"}) if as_json else say(said)
        return 0
    with contextlib.suppress(Infeasible):
        learned(
            lambda: search.recommend(
                spec,
                request.hardware,
                choices=request.choices,
                fixed=request.fixed,
                budget_bytes=request.budget_bytes,
            )
        )
    place = recorded.folder(recorded.plain(spec))
    kept, refused = recorded.programs(recorded.plain(spec))
    if as_json:
        print_json({"model": spec.id, "basis": "recorded", "folder": str(place), "programs": kept, "refused": refused})
    else:
        say(f"{spec.id}: {kept} programs in {place}")
        for reason in refused:
            say(f"not recorded: {reason}")
    return 0
