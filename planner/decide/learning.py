"""Learning a model: what is traced so that a network without a written program gets a recorded one.

Three shapes give every size as a polynomial, a fourth with further layers must come out to the byte. A program whose
sizes the network's other programs gave already needs one shape, and the fourth allocation by allocation. Only then is
it kept; what can't be recorded is kept as a refusal with its reason.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.contract.sentence import named
from planner.contract.spec import ModelSpec
from planner.decide.learning_checks import alike, verify, weighed
from planner.decide.learning_cuts import MOST_WHOLE_LAYERS, CutPair, picked_cuts, plain_cuts, whole_cut, windowless_cuts
from planner.handover.recorder import Recorder
from planner.memory.recorded.cuts import Cut
from planner.memory.recorded.fit import Irregular, Point, Uncuttable, fitted
from planner.memory.recorded.known import KnownSizes, same_course
from planner.memory.recorded.log import Log
from planner.memory.recorded.shapes import shapes, terms
from planner.memory.recorded.wanted import assumed, path_of
from planner.models import recorded
from planner.models.recorded import Unlearned

Answer = TypeVar("Answer")
WORTH_A_CHILD = 3
"""Programs that a second child is started for: it takes as long to start as two or three of them."""
MOST_PROGRAMS = 64
"""That one question may ask for."""


def learned(
    work: Callable[[], Answer],
    say: Callable[[str], None],
    *,
    allowed: Callable[[], bool],
    teacher: Callable[[], Teacher] | None = None,
) -> Answer:
    """What `work` returns, once everything it asks for has been recorded.

    `allowed` says whether tracing is possible here (the train extra is installed); without it `Unlearned` stands.
    `teacher` hands out one that is kept for later questions; without it one is made and closed.
    """
    try:
        return work()
    except Unlearned as missing:
        if not allowed():
            raise
        first = missing
    taught = Teacher(say) if teacher is None else teacher()
    try:
        taught.learn(first)
        for _ in range(MOST_PROGRAMS):
            try:
                return work()
            except Unlearned as missing:
                taught.learn(missing)
        raise NotModelled(
            "this question asks for more recordings than one should; name ", named("max_length"), " and a batch size"
        )
    finally:
        if teacher is None:
            taught.close()


class Teacher:
    """Records what is missing, in one child process, or two where much is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.many = True
        """Whether a search will ask for much: a second child then begins to load with the first."""
        self.recorder = Recorder()
        self.opened: tuple[object, ...] | None = None
        self.answer: dict[str, Any] = {}
        self.asking = threading.RLock()
        self.beside: Teacher | None = None
        self.known: dict[str, KnownSizes] = {}
        """By network, the sizes that its programs gave so far."""
        self.distinct: set[str] = set()
        """Networks whose layers with a window run otherwise than those without, however short the sequence."""
        self.looped: set[str] = set()
        """Networks that run more turns of a loop the longer a sequence is."""
        self.whole: dict[str, bool] = {}
        """Whether layers may be left out anywhere of a network: it came out whole in this way, or it did not."""
        self.leads = False
        """Whether what is recorded now is the first program of its network."""

    def close(self) -> None:
        """Ends the children."""
        self.recorder.close()
        self.opened = None
        if self.beside is not None:
            self.beside.close()

    def learn(self, missing: Unlearned) -> None:
        """The model, or one of its programs."""
        if missing.wanted is None:
            self.model(missing.config)
            return
        # What covers most comes first: its sizes are found in the others.
        wanted = sorted(missing.all_wanted(), key=lambda one: (bool(one["single"]), -int(str(one["regime"]))))
        mine, others = shares(wanted)
        if not others or (os.cpu_count() or 1) < 2:
            self._programs(missing.config, wanted)
            return
        helper = self._helper()
        failed: list[BaseException] = []

        def help_out() -> None:
            try:
                helper._programs(missing.config, others)
            except BaseException as error:
                failed.append(error)

        beside = threading.Thread(target=help_out, daemon=True)
        beside.start()
        try:
            self._programs(missing.config, mine)
        except BaseException:
            helper.close()
            raise
        beside.join()
        if failed:
            raise failed[0]

    def _helper(self) -> Teacher:
        """A second teacher with a child of its own, which begins to load at once."""
        if self.beside is None:
            self.beside = Teacher(self.say)
            self.beside.known, self.beside.whole = self.known, self.whole
            self.beside.distinct, self.beside.looped = self.distinct, self.looped
            threading.Thread(target=self.beside._load, daemon=True).start()
        return self.beside

    def _load(self) -> None:
        with contextlib.suppress(TuneplanError), self.asking:
            self.recorder.ask(do="load")

    def _programs(self, config: Mapping[str, object], wanted: Sequence[Mapping[str, object]]) -> None:
        with self.asking:
            for asked in wanted:
                self.program(config, asked)

    def model(self, config: Mapping[str, object]) -> None:
        """Describes a network and keeps what was found."""
        path = recorded.folder(config) / "spec.json"
        if self.many and (os.cpu_count() or 1) > 1:
            self._helper()
        try:
            found = self.recorder.ask(do="describe", config=dict(config))["spec"]
        except InvalidInput as error:
            recorded.refuse(path, str(error))
            return
        kept = {"schema": recorded.SCHEMA, **found}
        if not recorded.is_description(kept):
            recorded.refuse(path, "its modules hold other parameters than are counted; 'plan trace' gives a figure")
            return
        # Said only now: a type that transformers doesn't know is one line, its refusal.
        self.say(f"{config.get('model_type')} has no written program: it is traced once and kept")
        recorded.write(path, kept)

    def program(self, config: Mapping[str, object], asked: Mapping[str, object]) -> None:
        """Records one program, or keeps why there is none."""
        spec = recorded.spec_of(config, str(config.get("model_type")))
        path = path_of(dict(config), dict(asked))
        self.say(f"recording {spec.architecture}: {_named(asked)} …")
        try:
            log = self._recorded(spec, config, asked)
        except (InvalidInput, NotModelled) as error:
            recorded.refuse(path, str(error), traced=not isinstance(error, InvalidInput))
            return
        recorded.write(path, {**log.content(), "assumed": assumed(asked), "versions": recorded.versions()})

    def _recorded(self, spec: ModelSpec, config: Mapping[str, object], asked: Mapping[str, Any]) -> Log:
        """The program, with as few layers as it takes: where no length reaches a window, layers with one may be as
        those without; layers may be left out anywhere; where fewer layers are another network, all are traced."""
        network = recorded.identity(config)
        known = self.known.setdefault(network, KnownSizes())
        self.leads = known.claim()
        try:
            return self._tried(network, spec, config, asked)
        finally:
            if self.leads:
                known.first.set()

    def _tried(self, network: str, spec: ModelSpec, config: Mapping[str, object], asked: Mapping[str, Any]) -> Log:
        """The same, one cut after the other."""
        plain = plain_cuts(spec, asked)
        ways = [plain]
        if (picked := picked_cuts(spec, asked, certain=self.whole.get(network))) is not None:
            ways.insert(0, picked)
        simpler = windowless_cuts(spec, asked, plain.found)
        if simpler is not None and network not in self.distinct:
            ways.insert(0, simpler)
        if plain.found.windows and asked["checkpointed"] != "some" and spec.total_layers <= MOST_WHOLE_LAYERS:
            ways.append(whole_cut(spec, replace(plain.found, windows=(), copies=())))
        for way, further in itertools.pairwise(ways):
            try:
                return self._by(way, spec, config, asked)
            except (Irregular, InvalidInput) as error:
                if not further.found.windows and not isinstance(error, (Uncuttable, InvalidInput)):
                    raise
                if way.windowless:
                    self.distinct.add(network)
                if way.picked:
                    self.whole[network] = False
        return self._by(ways[-1], spec, config, asked)

    def _by(self, way: CutPair, spec: ModelSpec, config: Mapping[str, object], asked: Mapping[str, Any]) -> Log:
        kinds = spec.config["recorded"]["kinds"]
        points, held_out = shapes(spec, asked)
        windows, wanted_terms, network = way.found.windows, terms(spec, asked), recorded.identity(config)
        known = self.known[network]

        def short(log: dict[str, object]) -> dict[str, object] | None:
            """What the last run tells of its loops; None where it tells less than the network's other programs."""
            return self._shorter(1)[0] if network in self.looped else log

        def held(ready: threading.Event | None = None) -> tuple[dict[str, object], dict[str, object] | None]:
            self._open(config, asked, way.longer.places, len(kinds))
            traced = self._run(held_out, way.longer.checkpointed, asked)
            if ready is not None:
                ready.wait()
            return traced, short(traced)

        self._open(config, asked, way.found.places, len(kinds))
        alike([kinds[place] for place in way.found.picked or range(len(kinds))], self.answer["kinds"])
        weighed(spec, choices_of(asked), way.found.places, self.answer)
        logs, traced = [self._run(points[0], way.found.checkpointed, asked)], None
        if not self.leads and not known.first.is_set():  # the other child is still at the network's first program
            traced = held(known.first)
            self._open(config, asked, way.found.places, len(kinds))
        first = short(logs[0])
        log = None if first is None else known.program(first, points[0], wanted_terms, windows, single=asked["single"])
        if log is not None:
            traced = traced or held()
        if log is None or traced is None or not _proven(way.told(log), *traced, held_out):
            self._open(config, asked, way.found.places, len(kinds))
            logs += [self._run(point, way.found.checkpointed, asked) for point in points[1:]]
            log, told = self._fitted(logs, points, wanted_terms, way.found, network)
            traced = traced or held()
            verify(way.told(log), traced[0], held_out)
            if way.windowless and not _proven(way.told(log), *traced, held_out):
                raise Irregular("its layers with a window hold what those without don't")
            known.learn(told, log, single=asked["single"])
        if way.picked:
            self.whole[network] = True
        return replace(log, windowless=way.windowless, picked=way.picked)

    def _fitted(
        self, logs: Sequence[dict[str, Any]], points: Sequence[Point], terms: Sequence[int], found: Cut, network: str
    ) -> tuple[Log, dict[str, Any]]:
        """The program, and what it tells of the first of the logs: where a loop runs more often at one shape than at
        another, its turns are told by a few."""
        try:
            return fitted(logs, points, terms, found.windows), logs[0]
        except Irregular:
            shorter = self._shorter(len(logs))
            told = [log for log in shorter if log is not None]
            if len(told) < len(logs):
                raise
        program = fitted(told, points, terms, found.windows)
        self.looped.add(network)
        return program, told[0]

    def _shorter(self, count: int) -> list[dict[str, Any] | None]:
        """The last runs with their loops told by few turns, oldest first; None for those that have none."""
        found: list[dict[str, Any] | None] = self.recorder.ask(do="shorter", count=count)["logs"]
        return found

    def _open(
        self, config: Mapping[str, object], asked: Mapping[str, Any], places: tuple[int, ...], whole: int
    ) -> None:
        choices = asked["choices"]
        key = (repr(sorted(config.items())), repr(sorted(choices.items())), asked["target"], asked["padded"], places)
        if key == self.opened:
            return
        self.opened = None
        self.answer = self.recorder.ask(
            do="open",
            config=dict(config),
            choices=choices,
            target=asked["target"],
            padded=asked["padded"],
            layers=None if len(places) == whole else list(places),
        )
        self.opened = key

    def _run(self, point: Point, checkpointed: int, asked: Mapping[str, object]) -> dict[str, object]:
        found: dict[str, object] = self.recorder.ask(
            do="run",
            batch=point.batch,
            length=point.length,
            piece=point.piece,
            chunk=point.chunk,
            checkpointed=checkpointed,
            evaluate=asked["evaluating"],
        )["log"]
        return found


def _proven(log: Log, traced: Mapping[str, Any], told: Mapping[str, Any] | None, point: Point) -> bool:
    """Whether a program is a trace's, allocation by allocation; `told`: the trace with its loops told by few turns,
    beside which the whole one must hold the same bytes."""
    if told is None or not same_course(log, told, point):
        return False
    if told is not traced:
        verify(log, traced, point)
    return True


def shares(wanted: Sequence[dict[str, object]]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The programs for one child and for a second one, by what they are opened for; few go to one."""
    groups: dict[str, list[dict[str, object]]] = {}
    for asked in wanted:
        groups.setdefault(repr((asked["choices"], asked["target"], asked["padded"])), []).append(asked)
    first: list[dict[str, object]] = []
    second: list[dict[str, object]] = []
    for group in sorted(groups.values(), key=len, reverse=True):
        smaller = min(first, second, key=len)
        smaller += group
    return (first, second) if len(second) >= WORTH_A_CHILD else ([*wanted], [])


def _named(asked: Mapping[str, Any]) -> str:
    """A program in words."""
    what = [str(asked["choices"][name]) for name in ("method", "precision", "attention")]
    step = "evaluation" if asked["evaluating"] else f"{asked['checkpointed']} of the layers recomputed"
    size = "one sequence" if asked["single"] else "several sequences"
    return f"{' '.join(what)}, {step}, {size}, loss {asked['choices']['loss']}, regime {asked['regime']}"


def choices_of(asked: Mapping[str, Any]) -> TrainingChoices:
    """The choices that a program is for."""
    given = dict(asked["choices"])
    for name in ("lora_targets", "modules_to_save"):
        if name in given:
            given[name] = tuple(given[name])
    return TrainingChoices(**given)
