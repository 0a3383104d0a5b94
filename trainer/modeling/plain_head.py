"""Whether a network's logits are a plain product of its hidden states: read off its class's own source.

The chunked loss stands in for what a model does between its layers and its loss. Where that is more than the head's
product with the factors known here (a scale, a soft cap), another loss would be trained; it takes the full one then.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

_HEAD = re.compile(
    r"logits = self\.(lm_head|embed_out|output|head)\((hidden_states|outputs\[0\]|outputs\.last_hidden_state)"
    r"(\[:, slice_indices(, :)?\])?\)(\.contiguous\(\)|\.float\(\))?"
)
_BEFORE = re.compile(
    r"#.*|slice_indices = .*|if hidden_states\.shape\[1\] == .*:|"
    r"hidden_states = slice_logits_to_keep\(hidden_states, logits_to_keep\)|"
)
_CAP = (
    r"(\(?final_logit_softcapping := self\.config\.)?(get_text_config\(\)\.|self\.config\.)?final_logit_softcapping\)?"
)
_BETWEEN = re.compile(
    rf"#.*|if {_CAP} is not None:|"
    r"logits = logits / (self\.config\.)?(final_logit_softcapping|logits_scaling)(\s+#.*)?|"
    r"logits = torch\.tanh\(logits\)|"
    r"logits = logits \* (self\.config\.final_logit_softcapping|final_logit_softcapping|self\.logit_scale)(\s+#.*)?|"
    r"logits = logits\.float\(\)|loss = None|"
)
_HIDDEN = re.compile(r"hidden_states = outputs(\.last_hidden_state|\[0\])")


def plain_head(cls: object) -> bool:
    """Whether a class's own forward makes its logits of the hidden states by the head and the factors known here.

    Read off its source: a network that does anything else there would be trained on another loss.
    """
    known: bool | None = _KNOWN.get(cls)
    if known is None:
        known = _KNOWN[cls] = _read(cls)
    return known


_KNOWN: dict[Any, bool] = {}


def _read(cls: Any) -> bool:
    try:
        lines = [line.strip() for line in inspect.getsource(inspect.unwrap(cls.forward)).splitlines()]
    except (OSError, TypeError):
        return False
    heads = [number for number, line in enumerate(lines) if _HEAD.fullmatch(line)]
    hidden = [number for number, line in enumerate(lines) if _HIDDEN.fullmatch(line)]
    ends = [number for number, line in enumerate(lines) if line.startswith("if labels is not None")]
    if len(heads) != 1 or len(hidden) != 1 or not ends or not hidden[0] < heads[0] < ends[0]:
        return False
    before = all(_BEFORE.fullmatch(line) for line in lines[hidden[0] + 1 : heads[0]])
    return before and all(_BETWEEN.fullmatch(line) for line in lines[heads[0] + 1 : ends[0]])
