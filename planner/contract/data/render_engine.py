"""Chat templates as transformers runs them, and which stretch of the output stems from which message.

A template is Jinja code that comes with a model. It runs in a sandbox that is equal to transformers' (its
`utils/chat_template_utils.py`, 5.23: filters, globals, the `generation` tag), and only in a process of its own
(`render_worker`), because no sandbox bounds time and memory. Output must be the same every day and in every process:
the date is a fixed one and chance is seeded, or a resumed run would see other data than the run that it goes on from.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

TODAY = datetime(2026, 1, 1)
"""What `strftime_now` tells of."""

MAX_REPEAT = 2**24
"""Items that `*` may make of a text or list: beyond, a template asks for memory and nothing else."""

Span = tuple[int, int]
"""Begin and end of a stretch of text, in characters."""


class TooMuch(Exception):
    """The template's output or one of its values is larger than any conversation."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A rendered conversation."""

    text: str
    regions: tuple[tuple[Span, ...], ...]
    """Of each message the stretches that the template wrote while its loop stood at that message; none where the
    template doesn't loop over messages."""
    marked: tuple[Span, ...]
    """Stretches inside `{% generation %}`; none where they lie in a macro, whose place in the text can't be told."""


class Template:
    """A compiled template. Raises jinja's errors (and whatever the template provokes), as does `render`."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.tokens = dict(tokens)
        self._environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Marks, "jinja2.ext.loopcontrols"]
        )
        self._environment.filters["tojson"] = _tojson
        self._environment.globals.update(
            raise_exception=_refuse,
            strftime_now=lambda form: TODAY.strftime(form),
            dict=_Dict(),
            namespace=_Namespace,
        )
        tree = self._environment.parse(source)
        _Marks.insert(tree)
        self._template = self._environment.from_string(tree)

    def trace(
        self, messages: list[dict[str, object]], tools: list[object] | None, *, prompt: bool = False, limit: int = 2**25
    ) -> Trace:
        """The conversation as text of at most `limit` characters; `prompt` adds the header of an answer."""
        random.seed(0)
        marks: _Marks = self._environment.marks  # type: ignore[attr-defined]
        with marks.watching(messages) as found:
            chunks = self._template.generate(
                messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, **self.tokens
            )
            text = "".join(found.counted(chunks, limit))
            found.close()
        return Trace(text, found.regions(), found.marked_in(text))


# --------------------------------------------------------------------------------------------------------------------
# The sandbox


class _Sandbox(ImmutableSandboxedEnvironment):
    """transformers' sandbox; `*` and `**` that would fill the memory are refused before they do."""

    intercepted_binops = frozenset({"*", "**"})

    def call(self, context: Any, function: Any, *args: object, **kwargs: object) -> object:
        if getattr(function, "__func__", None) in _TOLD:  # ours, and called often: the sandbox need not look at it
            return function(*args)
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: object, right: object) -> object:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            if right * max(1, left.bit_length()) > MAX_REPEAT:
                raise TooMuch("a power with millions of digits")
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_REPEAT:
                raise TooMuch("a product with millions of digits")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(many, (str, list, tuple)) and len(many) * times > MAX_REPEAT:
                    raise TooMuch(f"a value of {len(many) * times:,} items")
        return super().call_binop(context, operator, left, right)


class _Dict:
    """`dict` without its attributes, as in transformers."""

    def __call__(self, *args: object, **kwargs: object) -> dict[Any, object]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: object) -> dict[object, object]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """A namespace that takes no name with an underscore in front, as in transformers."""

    def __init__(*args: object, **kwargs: object) -> None:  # any name may be given, `self` too
        self, args = args[0], args[1:]
        names = dict(*args, **kwargs)
        for name in names:
            _Namespace._check(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: object) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a chat template can't store {name!r} in a namespace")


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


# --------------------------------------------------------------------------------------------------------------------
# Which message a stretch of output belongs to


@dataclass(slots=True)
class _Frame:
    """One pass of a loop."""

    loop: int
    owner: int | None
    """Number of the message that the loop stands at."""
    start: int


class _Watch:
    """What is seen while one conversation is rendered. Where loops stand in loops, the innermost message owns."""

    def __init__(self, messages: list[dict[str, object]]) -> None:
        self._number = {id(message): number for number, message in enumerate(messages)}
        self._count = len(messages)
        self._frames: list[_Frame] = []
        self._stretches: list[tuple[int, int, int | None]] = []
        self._seen = 0
        self.position = 0
        self.marked: list[tuple[int, str]] = []

    def counted(self, chunks: Iterator[str], limit: int) -> Iterator[str]:
        """The chunks, while the position moves along."""
        for chunk in chunks:
            self.position += len(chunk)
            if self.position > limit:
                raise TooMuch(f"more than {limit:,} characters of output")
            yield chunk

    def _settle(self) -> None:
        """What came out since the last mark belongs to the message that the loops stand at."""
        if self.position > self._seen:
            owner = next((frame.owner for frame in reversed(self._frames) if frame.owner is not None), None)
            self._stretches.append((self._seen, self.position, owner))
            self._seen = self.position

    def enter(self, loop: int, values: tuple[object, ...]) -> None:
        """A pass of a loop begins, over `values`."""
        self.leave(loop)
        owner = next((self._number[id(value)] for value in values if id(value) in self._number), None)
        self._frames.append(_Frame(loop, owner, self.position))

    def leave(self, loop: int) -> None:
        """A pass, or the whole loop, is over."""
        self._settle()
        for place, frame in enumerate(self._frames):
            if frame.loop == loop:
                del self._frames[place:]
                return

    def assign(self, value: object) -> None:
        """A name was given a value: in a loop over numbers, `set message = messages[i]` says where it stands."""
        number = self._number.get(id(value))
        if number is None or not self._frames or self._frames[-1].owner is not None:
            return
        self._settle()
        frame = self._frames[-1]
        frame.owner = number
        self._stretches = [
            (start, end, number if start >= frame.start and owner is None else owner)
            for start, end, owner in self._stretches
        ]

    def close(self) -> None:
        """The template has ended."""
        self._settle()

    def marked_in(self, text: str) -> tuple[Span, ...]:
        """Stretches inside `generation` tags, if all stand where they were seen."""
        if not all(text.startswith(said, start) for start, said in self.marked):
            return ()
        return tuple((start, start + len(said)) for start, said in self.marked if said)

    def regions(self) -> tuple[tuple[Span, ...], ...]:
        """Stretches of each message, those that touch joined."""
        found: list[list[Span]] = [[] for _ in range(self._count)]
        for start, end, owner in self._stretches:
            if owner is None:
                continue
            if found[owner] and found[owner][-1][1] == start:
                found[owner][-1] = (found[owner][-1][0], end)
            else:
                found[owner].append((start, end))
        return tuple(map(tuple, found))


class _Watching:
    """`with` around one rendering."""

    def __init__(self, marks: _Marks, watch: _Watch) -> None:
        self.marks, self.watch = marks, watch

    def __enter__(self) -> _Watch:
        self.marks.watch = self.watch
        return self.watch

    def __exit__(self, *_: object) -> None:
        self.marks.watch = None


class _Marks(Extension):
    """Adds to every loop, and to assignments in loops, a call that tells the watch; and knows the `generation` tag."""

    tags = {"generation"}  # noqa: RUF012 - jinja's way to declare them

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.extend(marks=self)
        self.watch: _Watch | None = None

    def watching(self, messages: list[dict[str, object]]) -> _Watching:
        return _Watching(self, _Watch(messages))

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_generation"), [], [], body).set_lineno(line)

    def _generation(self, caller: Callable[[], str]) -> str:
        text = caller()
        if self.watch is not None:
            self.watch.marked.append((self.watch.position, text))
        return text

    def _enter(self, loop: int, *values: object) -> str:
        if self.watch is not None:
            self.watch.enter(loop, values)
        return ""

    def _leave(self, loop: int) -> str:
        if self.watch is not None:
            self.watch.leave(loop)
        return ""

    def _assign(self, value: object) -> str:
        if self.watch is not None:
            self.watch.assign(value)
        return ""

    @classmethod
    def insert(cls, tree: nodes.Template) -> None:
        """Puts the calls into a parsed template."""
        numbers = iter(range(1, 10**9))
        for node in [tree, *tree.find_all(nodes.Node)]:
            for name in node.fields:
                body = getattr(node, name)
                if isinstance(body, list) and any(isinstance(part, (nodes.For, nodes.Assign)) for part in body):
                    setattr(node, name, [new for part in body for new in cls._with_calls(part, numbers)])

    @classmethod
    def _with_calls(cls, node: nodes.Node, numbers: Iterator[int]) -> list[nodes.Node]:
        if (
            isinstance(node, nodes.Assign)
            and isinstance(node.target, nodes.Name)
            and isinstance(node.node, nodes.Getitem)
        ):
            return [node, cls._tell("_assign", node.lineno, nodes.Name(node.target.name, "load"))]
        if not isinstance(node, nodes.For):
            return [node]
        number = nodes.Const(next(numbers))
        names = [node.target] if isinstance(node.target, nodes.Name) else list(node.target.find_all(nodes.Name))
        values = [nodes.Name(name.name, "load") for name in names]
        node.body = [cls._tell("_enter", node.lineno, number, *values), *node.body]
        return [node, cls._tell("_leave", node.lineno, number)]

    @classmethod
    def _tell(cls, method: str, line: int, *arguments: nodes.Expr) -> nodes.Node:
        call = nodes.Call(nodes.ExtensionAttribute(cls.identifier, method), list(arguments), [], None, None)
        return nodes.ExprStmt(call).set_lineno(line)


_TOLD = frozenset({_Marks._enter, _Marks._leave, _Marks._assign})
