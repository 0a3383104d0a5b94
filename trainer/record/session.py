"""A model cut to a few layers, on fake tensors, and one step of it at any shape."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from trainer import modeling
from trainer.modeling import chunked
from trainer.modeling.build import is_causal
from trainer.modeling.checkpointing import base_model, checkpointable_layers
from trainer.modeling.lean import rows
from trainer.record import network
from trainer.record.marked import MarkedRecorder
from trainer.record.turns import LoopWatch
from trainer.trace import int8, operators, ragged, scratch
from trainer.trace import run as tracing
from trainer.trace.autocast import cuda_autocast_rules
from trainer.trace.fakes import make_fake, quantization_tensors
from trainer.trace.recorder import ScratchRules

MOST_KEPT = 4
"""Runs whose events are kept, should a program need their loops told shorter."""


def cut(config: dict[str, object], layers: Sequence[int]) -> dict[str, object]:
    """The config with these of its layers alone: their number, and every list that has an entry for each of them."""
    made = modeling.as_config(config)
    names = getattr(type(made), "attribute_map", {})
    key = names.get("num_hidden_layers", "num_hidden_layers")
    if key == "encoder_layers" and is_causal(config):  # the decoder alone of an encoder-decoder
        key = "decoder_layers"
    if isinstance(getattr(type(made), key, None), property):  # a number that another one gives
        key = "num_layers"
    whole = getattr(made, key, None)
    if not isinstance(whole, int) or whole <= max(layers):
        raise NotModelled(f"{made.model_type}: its config doesn't count its layers as num_hidden_layers")
    fewer = copy.deepcopy(config)
    fewer.pop("num_hidden_layers", None)
    fewer[key] = len(layers)
    for key, value in vars(made).items():
        if isinstance(value, list) and len(value) == whole and not key.startswith("_"):
            fewer[names.get(key, key)] = [copy.deepcopy(value[layer]) for layer in layers]
    if "attention_types" in vars(made) and "attention_layers" in fewer:  # GPT-Neo writes its kinds in multiples
        fewer["attention_types"] = [[fewer.pop("attention_layers"), 1]]
    return fewer


class Session:
    """One model under one set of choices; what `run` varies costs no building."""

    def __init__(
        self,
        config: dict[str, object],
        choices: TrainingChoices,
        *,
        target: str,
        padded: bool,
        layers: Sequence[int] | None,
    ) -> None:
        """layers: which of the network's layers are built; None: all."""
        logging.getLogger("transformers").setLevel(logging.ERROR)
        self.config = config if layers is None else cut(config, layers)
        self.choices, self.target, self.padded = choices, target, padded
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = tracing.prepare(self.config, choices, tracing.Setup(target=target, padded=padded))
            self.kinds = network.kinds(self.model)
            self.paths = network.layer_paths(self.model)
            self.trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            make_fake(self.model, self.fake_mode)
            modeling.use_loss_version(self.model, choices)
            if choices.gradient_checkpointing:
                modeling.apply_checkpointing(self.model, replace(choices, checkpoint_layers=None))
            modeling.wrap_forward(self.model, modeling.autocast_dtype(choices), "cpu")
        self.names = tracing.module_names(self.model)
        self.recorder: MarkedRecorder | None = None
        self.done: deque[MarkedRecorder] = deque(maxlen=MOST_KEPT)
        """What the last runs recorded."""
        self._hook()

    def _hook(self) -> None:
        """The hooks of a trace, for whichever recorder runs."""

        def on_gradient(parameter: torch.Tensor) -> None:
            if self.recorder is not None:
                self.recorder.gradient(parameter)

        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(on_gradient)

        def on_layer(layer: torch.nn.Module, args: Any) -> None:
            recorder = self.recorder
            if recorder is None or recorder.phase != "forward" or not args or not layer.gradient_checkpointing:
                return
            if isinstance(args[0], torch.Tensor) and recorder.role_of(args[0]) == "":
                recorder.mark(args[0], "checkpoints")

        for layer in checkpointable_layers(self.model):
            layer.register_forward_pre_hook(on_layer)

        def on_loss(name: str) -> None:
            if self.recorder is not None and self.recorder.phase != "eval":
                self.recorder.enter(name)

        modeling.watch_loss(self.model, on_loss)

    def weights(self) -> dict[str, int]:
        """Bytes of the weights, the adapters and the buffers of this cut model."""
        sizes = {"weights": 0, "adapters": 0, "buffers": 0}
        seen: set[int] = set()

        def add(name: str, tensor: torch.Tensor) -> None:
            key = tensor.untyped_storage()._cdata
            if key not in seen:
                seen.add(key)
                sizes[name] += tensor.untyped_storage().nbytes()

        adapted = self.choices.method != "full"
        for parameter in self.model.parameters():
            add("adapters" if adapted and parameter.requires_grad else "weights", parameter)
        for buffer in self.model.buffers():
            add("buffers", buffer)
        for _, tensor in quantization_tensors(self.model):
            add("weights", tensor)
        return sizes

    def run(
        self, batch: int, length: int, *, piece: int, chunk: int, checkpointed: int, evaluate: bool
    ) -> dict[str, object]:
        """The log of one step (or of one evaluation) of `batch` x `length` tokens.

        piece, chunk: tokens that a lean function and the chunked loss take at a time. checkpointed: how many of the
        first layers are recomputed.
        """
        choices = replace(self.choices, batch_size=batch, max_length=length, gradient_accumulation_steps=1)
        for index, layer in enumerate(checkpointable_layers(self.model)):
            layer.gradient_checkpointing = index < checkpointed and not evaluate
        for parameter in self.model.parameters():
            parameter.grad = None
        recorder = MarkedRecorder(self.paths, LoopWatch(checkpointable_layers(self.model)))
        if self.target == "cuda":
            for rules in (scratch.cuda_scratch(), int8.scratch(), ragged.scratch(), _sorted_scratch(batch * length)):
                recorder.scratch_for(rules)
        recorder.stand_in_for(scratch.stand_ins())
        recorder.stand_in_for(int8.stand_ins())
        for parameter in self.model.parameters():
            recorder.take(parameter, "weights", "")
        for buffer in self.model.buffers():
            recorder.take(buffer, "weights", "")
        for _, tensor in quantization_tensors(self.model):
            recorder.take(tensor, "weights", "")
        changes = operators.device_operators(self.target, "auto") + operators.mask_creation(self.padded)
        changes += tracing.values_unknown(choices, None) + ragged.device_kernels(self.target, "auto")
        changes += [(rows, "ROWS", piece), (chunked, "chunk_rows", lambda vocabulary: chunk)]
        if choices.checkpoint_offload and self.target == "cuda":
            changes += operators.host_offload(recorder)
        if choices.method == "qlora":
            changes += int8.readable_weights() + (int8.cuda_matmul() if self.target != "cpu" else [])
        self.recorder = recorder
        try:
            with operators.replaced(changes), contextlib.ExitStack() as stack:
                if self.target == "cuda":
                    stack.enter_context(cuda_autocast_rules())
                stack.enter_context(self.fake_mode)
                stack.enter_context(recorder)
                stack.enter_context(recorder.naming(self.names))
                self._step(recorder, choices, evaluate=evaluate)
            recorder._settle()
            if {id(module) for module in base_model(self.model).modules()} != self.names.keys():
                raise NotModelled(
                    "its network puts modules in the place of others while it runs, as long as a sequence is; "
                    "'plan trace' gives the figure of one shape"
                )
            found = recorder.log(length)
            self.done.append(recorder)
        finally:
            self.recorder = None
            recorder.forget()
            for parameter in self.model.parameters():
                parameter.grad = None
        return found

    def shorter(self, count: int) -> list[dict[str, Any] | None]:
        """The logs of the last `count` runs, oldest first, with long loops told by few turns; None where there are none
        (or the run isn't kept any more)."""
        return [None] * (count - len(self.done)) + [recorder.shorter() for recorder in list(self.done)[-count:]]

    def _step(self, recorder: MarkedRecorder, choices: TrainingChoices, *, evaluate: bool) -> None:
        batch = tracing.make_batch(self.config, choices)
        num_items = torch.ones((), dtype=torch.int64)
        for value in batch.values():
            recorder.mark(value, "batch")
        recorder.mark(num_items, "weights")
        recorder.reset_peaks()
        if evaluate:
            recorder.enter("eval")
            self.model.eval()
            with torch.no_grad():
                made = modeling.compute_loss(self.model, batch, choices, num_items=num_items)
            recorder.enter("end")
            del made
            self.model.train()
            return
        recorder.enter("forward")
        loss, held = modeling.compute_loss(self.model, batch, choices, num_items=num_items)
        recorder.enter("backward")
        loss.backward()
        del loss, held
        recorder.enter("end")


def _sorted_scratch(tokens: int) -> ScratchRules:
    """What CUDA holds for an embedding's gradient beyond 3072 tokens, told at every shape: the planner knows from how
    many on. The same sum that a written program has (`engine.ops.embedding`)."""

    def held(args: Any, out: torch.Tensor) -> list[int]:
        return [tokens * (out.shape[-1] * 4 * 11 // 10 + 6 * 8)] if args[1].numel() == tokens else []

    return {torch.ops.aten.embedding_dense_backward.default: held}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries' warnings stay away from the lines that are data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


__all__ = ["Session", "base_model", "cut"]
