"""FSDP2: weights, gradients and optimizer state are divided among the processes; a layer is whole while it is used.

Each layer is a unit, and so are the input embeddings where no other module shares them. What stands outside (last norm,
vocabulary head) is one more, whole from the forward pass to the end of the backward pass. Every pass exchanges weights,
so all processes make the same passes at the same time: where one runs out of memory, all start again from the last
checkpoint with half the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainer import modeling
from trainer.distributed.alone import Alone
from trainer.distributed.gloo import prompt_exchanges
from trainer.distributed.replicated import calling


class Sharded(Alone):
    """`fully_shard` on each layer and on the rest.

    accelerate, which would shard by units of its own and only on GPUs, is told that the model is prepared: its units
    take the vocabulary head apart from the model, and the chunked loss reads the head's weight without calling it.
    """

    recovers = False
    whole = False
    whole_state = False

    def before_optimizer(self, model: Any, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.world.size,))
        units = list(modeling.checkpointable_layers(model))
        embeddings = modeling.base_model(model).get_input_embeddings()
        weight = getattr(embeddings, "weight", None)
        named = list(modeling.base_model(model).named_parameters(remove_duplicate=False))
        if weight is not None and sum(parameter is weight for _, parameter in named) == 1:
            units.append(embeddings)
        for unit in units:
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        if device.type == "cpu":
            for unit in (*units, model):
                prompt_exchanges(unit)
        model._is_accelerate_prepared = True
        # accelerate puts autocast around a model that it wraps itself; here the weights are cast as on one device.
        modeling.wrap_forward(model, modeling.autocast_dtype(self.choices), device.type)

    def accumulates(self, model: Any, last: bool) -> None:
        # Adapters' gradients are so small that they are reduced once a step; all weights' would no longer be divided.
        model.set_requires_gradient_sync(last or self.choices.method == "full")

    def divide(self, model: torch.nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.reshard()

    def inside(self, model: torch.nn.Module, function: Callable[[], object]) -> object:
        with calling(model, function):
            return model()

    def full(self, tensor: torch.Tensor) -> torch.Tensor | None:
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return whole.cpu() if self.world.main else None

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if not hasattr(like, "full_tensor"):
            return whole
        from torch.distributed.tensor import distribute_tensor

        same: Any = like
        return distribute_tensor(whole.to(same.device), same.device_mesh, same.placements)
