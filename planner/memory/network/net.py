"""The network on a tape: its weights and adapters, its linear layers as the chosen stack runs them, its attention."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.sentence import named
from planner.contract.spec import ModelSpec, Module
from planner.memory.engine.graph import Gradients, Node, Parameter, Tensor
from planner.memory.engine.monomials import BSS, BYTE, FP32, HALF, ONE, SS, S, T
from planner.memory.engine.rules import Rules
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight
from planner.memory.network import liger
from planner.memory.step.exchange import Exchange, Reduction
from planner.models.lora import adapter_modules, saved_modules

WEIGHT_BYTES = {"bf16": HALF, "fp16": HALF, "fp32": FP32, "bf16-mixed": FP32, "fp16-mixed": FP32, "bf16-amp": HALF}

Shared = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, tuple[Tensor, ...]]


@dataclass(slots=True)
class Net:
    """What the layer programs of `planner.memory.network.blocks` work with.

    The bytes of all weights stand on the tape once, as blobs; the `Weight`s that programs read have no bytes of their
    own, only a gradient where they train.
    """

    tape: Tape
    spec: ModelSpec
    choices: TrainingChoices
    padded: bool
    """Whether the batch holds padding, so that an attention mask exists."""
    itemsize: int = HALF
    """Bytes per element of the activations."""
    by_path: dict[str, Module] = field(default_factory=dict)
    targeted: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    """Paths of the modules that carry an adapter, with the layers in which they do (None outside the layers)."""
    saved: frozenset[str] = frozenset()
    """Paths of modules trained in full beside the adapters, on copies of their own."""
    unquantized: frozenset[str] = frozenset()
    """Paths of linear modules that stay unquantised under `method=qlora`."""
    index: int = 0
    """Layer that runs now."""
    storage_itemsize: int = HALF
    """Bytes per element that the weights have on disk and 4-bit ones are de-quantised to."""
    separate_experts: bool = False
    """Whether a mixture's experts are linear modules of their own."""
    norm_itemsize: int = HALF
    """Bytes per element of the norms' weights."""
    fp32_paths: frozenset[str] = frozenset()
    """Paths of what a recorded network makes in fp32 whatever its weights are."""
    adapter_itemsize: int = FP32
    kept_itemsize: int = HALF
    """Bytes per element that a base weight has between its uses, and its optimizer state; FSDP's 16-bit copies have
    fewer while a layer runs."""
    kept_adapter_itemsize: int = FP32
    null: Tensor | None = None
    mask: Tensor | None = None
    window_mask: Tensor | None = None
    cos: Tensor | None = None
    sin: Tensor | None = None
    window_tables: list[Tensor] = field(default_factory=list)
    """Rotary tables of their own that windowed layers have (gemma 3)."""
    stack: object = None
    """What the layers of the running stack share (encoder-decoders)."""
    input_gradients: list[Tensor] = field(default_factory=list)
    """Embeddings whose table is frozen, and their gradients."""
    attention_weights: Tensor | None = None
    """What eager attention returns besides its output: the layer names it until its end, though nobody reads it."""
    named: list[Tensor] = field(default_factory=list)
    """What the model's forward names until it returns: the embeddings, for one."""
    accumulating: bool = False
    """Whether gradients of an earlier micro-batch are there already."""
    shared: dict[str, Weight] = field(default_factory=dict)
    """Base weights that several modules use (tied embeddings), by path."""
    windowed: bool = False
    """Whether the length reaches the sliding window, so that its layers need a mask of their own."""
    flat: bool = False
    """Whether the micro-batch runs as one row of sequences (planner.memory.network.flat)."""
    answers: bool = False
    """Whether the decoder's answers have a length of their own (network/answers.py)."""
    unaligned_answers: bool = False
    """Whether that is no multiple of what the efficient kernel takes of a mask's rows."""
    exchange: Exchange | None = None
    """FSDP's gathering and reducing, where several devices share the weights."""
    reduction: Reduction | None = None
    """ZeRO-2's reducing, where everything is trained."""
    leaves: list[Parameter] = field(default_factory=list)
    """Leaves that a program made in passing: named here so that autocast knows them apart."""
    parameters: list[Parameter] = field(default_factory=list)
    """Every trainable leaf that a program touched, so that its gradient lives until the optimizer ran."""

    @classmethod
    def build(
        cls,
        spec: ModelSpec,
        choices: TrainingChoices,
        *,
        tape: Tape | None = None,
        padded: bool = False,
        windowed: bool = False,
    ) -> Net:
        """The network of `spec` under `choices`, its adapters placed, on `tape` or one of its own."""
        tape = tape or Tape(Rules.of(choices))
        kept = choices
        if choices.gathers_narrow:  # layers run on 16-bit copies of whatever a rank keeps
            choices = replace(choices, precision="bf16-amp", adapter_dtype="bf16")
        net = cls(tape=tape, spec=spec, choices=choices, padded=padded, windowed=windowed)
        # Where DDP trains everything, gradients are made in its buckets, which are there from step to step.
        in_buckets = choices.num_gpus > 1 and choices.strategy == "ddp" and choices.method == "full"
        net.accumulating = choices.gradient_accumulation_steps > 1 or in_buckets
        net.targeted = {module.path: module.layers for module in adapter_modules(spec, choices)}
        net.saved = frozenset(module.path for module in saved_modules(spec, choices))
        net.itemsize = net.storage_itemsize = WEIGHT_BYTES[choices.precision]
        net.adapter_itemsize = FP32 if choices.adapter_dtype == "fp32" else HALF
        if choices.kbit_prepared == "stock":
            net.itemsize = FP32  # the stock k-bit preparation turns everything that is not 4-bit into fp32
        net.norm_itemsize = FP32 if choices.kbit_prepared == "norms" else net.itemsize
        net.fp32_paths = frozenset(spec.config.get("recorded", {}).get("fp32", ()))
        net.unquantized = frozenset(spec.config.get("recorded", {}).get("unquantized", ()))
        net.kept_itemsize, net.kept_adapter_itemsize = net.itemsize, net.adapter_itemsize
        if kept.gathers_narrow:
            # What trains is fp32 there, and frozen weights are as they were loaded.
            net.kept_itemsize = FP32 if kept.method == "full" else WEIGHT_BYTES[kept.precision]
            net.kept_adapter_itemsize = FP32
        facts = spec.facts
        net.separate_experts = choices.separate_experts and facts.experts is not None and facts.experts.were_modules
        net.check()
        net.by_path = {_short(module.path): module for module in spec.modules}
        net.by_path |= {module.path: module for module in spec.modules}
        with tape.scope("weights"):
            net.null = tape.new(ONE, 0, net.itemsize)
        return net

    def check(self) -> None:
        """Refuses what a stack's variants have no model for."""
        choices = self.choices
        liger.check(self.spec, choices)
        if choices.kbit_prepared == "norms" and (choices.precision != "bf16-amp" or choices.quantization == "int8"):
            raise unmodelled(
                named("kbit_preparation"), " norms but over 4-bit weights with ", named("precision"), " bf16-amp"
            )
        if choices.keep_cache:
            if not self.spec.facts.keeps_cache:
                raise unmodelled(named("keep_cache"), f" for {self.spec.architecture}")
            if choices.stack != "peft" or choices.loss != "full":
                raise unmodelled(named("keep_cache"), " but on ", named("stack"), " peft with ", named("loss"), " full")

    def config(self, key: str, default: object = None) -> object:
        """A key of the model's config."""
        return self.spec.config.get(key, default)

    # ---- parameters ------------------------------------------------------------------------------------------------

    def weight(self, elements: int, itemsize: int, *, trainable: bool) -> Weight:
        """A weight without bytes of its own (they stand in the blobs), with a gradient leaf where it trains."""
        assert self.null is not None
        weight = Weight.__new__(Weight)
        weight.tensor = self.null.alias(elements)
        weight.tensor.itemsize = itemsize
        weight.parameter = None
        if trainable:
            weight.parameter = Parameter(elements, itemsize)
            if self.accumulating:
                weight.parameter.grad = self.null.alias()
            weight.tensor.node = weight.parameter
            self.parameters.append(weight.parameter)
        return weight

    def stored_itemsize(self, module: Module) -> int:
        """Bytes per element of an unquantised module's weights."""
        if module.path in self.fp32_paths:
            return FP32
        return self.norm_itemsize if module.kind == "norm" else self.itemsize

    def frozen(self, tensor: Tensor) -> Weight:
        """`tensor` as a weight without a gradient."""
        weight = Weight.__new__(Weight)
        weight.tensor, weight.parameter = tensor.alias(), None
        return weight

    def graph_leaf(self, tensor: Tensor) -> Weight:
        """`tensor` as a new leaf that asks for a gradient though nobody trains it; the graph holds that."""
        weight = self.frozen(tensor)
        weight.parameter = Parameter(tensor.elements, tensor.itemsize, of_graph=True)
        weight.parameter.layer = self.tape.ledger.layer
        weight.tensor.node = weight.parameter
        self.leaves.append(weight.parameter)
        return weight

    @property
    def trains_base(self) -> bool:
        """Whether the base weights are trained (full fine-tuning)."""
        return self.choices.method == "full"

    def base_weight(self, elements: int, path: str | None = None, itemsize: int | None = None) -> Weight:
        """A weight of the base model; `path` where it may be trained in full beside adapters."""
        return self.weight(elements, itemsize or self.itemsize, trainable=self.trains_base or path in self.saved)

    # ---- modules ---------------------------------------------------------------------------------------------------

    def has_adapter(self, module: Module) -> bool:
        """Whether the module carries an adapter in the layer that runs now."""
        layers = self.targeted.get(module.path, ())
        return layers is None or self.index in layers

    def adapters_at(self, index: int) -> frozenset[str]:
        """Paths of the modules that carry an adapter in layer `index`."""
        return frozenset(path for path, layers in self.targeted.items() if layers is None or index in layers)

    def compute_itemsize(self, x: Tensor) -> int:
        """Bytes per element that 4-bit products run in: 16 bits unless the run is in fp32 throughout."""
        return FP32 if self.choices.precision == "fp32" else HALF

    def head_weight(self, path: str) -> Weight:
        """The weight of the output head; under `full` a tied head shares the embedding's gradient."""
        module = self.by_path[path]
        owner = module.tied_to or path
        if module.tied_to and (path in self.saved or owner in self.saved):
            owner = path  # a copy trained beside the adapters is tied no longer
        return self.shared_weight(owner, module.shape[0] * module.shape[1])

    def shared_weight(self, path: str, elements: int) -> Weight:
        """A base weight that several modules may use: one leaf for all of them."""
        weight = self.shared.get(path)
        if weight is None:
            weight = self.shared[path] = self.base_weight(elements, path)
        return weight

    def require_grad_of_inputs(self, x: Tensor) -> Tensor:
        """The embeddings' output, which needs a gradient under checkpointing even where the table is frozen.

        transformers switches that on (`enable_input_require_grads`), in an evaluation too; the gradient stays until the
        graph goes.
        """
        x.storage.leaf = x.node is None and self.choices.gradient_checkpointing
        if x.storage.leaf and self.tape.grad_enabled:
            self.input_gradients.append(x.alias())
            self.tape.sequence += 1
            x.node = Node(self.tape.sequence, (), (x.alias(),), self.input_gradients_kept)
        return x

    def input_gradients_kept(self, gradients: Gradients, saved: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Backward of the embeddings' output: keeps its gradient."""
        self.input_gradients.extend(g for g in gradients if g is not None)
        return ()

    @property
    def implementation(self) -> str:
        """The attention that runs: where an architecture refuses sdpa, transformers falls back to eager."""
        chosen = self.choices.attention
        return "eager" if chosen == "sdpa" and not self.spec.facts.sdpa else chosen

    # ---- attention -------------------------------------------------------------------------------------------------

    def prepare(self, head_dim: int, *, rotary: bool, wide_tables: bool = False) -> None:
        """The tensors that all layers share: masks, rotary tables (1, length, head_dim), in fp32 if `wide_tables`."""
        tape = self.tape
        with tape.scope("attention"):
            self._make_masks()
            if rotary:
                rows = self.positions
                frequencies = tape.new(rows, head_dim // 2, FP32)
                tape.ledger.product()
                table = tape.new(rows, head_dim, FP32)
                del frequencies
                wide_cos, wide_sin = tape.new(rows, head_dim, FP32), tape.new(rows, head_dim, FP32)
                width = FP32 if wide_tables else self.itemsize
                self.cos, self.sin = tape.new(rows, head_dim, width), tape.new(rows, head_dim, width)
                del table, wide_cos, wide_sin  # tidy

    @property
    def positions(self) -> int:
        """Monomial of the positions: one row for all, but one a row where packed rows bring their own."""
        return T if self.flat or self.choices.padding == "packed" else S

    @property
    def mask_rows(self) -> int:
        """Monomial of a boolean mask: a square for every row where a mask of the tokens comes with the batch, else one
        for all."""
        return SS if self.choices.padding == "packed" else BSS

    def _make_masks(self) -> None:
        """Masks as transformers 5 makes them (masking_utils.py): boolean for sdpa, and only where one is needed.

        The eager path always gets one in the model's dtype, made from a boolean one: a collator hands over an attention
        mask even where nothing is padded. Layers with a window get a mask of their own. Where none comes with
        the batch (packed rows), the boolean one is the same for all rows, and spread as a view.
        """
        tape, kind = self.tape, self.implementation
        if kind == "flash" or self.flat:
            return
        rows = self.mask_rows
        kinds = {index in self.spec.sliding_layers for index in range(self.spec.num_layers)}
        if self.spec.facts.full_mask_always:
            kinds.add(False)
        for sliding in sorted(kinds):
            if kind == "eager":
                boolean = tape.new(rows, 1, BYTE)
                mask = tape.new(BSS, 1, self.itemsize)
                del boolean
            elif self.padded or (sliding and self.windowed):
                mask = tape.new(rows, 1, BYTE)
            else:
                continue
            if sliding:
                self.window_mask = mask
            else:
                self.mask = mask

    def shared_tensors(self, index: int) -> Shared:
        """The mask and the rotary tables that layer `index` takes."""
        sliding = self.window_mask is not None and index in self.spec.sliding_layers
        mask, window_mask = (None, self.window_mask) if sliding else (self.mask, None)
        if self.window_tables and index in self.spec.sliding_layers:
            return mask, window_mask, None, None, tuple(self.window_tables)
        return mask, window_mask, self.cos, self.sin, ()

    def set_shared_tensors(self, shared: Shared) -> None:
        """Puts them back in place, or takes them away."""
        self.mask, self.window_mask, self.cos, self.sin, tables = shared
        self.window_tables[:] = tables

    def release(self) -> None:
        """The model's forward returns: its names are gone, masks and tables too but where a recomputation holds
        them.
        """
        self.named.clear()
        self.set_shared_tensors((None, None, None, None, ()))


def _short(path: str) -> str:
    """The path inside the layer (`self_attn.q_proj`), or the leaf path of a module outside the stack."""
    return path.split("{}.", 1)[1] if "{}." in path else path


def unmodelled(*what: str) -> NotModelled:
    """The refusal of something that has no program yet."""
    return NotModelled(*what, " is not modelled; no number is given rather than a guess")
