"""Which strategy the choices name."""

from __future__ import annotations

from planner.contract.choices import TrainingChoices
from trainer.distributed import supported
from trainer.distributed.alone import Alone
from trainer.distributed.world import World


def choose(choices: TrainingChoices, world: World) -> Alone:
    """The strategy that the choices name; raises NotModelled for what no process group can run."""
    if world.size == 1:
        return Alone(choices, world)
    supported.check(choices)
    if choices.strategy == "ddp":
        from trainer.distributed.replicated import Replicated

        return Replicated(choices, world)
    if choices.strategy == "zero2":
        from trainer.distributed.divided import Divided

        return Divided(choices, world)
    from trainer.distributed.sharded import Sharded

    return Sharded(choices, world)
