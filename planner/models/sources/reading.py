"""Checked access to a completed config: a missing or nonsensical value ends in one line with file and key."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.contract import architectures
from planner.contract.architecture import Architecture
from planner.contract.errors import InvalidInput
from planner.contract.shown import shown
from planner.contract.spec import HeadTask
from planner.models.sources.schema import MAX_SIZE, Config


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReading:
    """A completed config with the place it came from, and the task that is asked of it."""

    config: Config
    origin: str
    """File or name, as messages cite it."""
    given: frozenset[str] = field(default_factory=frozenset)
    """Keys that stood in the file itself."""
    task: HeadTask = "causal"
    labels: int = 2
    """Classes of a classification head."""

    @property
    def facts(self) -> Architecture:
        """What its architecture does."""
        return architectures.of(self.text("model_type"))

    def says(self, fact: bool | str) -> bool:
        """A fact that is so, is not, or that a key of the config decides."""
        return self.flag(fact) if isinstance(fact, str) else fact

    def fail(self, key: str, wanted: str) -> InvalidInput:
        """The error for one key; the caller raises it."""
        return InvalidInput(f"{self.origin}: {key} is {shown(self.config.get(key))}, but must be {wanted}")

    def size(self, key: str) -> int:
        """A whole number of at least 1."""
        value = self.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(key, "a whole number of at least 1")
        if value > MAX_SIZE:
            raise self.fail(key, f"at most {MAX_SIZE}")
        return value

    def count(self, key: str) -> int:
        """A whole number of at least 0."""
        value = self.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fail(key, "a whole number of at least 0")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.config.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str) -> str:
        """A name."""
        value = self.config.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "a name")
        return value

    def fraction(self, key: str) -> float:
        """A probability in [0, 1); absent counts as 0."""
        value = self.config.get(key)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise self.fail(key, "a number in [0, 1)")
        return float(value)

    def head_dim(self, hidden: int, heads: int) -> int:
        """Width of an attention head: `head_dim`, else the hidden size over the heads."""
        if self.config.get("head_dim") is not None:
            return self.size("head_dim")
        return self.split(hidden, heads)

    def split(self, hidden: int, heads: int) -> int:
        """Hidden size over heads, which must leave no rest."""
        if hidden % heads:
            raise InvalidInput(f"{self.origin}: hidden size {hidden} is not a multiple of {heads} attention heads")
        return hidden // heads

    def kv_heads(self, key: str, heads: int) -> int:
        """Key-value heads, which must divide the heads."""
        value = self.size(key)
        if heads % value:
            raise self.fail(key, f"a divisor of the {heads} attention heads")
        return value
