"""Causal classes for text towers that transformers has none of: the multimodal model's text model and its plain head.

What such a model computes of text alone is its text model, the head's product and nothing between. A tower whose whole
does more is left to transformers' own refusal.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import torch

from trainer.modeling.plain_head import plain_head

_HEAD = re.compile(r"self\.lm_head = nn\.Linear\([^\n]*bias=False\)")
_FACTORS = re.compile(r"softcap|logits_scaling|logit_scale")


def register(config: Any) -> None:
    """Lets `AutoModelForCausalLM` build the network of a text tower's config; nothing changes for any other."""
    from transformers import AutoModelForCausalLM

    if type(config) in AutoModelForCausalLM._model_mapping:
        return
    found = causal_class(type(config))
    if found is not None:
        AutoModelForCausalLM.register(type(config), found, exist_ok=True)


def causal_class(config_class: type) -> Any:
    """The causal class of a tower's config class; None where there is none and none can be made."""
    try:
        module = importlib.import_module(config_class.__module__.replace(".configuration_", ".modeling_"))
    except ImportError:
        return None
    classes = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    own = [cls for cls in classes if getattr(cls, "config_class", None) is config_class]
    ready = [cls for cls in own if cls.__name__.endswith("ForCausalLM")]
    texts = [cls for cls in own if cls.__name__.endswith("TextModel")]
    if ready or len(texts) != 1:
        return ready[0] if len(ready) == 1 else None
    if not any(_is_plain_whole(cls, config_class) for cls in classes):
        return None
    return _made(texts[0], config_class)


def _is_plain_whole(cls: Any, config_class: type) -> bool:
    """Whether a class is the multimodal model of this text config, with logits that are the head's product alone."""
    parts = getattr(getattr(cls, "config_class", None), "sub_configs", {})
    if parts.get("text_config") is not config_class or not plain_head(cls):
        return False
    built, run = inspect.getsource(cls.__init__), inspect.getsource(inspect.unwrap(cls.forward))
    return _HEAD.search(built) is not None and _FACTORS.search(run) is None


def _made(text: Any, config_class: type) -> Any:
    from transformers import GenerationMixin, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast

    base: Any = next(cls for cls in text.__mro__[1:] if issubclass(cls, PreTrainedModel))

    class Tower(base, GenerationMixin):  # type: ignore[misc]
        base_model_prefix = "model"
        _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = text(config)
            self.vocab_size = config.vocab_size
            self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.post_init()

        def forward(
            self,
            input_ids: torch.Tensor | None = None,
            attention_mask: torch.Tensor | None = None,
            labels: torch.Tensor | None = None,
            logits_to_keep: int = 0,
            **options: Any,
        ) -> Any:
            """As any causal model of transformers."""
            given = {name: options.pop(name) for name in _OF_THE_TEXT_MODEL if name in options}
            outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **given)
            hidden_states = outputs.last_hidden_state
            slice_indices = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
            logits = self.lm_head(hidden_states[:, slice_indices, :])
            loss = None
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocab_size, **options)
            return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    Tower.config_class = config_class
    Tower.__name__ = Tower.__qualname__ = f"{text.__name__.removesuffix('Model')}ForCausalLM"
    Tower.__module__ = text.__module__
    return Tower


_OF_THE_TEXT_MODEL = ("position_ids", "past_key_values", "inputs_embeds", "use_cache", "cache_position")
