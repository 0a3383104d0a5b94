"""What every record of the wire format stands on: frozen, strict about unknown keys, numbers within their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: object) -> object:
    """A number as it is; pydantic alone would take true for 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Number = BeforeValidator(_number)
Bytes = Annotated[int, Field(ge=0, lt=2**63), Number]
_Row = Annotated[tuple[Annotated[int, Field(ge=1, le=2**24), Number], ...], Field(min_length=1)]
BatchLengths = Annotated[tuple[_Row, ...], Field(min_length=1, max_length=65_536)]
"""Row by row the lengths of its sequences, in tokens."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
"""Tokens per second, or a share."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Number]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False), Number]
AtLeastOne = Annotated[int, Field(ge=1, le=10**9), Number]
AtLeastZero = Annotated[int, Field(ge=0, le=10**9), Number]
Text = Annotated[str, Field(max_length=100_000)]


class Record(BaseModel):
    """Frozen, strict about unknown keys; its validator is built at first use, since a start uses few of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, protected_namespaces=())
