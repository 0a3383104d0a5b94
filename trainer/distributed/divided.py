"""ZeRO-2 through DeepSpeed: every process holds the whole model, and optimizer state and master weights in part.

DeepSpeed is told of the trained parameters only, not of the model: its engine then neither calls the model nor copies
or casts what is frozen. The passes are the trainer's own. Adapters' gradients are so small that they stay whole until
the step's last backward and are reduced once, so that a process recovers from an overflow by itself, as under DDP.
Where everything is trained, each bucket of gradients is reduced within the backward pass and 1/n of it kept: there
all processes make the same passes, and start again together where one runs out of memory, as under FSDP.

Source: DeepSpeed 0.19.8, runtime/engine.py and runtime/zero/stage_1_and_2.py, read 2026-11.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import Any

import torch

from planner.contract.choices import ZERO_BUCKET, TrainingChoices
from planner.contract.errors import NotModelled
from trainer import modeling
from trainer.distributed.alone import Alone
from trainer.distributed.world import World
from trainer.measure import devices

MASTER = "master"
"""Key of a checkpoint's optimizer file: fp32 copies of trained weights that are held in 16 bits."""


def config(choices: TrainingChoices, *, elements: int, dtype: torch.dtype) -> dict[str, object]:
    """DeepSpeed's configuration: what it would choose by itself and the planner counts on is written out.

    `elements`: trained elements; `dtype`: theirs. Micro-batches and accumulation are the trainer's: DeepSpeed sees one
    reduction and one update per step.
    """
    bucket = max(2, min(elements + elements % 2, ZERO_BUCKET))
    return {
        "train_micro_batch_size_per_gpu": choices.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": choices.max_grad_norm or 0.0,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "contiguous_gradients": False,
            "overlap_comm": False,
            # A part then grows evenly while the backward pass goes through the layers.
            "round_robin_gradients": True,
        },
        "steps_per_print": 2**31,
    }


class Divided(Alone):
    """`deepspeed.initialize` over the trained parameters, with the trainer's optimizer as client optimizer."""

    whole_state = False
    updates_alone = False
    reduces_in = "optimizer"

    def __init__(self, choices: TrainingChoices, world: World) -> None:
        super().__init__(choices, world)
        self.recovers = choices.method != "full"
        self.engine: Any = None
        self.groups: list[list[torch.nn.Parameter]] = []
        """The optimizer's groups of parameters, before each became one flat tensor."""
        self._passes = contextlib.ExitStack()
        self._open = False

    # ---- preparing -------------------------------------------------------------------------------------------------

    def before_optimizer(self, model: Any, device: torch.device) -> None:
        model._is_accelerate_prepared = True
        # accelerate puts autocast around a model that it wraps itself; here it is done as on one device.
        modeling.wrap_forward(model, modeling.autocast_dtype(self.choices), device.type)

    def optimizer(
        self, made: torch.optim.Optimizer, failed: Callable[[bool], None], strike: Callable[[], None]
    ) -> torch.optim.Optimizer:
        self.groups = [list(group["params"]) for group in made.param_groups]
        parameters = [parameter for group in self.groups for parameter in group]
        kinds = {parameter.dtype for parameter in parameters}
        if len(kinds) > 1:
            named = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            raise NotModelled(f"--strategy zero2 with trained weights of several types ({named}) isn't trained")
        elements = sum(parameter.numel() for parameter in parameters)
        self.engine = initialize(
            parameters, made, config(self.choices, elements=elements, dtype=kinds.pop()), self.world
        )
        return DividedUpdate(self, made, failed, strike)

    # ---- a step ----------------------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """From here to the reduction an adapter's gradients are left where backward puts them."""
        if not self.recovers:
            self.engine.set_gradient_accumulation_boundary(False)
        elif not self._open:
            self._passes.enter_context(self.engine.coalesce_grad_reduction())
            self._open = True

    def backward(self, accelerator: Any, loss: torch.Tensor) -> None:
        if self.recovers:
            accelerator.backward(loss)
        else:
            self.engine.backward(loss)

    def reduce(self, wrapped: torch.nn.Module) -> None:
        if not self.recovers:
            # Every pass was reduced; DeepSpeed now puts this process's part together.
            self.engine.set_gradient_accumulation_boundary(True)
            self.engine.optimizer.finalize_gradient_accumulation_boundary()
            return
        # A parameter that another process's loss reached takes part with zeros; one that none reached, nowhere.
        parameters = [parameter for group in self.groups for parameter in group]
        reached = self.world.table([float(p.grad is not None) for p in parameters]).sum(dim=0)
        for parameter, count in zip(parameters, reached.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._open = False
        self._passes.close()

    def norm(self) -> float | None:
        """Parameters hold no gradient any more; each process has the sum of its part."""
        value = float(self.engine.optimizer.scaled_global_norm())
        return math.inf if value < 0 else value  # it says -1 where a gradient isn't finite

    # ---- whole tensors ---------------------------------------------------------------------------------------------

    def whole_optimizer(self, optimizer: torch.optim.Optimizer) -> dict[str, object]:
        """As one process's optimizer would save itself, and master weights; on rank 0."""
        zero = self.engine.optimizer
        inner: torch.optim.Optimizer = zero.optimizer
        held = inner.state_dict()
        state: dict[int, dict[str, object]] = {}
        masters: list[torch.Tensor] = []
        packed, number = [], 0
        for index, (group, flat) in enumerate(zip(self.groups, zero.single_partition_of_fp32_groups, strict=True)):
            numbers = list(range(number, number + len(group)))
            packed.append({**held["param_groups"][index], "params": numbers})
            number += len(group)
            for key, value in inner.state.get(flat, {}).items():
                if torch.is_tensor(value) and value.shape == flat.shape:
                    values: list[Any] = self._whole(value, index)
                else:
                    # A step counter of its own for each: an optimizer counts in place.
                    values = [value.clone() if torch.is_tensor(value) else value for _ in group]
                for each, of in zip(numbers, values, strict=False):
                    state.setdefault(each, {})[key] = of
            if group[0].dtype != flat.dtype:
                masters += self._whole(flat.detach(), index)
        return {"state": state, "param_groups": packed, **({MASTER: masters} if masters else {})}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> None:
        zero = self.engine.optimizer
        inner: torch.optim.Optimizer = zero.optimizer
        state: dict[int, dict[str, object]] = {}
        settings, number = [], 0
        for index, (group, flat) in enumerate(zip(self.groups, zero.single_partition_of_fp32_groups, strict=True)):
            numbers = range(number, number + len(group))
            number += len(group)
            known = [held["state"].get(each, {}) for each in numbers]
            for key, value in next((each for each in known if each), {}).items():
                if torch.is_tensor(value) and value.dim():
                    # A parameter that no loss reached has no state where it isn't part of a flat tensor.
                    wholes = [
                        each[key] if key in each else torch.zeros(parameter.shape)
                        for each, parameter in zip(known, group, strict=True)
                    ]
                    state.setdefault(index, {})[key] = self._part(wholes, index, flat)
                else:
                    state.setdefault(index, {})[key] = value
            settings.append({**held["param_groups"][index], "params": [index]})
            if MASTER in held and group[0].dtype != flat.dtype:
                flat.data.copy_(self._part([held[MASTER][each] for each in numbers], index, flat))
        inner.load_state_dict({"state": state, "param_groups": settings})

    def _whole(self, part: torch.Tensor, index: int) -> list[torch.Tensor]:
        """Of every process's part of a group's flat tensor the group's tensors, on rank 0's cpu; elsewhere nothing."""
        flat = torch.empty(self.world.size * part.numel() if self.world.main else 0, dtype=part.dtype)
        for rank in range(self.world.size):
            buffer = part if rank == self.world.rank else torch.empty_like(part)
            torch.distributed.broadcast(buffer, src=rank)
            if self.world.main:
                flat[rank * part.numel() : (rank + 1) * part.numel()] = buffer.cpu()
            del buffer
        if not self.world.main:
            return []
        group, places = self.groups[index], self._places(index)
        return [flat.narrow(0, place, p.numel()).view(p.shape) for place, p in zip(places, group, strict=True)]

    def _part(self, wholes: list[torch.Tensor], index: int, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a group's tensors; what belongs to none is zero."""
        flat = torch.zeros(self.world.size * like.numel(), dtype=like.dtype)
        for place, whole in zip(self._places(index), wholes, strict=True):
            flat.narrow(0, place, whole.numel()).copy_(whole.reshape(-1))
        return flat[self.world.rank * like.numel() :][: like.numel()].to(like.device, copy=True)

    def _places(self, index: int) -> list[int]:
        """Where each parameter of a group begins in the group's flat tensor: DeepSpeed deals them out to the parts."""
        flat = self.engine.optimizer.bit16_groups_flat[index]
        return [(p.data_ptr() - flat.data_ptr()) // p.element_size() for p in self.groups[index]]

    def kept(self) -> list[torch.Tensor]:
        return [] if self.engine is None else list(self.engine.optimizer.single_partition_of_fp32_groups)


class DividedUpdate(torch.optim.Optimizer):
    """What the loop, the schedule and accelerate take for the optimizer: its step is DeepSpeed's.

    An update that ran out of memory may be half made, and the others wait for its weights: all start again.
    """

    def __init__(
        self, divided: Divided, inner: torch.optim.Optimizer, failed: Callable[[bool], None], strike: Callable[[], None]
    ) -> None:
        # Groups and state are the inner optimizer's, as in accelerate's wrapper; none are made here.
        self.divided, self.inner, self.failed, self.strike = divided, inner, failed, strike

    @property
    def param_groups(self) -> object:  # type: ignore[override]
        return self.inner.param_groups

    @property
    def state(self) -> object:  # type: ignore[override]
        return self.inner.state

    @property
    def defaults(self) -> object:  # type: ignore[override]
        return self.inner.defaults

    def state_dict(self) -> Any:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.inner.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.divided.engine.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        try:
            self.strike()
            self.divided.engine.step()
            return
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
        self.failed(False)


def initialize(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, settings: dict[str, object], world: World
) -> object:
    """DeepSpeed's engine over these parameters, in the process group that is there."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if parameters[0].device.type == "cpu":
        # gloo does what DeepSpeed would otherwise compile C++ for, at the first start and for a minute and a half.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    trained = torch.nn.Module()
    for number, parameter in enumerate(parameters):
        trained.register_parameter(f"p{number}", parameter)
    engine, *_ = deepspeed.initialize(model=trained, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine
