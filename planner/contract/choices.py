"""The choices of a training: the third of a plan's three inputs, each with what it is beside it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace

from planner.contract.about import COUNTS, LEARNING, METHOD, NUMERICS, SHAPE, About, choice
from planner.contract.errors import InvalidInput
from planner.contract.sentence import named
from planner.contract.shown import shown

ZERO_BUCKET = 50_000_000
"""Elements of a bucket of gradients that ZeRO reduces at once, as the trainer sets it (DeepSpeed's own is 500 M)."""
UPDATE_PARTS = 16
"""Runs of parameters that the trainer updates one after the other where a run has to be copied to be undone."""
LARGEST_COUNT = 65_536
"""Beyond it a batch, an accumulation or a rank is a slip of the keyboard, and bytes would leave 64 bits."""
LARGEST_LENGTH = 2**24
"""Tokens of a sequence, for the same reason; the longest context of a published model is 10 M."""
LARGEST_TOKENS = 2**30
"""Tokens of a micro-batch, for the same reason."""
MOST_NAMES = 256
"""Modules named in one choice."""
FUSED_SINCE = (4, 54)
"""First release of transformers whose `optim` is `adamw_torch_fused` where nobody names one, with torch 2.8 or newer
(training_args.py of 4.53.3 and 4.54.0, pull request 37358; read 2026-11).
"""
LIGER_KERNELS = ("rope", "rms_norm", "swiglu", "fused_linear_cross_entropy")
"""The kernels that `use_liger_kernel=True` switches on (liger_kernel/transformers/monkey_patch.py, 0.8.5)."""
MADE_AGAIN = ("mlp", "norms")
"""What stack `builtin` may make again in backward in place of keeping it (trainer/modeling/lean)."""
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}(\.[0-9A-Za-z.+-]{1,40})?")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_LENGTHS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingChoices:
    """Everything a person chooses that moves memory or speed. One instance is one configuration.

    A wrong value is `InvalidInput` at construction.
    """

    # fmt: off
    batch_size: int = choice(
        8, "Sequences in one forward pass on one device (micro-batch).", low=1, high=LARGEST_COUNT,
        label="Batch size", group=SHAPE, steps=COUNTS,
        more="Sequences in one forward pass. Memory grows with it; the accumulation follows, the effective batch "
        "stays.",
    )
    gradient_accumulation_steps: int = choice(
        4, "Forward passes per optimizer step.", low=1, high=LARGEST_COUNT,
        label="Accumulation", group=SHAPE, steps=COUNTS,
        more="Micro-batches per optimizer step. Costs time, not memory.",
    )
    max_length: int = choice(
        1024, "Tokens per sequence; longer examples are cut.", low=1, high=LARGEST_LENGTH,
        label="Max length", group=SHAPE, steps=_LENGTHS,
        more="Tokens per sequence; longer examples are cut. Memory grows with it.",
    )
    """Tokens per sequence after padding or packing."""
    max_target_length: int | None = choice(
        None, "Tokens per answer of an encoder-decoder; longer ones are cut.", low=1, high=LARGEST_LENGTH,
        none="max-length", label="Max answer length", group=SHAPE, steps=(8, 16, 32, *_LENGTHS),
        more="Tokens per answer of an encoder-decoder, whose decoder is as long; max-length: as long as what is read.",
    )
    """None: same as max_length. Other models have no second length."""
    gradient_checkpointing: bool = choice(
        True, "Recompute activations in backward to save memory.", label="Recompute", group=SHAPE,
        more="Layers keep only their input and are computed again in backward: much less memory, about a third more "
        "time.",
    )
    checkpoint_layers: int | None = choice(
        None, "Checkpoint only the first N layers (stack builtin).", low=0, high=LARGEST_COUNT, none="all",
        label="Recomputed layers", group=SHAPE, steps=tuple(range(1, 129)),
        more="How many layers are recomputed, the first ones; `all` is the default.",
    )
    """How many layers (the first ones) are checkpointed; None means all of them when checkpointing is on."""
    checkpoint_reentrant: bool = choice(
        False, "The re-entrant variant of recomputation.", label="Re-entrant",
        more="The older, re-entrant variant of gradient checkpointing, which recomputes layers.",
    )
    checkpoint_offload: bool = choice(
        False, "Keep saved layer inputs in host memory.", label="Offload inputs",
        more="Keeps saved layer inputs in host memory.",
    )
    """Saved layer inputs live in host memory between forward and backward."""
    method: str = choice(
        "lora", "What is trained.", allowed=("full", "lora", "qlora"), label="Method", group=METHOD,
        more="lora: small adapters on a frozen model; qlora: over a 4-bit model; full: every weight.",
    )
    lora_r: int = choice(
        8, "Rank of the adapters.", low=1, high=LARGEST_COUNT, label="LoRA rank", group=METHOD,
        steps=(1, 2, 4, 8, 16, 32, 64, 128, 256), more="Width of the adapters: more capacity, a larger adapter.",
    )
    lora_alpha: float = choice(
        32, "Scale of the adapters (applied as alpha / r).", low=0, open="low", label="LoRA alpha", group=METHOD,
        steps=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        more="Scale of the adapters: alpha / rank multiplies their output.",
    )
    lora_dropout: float = choice(
        0.05, "Dropout before the adapters.", low=0, high=1, open="high", label="LoRA dropout", group=METHOD,
        steps=(0, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3),
        more="Share of the adapter's input that is dropped in training.",
    )
    lora_targets: tuple[str, ...] = choice(
        ("all-linear",), "Module names, or 'attention', or 'all-linear'; comma-separated.",
        allowed=("all-linear", "attention"), label="LoRA targets", group=METHOD,
        more="Which linear layers carry an adapter: a set, or their names.",
    )
    """Module leaf names, or one of the sets `attention`, `all-linear`."""
    lora_variant: str = choice(
        "lora", "Kind of adapter.", allowed=("lora", "dora", "rslora"), label="LoRA variant", group=METHOD,
        more="rslora scales by the root of the rank; dora also learns a magnitude.",
    )
    modules_to_save: tuple[str, ...] = choice(
        (), "Modules trained in full beside the adapters; comma-separated.", none="none", label="Trained in full",
        more="Modules trained whole beside the adapters, by name.",
    )
    """Leaf names of modules trained in full beside the adapters (embeddings, head)."""
    precision: str = choice(
        "bf16", "Number format; '-mixed' keeps fp32 weights under autocast.",
        allowed=("bf16", "fp16", "fp32", "bf16-mixed", "fp16-mixed", "bf16-amp"), label="Precision", group=NUMERICS,
        more="bf16: weights in bf16; -mixed: fp32 weights, 16-bit arithmetic.",
    )
    """`-mixed` keeps fp32 weights under autocast; `bf16-amp` is autocast over bf16 weights, as some frameworks do."""
    adapter_dtype: str = choice(
        "fp32", "Number format of the adapters.", allowed=("fp32", "bf16"), label="Adapter dtype", group=NUMERICS,
        more="Storage of the adapters; fp32 is the safer one.",
    )
    quantization: str = choice(
        "nf4-double", "Storage of the base weights with --method qlora.", allowed=("nf4", "nf4-double", "int8"),
        label="Quantization", group=METHOD, more="Storage of the frozen weights under qlora.",
    )
    """Storage of the base weights under `method=qlora`."""
    kbit_preparation: str | None = choice(
        None, "What stack peft turns into fp32 beside quantised weights; default all that is not quantised.",
        allowed=("stock", "norms", "none"), none="default", label="k-bit preparation",
        more="What stack peft turns into fp32 beside quantised weights.",
    )
    """Stack `peft` over quantised weights: what becomes fp32 before adapters are attached. `stock`: everything that is
    not quantised (PEFT's own preparation); `norms`: the norms alone (TRL's, which takes embeddings and head back);
    `none`. None: `stock`, but `none` where autocast runs over bf16 weights (`bf16-amp`).
    """
    optimizer: str = choice(
        "adamw", "Optimizer.", allowed=("adamw", "adamw-8bit", "paged-adamw-8bit", "adafactor", "sgd"),
        label="Optimizer", group=NUMERICS,
        more="What it remembers per trained parameter: adamw 8 bytes, 8-bit 2, sgd none.",
    )
    optimizer_implementation: str = choice(
        "foreach", "How the optimizer's step runs.", allowed=("foreach", "fused", "forloop"),
        hidden="follows from device, stack, optimizer and precision",
    )
    loss: str = choice(
        "full", "Whole logits at once, or in chunks that are never kept.", allowed=("full", "chunked"), label="Loss",
        group=NUMERICS, more="chunked: the logits of a few tokens at a time, never all of them.",
    )
    attention: str = choice(
        "sdpa", "Attention implementation.", allowed=("sdpa", "eager", "flash"), label="Attention", group=NUMERICS,
        more="sdpa and flash never hold the score matrix; eager does.",
    )
    padding: str = choice(
        "longest", "How sequences of unequal length share a batch.", allowed=("longest", "max", "packed"),
        label="Padding", group=SHAPE,
        more="longest: to the batch's longest; max: to the max length; packed: examples share a row.",
    )
    stack: str = choice(
        "builtin", "Which code runs the step: this trainer, or the stock transformers Trainer on PEFT.",
        allowed=("builtin", "peft"), label="Stack", group=NUMERICS,
        more="Whose step is planned: builtin is the trainer that `t` starts; peft is plain transformers + PEFT.",
    )
    made_again: tuple[str, ...] = choice(
        MADE_AGAIN, "What backward makes again in place of keeping it (stack builtin): mlp, norms, none.",
        allowed=MADE_AGAIN, none="none", label="Made again", group=NUMERICS,
        more="What backward makes again in place of keeping it: the MLP's activation, the norms. Less memory, a little "
        "more time.",
    )
    """Pieces of a layer whose intermediate values stack `builtin` doesn't keep: an MLP's activation (else it runs as
    transformers writes it, and keeps what autograd keeps), and an RMS norm's normed values.
    """
    transformers_version: str | None = choice(
        None, "Whose loss code and usual AdamW run on stack peft (X.Y); default today's.", none="today's",
        label="transformers", more="Stack peft: whose loss code and usual AdamW run, as X.Y.",
    )
    """Stack `peft`: whose loss code runs (X.Y), below 5 Mixtral's experts as modules of their own, and below 4.54 AdamW
    foreach where nobody names an implementation; None is today's.
    """
    keep_logits: bool = choice(
        False, "The loop holds the model's output through backward.", label="Keep logits",
        more="Stack peft: the loop holds the model's output through backward.",
    )
    """The loop holds the model's output through backward."""
    keep_cache: bool = choice(
        False, "The model returns keys and values too (older GPTBigCode; stack peft).", label="Keep cache",
        more="Stack peft: the model returns keys and values too.",
    )
    """The model returns every layer's keys and values beside the logits (`use_cache`, which older releases' GPTBigCode
    leaves on in training).
    """
    liger: bool = choice(
        False, "Liger's fused kernels (use_liger_kernel; stack peft).", label="Liger kernels",
        more="Stack peft: Liger's fused norms, rotation, MLP and loss (use_liger_kernel).",
    )
    """Liger's fused kernels take the place of the model's own code (`use_liger_kernel` of the transformers Trainer)."""
    liger_kernels: tuple[str, ...] = choice(
        LIGER_KERNELS, "Which of Liger's kernels run under --liger; comma-separated.", allowed=LIGER_KERNELS,
        label="Which of Liger's", more="Stack peft: which of Liger's kernels run, by its own names.",
    )
    """By the names of `liger_kernel_config`; `swiglu` is also Gemma's `geglu`."""
    max_grad_norm: float = choice(
        1.0, "Gradient clipping; 0 switches it off.", low=0, label="Clipping", group=LEARNING,
        steps=(0, 0.3, 0.5, 1, 2, 5), more="Largest gradient norm; 0 switches clipping off.",
    )
    """Gradient clipping threshold; 0 switches clipping off."""
    eval_batch_size: int | None = choice(
        None, "Sequences in one evaluation batch; default the micro-batch.", low=1, high=LARGEST_COUNT, none="batch",
        label="Evaluation batch", steps=(1, 2, 4, 8, 16, 32, 64),
        more="Sequences in one batch of an evaluation; batch: as in training.",
    )
    """None: same as batch_size."""
    expandable_segments: bool = choice(
        False, "CUDA's allocator extends its segments: less is lost between them.", label="Expandable segments",
        group=NUMERICS,
        more="CUDA's allocator extends its segments in place of making further ones: less is lost between them.",
    )
    """CUDA's caching allocator extends its segments in place of making further ones (`PYTORCH_ALLOC_CONF`)."""
    garbage_collection_threshold: float | None = choice(
        None, "Share of the card beyond which CUDA's allocator gives back what lies unused longest.", low=0.01,
        high=0.99, none="off", label="Give back beyond", group=NUMERICS, steps=(0.5, 0.6, 0.7, 0.8, 0.9),
        more="Once this share of the card is reserved, CUDA's allocator gives back what lies unused longest.",
    )
    """`garbage_collection_threshold` of `PYTORCH_ALLOC_CONF`; None for none, PyTorch's default.

    Of segments that expand nothing is given back so (CUDACachingAllocator.cpp).
    """
    num_gpus: int = choice(
        1, "Devices that train together.", low=1, high=LARGEST_COUNT, label="Devices", steps=(1, 2, 4, 8),
        more="Devices that train together, each like the one chosen.",
    )
    strategy: str = choice(
        "ddp", "How several devices share the work.", allowed=("ddp", "zero2", "zero3", "fsdp"), label="Strategy",
    )
    # fmt: on

    def __post_init__(self) -> None:
        for name, about in _WORDS:
            value = getattr(self, name)
            if value not in about.allowed and not (value is None and about.none):
                raise InvalidInput(named(name), f" {shown(value)} is unknown; choose one of {', '.join(about.allowed)}")
        for name, about in _NUMBERS:
            value = getattr(self, name)
            if not (value is None and about.none) and not _is_right(name, about, value):
                raise _outside(name, about, value)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(named(name), f" must be true or false, not {shown(getattr(self, name))}")
        for name in _LISTS:
            self._check_names(name)
        version = self.transformers_version
        known = version is None or (
            isinstance(version, str) and (version == "no-upcast" or _VERSION.fullmatch(version))
        )
        if not known:
            raise InvalidInput(named("transformers_version"), f" {shown(version)} is no version; write X.Y, like 4.48")

    def _check_names(self, name: str) -> None:
        names = getattr(self, name)
        if not isinstance(names, tuple) or not all(isinstance(item, str) for item in names):
            raise InvalidInput(named(name), f" must be a list of names, not {shown(names)}")
        if not names and name == "lora_targets" and self.method != "full":
            raise InvalidInput(named(name), " is empty; name modules, or 'attention', or 'all-linear'")
        if len(names) > MOST_NAMES:
            raise InvalidInput(named(name), f" holds {len(names)} names, more than {MOST_NAMES}")
        known = {"liger_kernels": LIGER_KERNELS, "made_again": MADE_AGAIN}.get(name, names)
        if unknown := sorted(set(names) - set(known)):
            raise InvalidInput(named(name), f" {shown(unknown[0])} is unknown; choose from {', '.join(known)}")
        for item in names:
            if not _MODULE.fullmatch(item):
                raise InvalidInput(named(name), f" {shown(item)} is no module's name (letters, digits, _ - and .)")

    def with_usual_loss(self, task: str) -> TrainingChoices:
        """The loss to run where nobody named one: in chunks on stack `builtin`, which has them for causal models.

        The same loss and gradients as whole logits, in fewer bytes; heads with adapters need the whole logits.
        """
        chunked = self.stack == "builtin" and task == "causal" and "lm_head" not in self.lora_targets
        return replace(self, loss="chunked" if chunked else "full")

    def with_usual_implementation(self, kind: str) -> TrainingChoices:
        """The optimizer's implementation to run where nobody named one, on a device of this kind.

        On stack `builtin` one fused kernel where torch has it: it holds no copy of the parameters, and writes nothing
        before all memory is there. Not under fp16: a fused kernel looks for overflows of the scaled loss by itself, so
        that accelerate can't tell which steps were left out. On stack `peft` what `TrainingArguments` take: fused
        AdamW on every device, the multi-tensor one in releases before `FUSED_SINCE`.
        """
        if self.stack == "peft":
            release = self.transformers_release
            fused = self.optimizer == "adamw" and (release is None or release >= FUSED_SINCE)
        else:
            known = self.optimizer in ("adamw", "sgd") and kind in ("cuda", "rocm", "cpu")
            fused = known and not self.precision.startswith("fp16")
        return replace(self, optimizer_implementation="fused" if fused else "foreach")

    @property
    def transformers_release(self) -> tuple[int, int] | None:
        """Major and minor number of the release that was named; None is today's, and `no-upcast` is older than all."""
        version = self.transformers_version
        if version is None:
            return None
        if version == "no-upcast":
            return 0, 0
        major, minor = version.split(".")[:2]
        return int(major), int(minor)

    @property
    def effective_batch_size(self) -> int:
        """Sequences per optimizer step over all devices."""
        return self.batch_size * self.gradient_accumulation_steps * self.num_gpus

    @property
    def kbit_prepared(self) -> str:
        """What the run turns into fp32 beside quantised weights: one of its allowed words."""
        if self.method != "qlora" or self.stack != "peft":
            return "none"
        # Divided 4-bit weights are stored as 16-bit numbers among others of that width: TRL turns nothing into fp32.
        divided = self.num_gpus > 1 and self.strategy in ("fsdp", "zero3")
        return self.kbit_preparation or ("none" if divided or self.precision == "bf16-amp" else "stock")

    @property
    def gathers_narrow(self) -> bool:
        """Whether fp32 parts become whole as 16-bit copies: accelerate's FSDP under autocast hands `param_dtype` and
        `reduce_dtype` to FSDP, which casts before it gathers; this trainer's own FSDP gathers what is stored.
        """
        several = self.num_gpus > 1 and self.strategy == "fsdp"
        return several and self.stack == "peft" and self.precision.endswith(("-mixed", "-amp"))

    @property
    def separate_experts(self) -> bool:
        """Whether Mixtral's experts are linear modules of their own: stack `peft` before transformers 5."""
        release = self.transformers_release
        return self.stack == "peft" and release is not None and release[0] == 4

    def makes_again(self, piece: str) -> bool:
        """Whether backward makes a piece of `MADE_AGAIN` again: where stack `builtin` runs and names it."""
        return self.stack == "builtin" and piece in self.made_again

    def checkpointed_layers(self, num_layers: int) -> int:
        """How many of `num_layers` layers are checkpointed under these choices."""
        if not self.gradient_checkpointing:
            return 0
        return num_layers if self.checkpoint_layers is None else min(self.checkpoint_layers, num_layers)


def _is_right(name: str, about: About, value: object) -> bool:
    """Whether a number is one, of its kind and in its range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    whole = isinstance(value, int)
    return (whole or (name not in _WHOLE and math.isfinite(value))) and about.holds(value)


def _outside(name: str, about: About, value: object) -> InvalidInput:
    if name not in _WHOLE:
        return InvalidInput(named(name), f" must {about.range}, not {shown(value)}")
    if isinstance(value, int) and about.high is not None and value > about.high:
        return InvalidInput(named(name), f" {shown(value)} is beyond {about.high}, the most that is modelled")
    return InvalidInput(named(name), f" must be a whole number of at least {about.low}, not {shown(value)}")


_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "tuple": tuple, "str": str}
CHOICES: dict[str, tuple[type, About]] = {
    entry.name: (_KINDS[re.split(r"\W", str(entry.type))[0]], entry.metadata["about"])
    for entry in fields(TrainingChoices)
}
"""Every choice with the kind of its value and what it is, in the order of the record."""
_WORDS = [(name, about) for name, (kind, about) in CHOICES.items() if kind is str and about.allowed]
_NUMBERS = [(name, about) for name, (kind, about) in CHOICES.items() if kind in (int, float)]
_WHOLE = {name for name, (kind, _) in CHOICES.items() if kind is int}
_SWITCHES = [name for name, (kind, _) in CHOICES.items() if kind is bool]
_LISTS = [name for name, (kind, _) in CHOICES.items() if kind is tuple]
DEFAULTS = TrainingChoices()
