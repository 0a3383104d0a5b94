"""Where the assistant's turns stand in a rendered conversation, whatever the template does with them.

The conversation is rendered once, and what stands there is what is learned. Which stretch belongs to a turn says the
template's own loop (`render_engine`). What of it is the turn's header, which the model is given and need not say, and
where a turn's end is written elsewhere, shows in a second conversation of the same build whose texts are words that
occur nowhere else (`Marker`); templates mostly see only the build, so that one such comparison serves thousands of
examples. Templates without a loop over messages are compared turn by turn, with that turn's text replaced.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.contract.data.render_engine import Span, Template, TooMuch, Trace
from planner.contract.data.render_marks import Marker
from planner.contract.data.render_messages import Build, Chat, Form, Refused, build, forms, normal, written
from planner.contract.data.render_texts import common, longest_inside, pieces, shared, shared_visibly, without_header

KEPT = 4096
KEPT_TURNS = 100_000
"""Builds whose comparison is remembered, and messages in all of them."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A rendered conversation and what is learned of it."""

    text: str
    spans: tuple[Span, ...]
    counts: Mapping[str, int]
    """What is not as the data has it, by kind (`rendering.SENTENCES`)."""


@dataclass(frozen=True, slots=True)
class _Head:
    """Places before a turn's first word."""

    before: int
    """End of the last word of earlier messages."""
    begin: int
    """Where the turn's stretch begins."""
    end: int
    """Where its own first word begins."""


@dataclass(slots=True)
class _Turn:
    """What the comparison showed about one message."""

    header: str = ""
    """Text at the beginning of its stretch that the model is given."""
    ending: str = ""
    """Text after its stretch that still belongs to the turn."""
    mixed: bool = False
    """Its stretch holds other messages' texts."""
    ended: bool = True
    """Whether anything is written after what the turn says."""


@dataclass(slots=True)
class _Structure:
    """What the comparison showed about all conversations of one build."""

    form: Form
    turns: list[_Turn]
    counts: Counter[str] = field(default_factory=Counter)


class TurnFinder:
    """Renders conversations with one template."""

    def __init__(self, template: Template, source: str) -> None:
        self._template = template
        self._marker = Marker(source)
        self._structures: dict[Build, _Structure | str] = {}
        self._kept_turns = 0
        self._tails: dict[Build, str] = {}

    def prompt(self, messages: Chat, tools: list[object] | None) -> str:
        """The text that a model is given before it answers."""
        chat = [normal(message) for message in messages]
        structure = self._structure(chat, tools)
        form = structure.form if isinstance(structure, _Structure) else Form()
        return self._render(written(chat, form), tools, prompt=True).text

    def find(self, messages: Chat, learned: Sequence[bool], tools: list[object] | None) -> Marked:
        """The conversation as text and where the turns stand that are learned. Raises `Refused`."""
        chat = [normal(message) for message in messages]
        structure = self._structure(chat, tools)
        known = structure if isinstance(structure, _Structure) else None
        form = known.form if known else Form()
        shown = self._render(written(chat, form), tools)
        if known is None and any(message.get("tool_calls") for message in chat):
            raise Refused(f"it can't be seen whether the chat template renders tool calls ({structure})")
        counts = Counter(known.counts if known else {})
        spans: list[Span] = []
        for number, is_learned in enumerate(learned):
            region = shown.regions[number]
            counts.update(_lost_thoughts(chat[number], pieces(shown.text, region)))
            if not is_learned:
                continue
            turn = known.turns[number] if known else _Turn(mixed=True)
            if shown.marked:
                its = _inside(shown.marked, region, chat, learned, number)
                counts["unmarked"] += not its
            elif region and not turn.mixed:
                its = _clipped(shown.text, region, turn)
                counts["endless"] += not turn.ended
            else:
                its = self._compared(chat, form, tools, number, shown.text)
                counts["unfound"] += not its
            spans.extend(its)
        return Marked(shown.text, tuple(sorted(spans)), {kind: count for kind, count in counts.items() if count})

    # ---- rendering

    def _render(self, chat: Chat, tools: list[object] | None, *, prompt: bool = False) -> Trace:
        size = sum(len(str(message.get("content") or "")) for message in chat)
        try:
            return self._template.trace(chat, tools, prompt=prompt, limit=2**25 + 4 * size)
        except (TooMuch, MemoryError):
            raise
        except Exception as error:  # a template may raise what it likes
            raise Refused((str(error).strip().splitlines() or [type(error).__name__])[0]) from None

    # ---- the comparison

    def _structure(self, chat: Chat, tools: list[object] | None) -> _Structure | str:
        built = (bool(tools), *(build(message) for message in chat))
        found = self._structures.get(built)
        if found is None:
            found = self._compare(chat, tools)
            if len(self._structures) >= KEPT or self._kept_turns > KEPT_TURNS:
                self._structures.clear()
                self._kept_turns = 0
            self._structures[built] = found
            self._kept_turns += len(chat)
        if isinstance(found, _Structure) and found.counts["calls"]:
            raise Refused("the chat template doesn't render tool calls, so what they ask for would be lost")
        return found

    def _compare(self, chat: Chat, tools: list[object] | None) -> _Structure | str:
        """What a conversation of this build looks like, in the form that loses least; a sentence if none renders."""
        words = [self._marker.message(number, message) for number, message in enumerate(chat)]
        named = self._marker.tools(tools)
        best: tuple[int, Form, Trace] | None = None
        reason = ""
        for form in forms(chat):
            try:
                shown = self._render(written(words, form), named)
            except Refused as error:
                reason = reason or str(error)
                continue
            lost = sum(self._lost(words, named, shown.text).values())
            if best is None or lost < best[0]:
                best = (lost, form, shown)
            if not lost:
                break
        if best is None:
            return reason
        _, form, shown = best
        return self._described(words, named, form, shown)

    def _lost(self, words: Chat, tools: list[object] | None, text: str) -> Counter[str]:
        """What was given and doesn't show."""
        shown = {text[word.start : word.end] for word in self._marker.found(text, (0, len(text)))}
        lost: Counter[str] = Counter()
        for message in words:
            role = message["role"]
            if message.get("content", "").strip() and message["content"] not in shown:
                lost["contents" if role == "assistant" else f"lost {role}"] += 1
            if "thinking" in message and message["thinking"] not in shown:
                lost["thoughts"] += 1
            for call in message.get("tool_calls", ()):
                lost["calls"] += not self._marker.shows_call(call["function"], shown, text)
        if tools and not any(self._marker.tool_word(number) in shown for number in range(len(tools))):
            lost["tools"] += 1
        return lost

    def _described(self, words: Chat, tools: list[object] | None, form: Form, shown: Trace) -> _Structure:
        turns = []
        text = shown.text
        found = self._marker.found(text, (0, len(text)))
        starts = [word.start for word in found]
        for number, message in enumerate(words):
            region = shown.regions[number]
            if message["role"] != "assistant" or not region:
                turns.append(_Turn(mixed=not region))
                continue
            inside = [word for a, b in region for word in found[bisect_left(starts, a) : bisect_left(starts, b)]]
            turn = _Turn(mixed=any(word.owner != number for word in inside))
            if not turn.mixed:
                own = [word for word in inside if word.owner == number]
                earlier = bisect_left(starts, region[0][0])
                head = _Head(
                    before=found[earlier - 1].end if earlier else 0,
                    begin=region[0][0],
                    end=min(own[0].start, region[0][1]) if own else region[0][1],
                )
                turn.header = self._header(words, tools, form, number, text, head)
                suffix = text[own[-1].end if own else region[0][0] + len(turn.header) : region[-1][1]]
                turn.ending = self._ending(words, tools, form, number, shown, turn.header, suffix)
                turn.ended = bool((suffix + turn.ending).strip())
            turns.append(turn)
        return _Structure(form, turns, self._lost(words, tools, text))

    def _header(self, words: Chat, tools: list[object] | None, form: Form, number: int, text: str, place: _Head) -> str:
        """What of a turn's beginning stands in the prompt for it as well; all before its text where no prompt does."""
        head = text[place.begin : place.end]
        tail = self._prompt_tail(words, tools, form, number)
        if number and tail is not None:
            both = place.before + shared_visibly(text[place.before : place.end], tail)
            if both > place.begin:
                return text[place.begin : both]
            if both == place.begin and both - place.before == len(tail):
                return ""  # the header was written with the message before
        if tail is None:
            tail = self._prompt_tail(words, tools, form, None) or ""
        header = longest_inside(head, tail)
        # A template that knows no prompt still has a header; blanks alone are no header.
        return header if header.strip() else head if head.strip() else ""

    def _prompt_tail(self, words: Chat, tools: list[object] | None, form: Form, number: int | None) -> str | None:
        """What a prompt holds after the last text of the messages before; None where the template refuses it."""
        if number == 0:
            return None
        before = words[:number] if number else [{"role": "user", "content": self._marker.word("c", 0)}]
        return self._tail(before, tools, form, prompt=True)

    def _tail(self, before: Chat, tools: list[object] | None, form: Form, *, prompt: bool) -> str | None:
        """What is written after the last text of these messages."""
        key = (prompt, form, bool(tools), len(before) == 1, *(build(message) for message in before[-2:]))
        if key not in self._tails:
            try:
                text = self._render(written(before, form), tools, prompt=prompt).text
            except Refused:
                return None
            found = self._marker.found(text, (0, len(text)))
            if len(self._tails) >= KEPT:
                self._tails.clear()
            self._tails[key] = text[found[-1].end if found else 0 :]
        return self._tails[key]

    def _ending(
        self, words: Chat, tools: list[object] | None, form: Form, number: int, shown: Trace, header: str, suffix: str
    ) -> str:
        """The end of a turn that is written outside of its stretch: by the next message, or after the loop."""
        after = shown.text[shown.regions[number][-1][1] :]
        if number == len(words) - 1:
            return without_header(after, header, ended=bool(suffix.strip()))
        if suffix.strip():
            return ""
        tail = self._tail(words[: number + 1], tools, form, prompt=False)
        if tail and tail.startswith(suffix):
            ending = shared(tail[len(suffix) :], after)
            if ending.strip():
                return ending
        return self._written_by_next(words, number, shown)

    def _written_by_next(self, words: Chat, number: int, shown: Trace) -> str:
        """What the next message's header has more than where the same role does not follow an assistant."""
        role = words[number + 1]["role"]
        following = self._head(shown, number + 1)
        for other, message in enumerate(words):
            if message["role"] == role and (other == 0 or words[other - 1]["role"] != "assistant"):
                plain = self._head(shown, other)
                if plain.strip() and following.endswith(plain):
                    return following[: len(following) - len(plain)]
        return ""

    def _head(self, shown: Trace, number: int) -> str:
        """Text of a stretch before its first word of a message."""
        region = shown.regions[number]
        if not region:
            return ""
        found = self._marker.found(shown.text, region[0])
        return shown.text[region[0][0] : found[0].start] if found else ""

    # ---- templates without a loop over messages

    def _compared(self, chat: Chat, form: Form, tools: list[object] | None, number: int, text: str) -> list[Span]:
        """Where a turn stands, by rendering again with its text replaced; empty where that doesn't show it."""
        content = chat[number].get("content") or ""
        word = self._marker.unlike(content)
        if not content.strip() or word is None:
            return []
        swapped = [*chat[:number], {**chat[number], "content": word}, *chat[number + 1 :]]
        try:
            other = self._render(written(swapped, form), tools).text
            alone = self._render(written(swapped[: number + 1], form), tools).text
        except Refused:
            return []
        if other.count(word) != 1 or alone.count(word) != 1:
            return []
        begin = other.index(word)
        stop = len(text) - (len(other) - begin - len(word))
        if not begin < stop or text[:begin] != other[:begin] or text[stop:] != other[begin + len(word) :]:
            # The template does more with the text than to set it in: what differs is what was said.
            begin = common(text, other)
            stop = len(text) - common(text[begin:][::-1], other[begin:][::-1])
            if begin >= stop:
                return []
        tail = alone[alone.index(word) + len(word) :]
        end = stop + len(shared(tail, text[stop:]))
        return [(self._said_from(chat, form, tools, number, text, begin), end)]

    def _said_from(self, chat: Chat, form: Form, tools: list[object] | None, number: int, text: str, begin: int) -> int:
        """Where a turn begins: before its text where the prompt for it doesn't hold all that stands there."""
        if not number or not (chat[number - 1].get("content") or "").strip():
            return begin
        asked, answered = self._marker.word("c", number - 1), self._marker.word("c", number)
        both = [{**chat[number - 1], "content": asked}, {**chat[number], "content": answered}]
        try:
            shown = self._render(written([*chat[: number - 1], *both], form), tools).text
            prompt = self._render(written([*chat[: number - 1], both[0]], form), tools, prompt=True).text
        except Refused:
            return begin
        if shown.count(asked) != 1 or shown.count(answered) != 1 or prompt.count(asked) != 1:
            return begin
        between = shown[shown.index(asked) + len(asked) : shown.index(answered)]
        own = between[shared_visibly(between, prompt[prompt.index(asked) + len(asked) :]) :]
        return begin - len(own) if text[:begin].endswith(own) else begin


def _clipped(text: str, region: Sequence[Span], turn: _Turn) -> list[Span]:
    """A turn's stretch without its header and with its end."""
    start, end = region[0]
    header = turn.header if text.startswith(turn.header, start) else shared(turn.header, text[start:end])
    spans = [(min(start + len(header), end), end), *region[1:]]
    if turn.ending and text.startswith(turn.ending, spans[-1][1]):
        spans[-1] = (spans[-1][0], spans[-1][1] + len(turn.ending))
    return [span for span in spans if span[0] < span[1]]


def _inside(
    marked: Sequence[Span], region: Sequence[Span], chat: Chat, learned: Sequence[bool], number: int
) -> list[Span]:
    """The marks of one turn."""
    if region:
        found = [(max(a, start), min(b, end)) for a, b in marked for start, end in region]
        return [span for span in found if span[0] < span[1]]
    answers = [place for place, message in enumerate(chat) if message["role"] == "assistant"]
    if len(answers) == len(marked):
        return [marked[answers.index(number)]]
    return []


def _lost_thoughts(message: Mapping[str, object], shown: str) -> Counter[str]:
    """Thoughts that stand in an answer's own text and not in what was rendered of it."""
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str) or "</think>" not in content or not shown:
        return Counter()
    thought = content.split("</think>")[0].split("<think>")[-1].strip()
    return Counter({"thoughts": int(bool(thought) and thought not in shown)})
