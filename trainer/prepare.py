"""Everything of a run but the run: data, model with adapters, loop; for the finder and the dry run.

Uses the run's own pieces in the run's order, so that what they measure is what will be trained.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from planner.records import Hyperparameters, Plan
from planner.spec import TrainingChoices
from trainer.control import Control
from trainer.events import EventStream
from trainer.request import Request, read_choices, read_plan
from trainer.run import Run


@dataclasses.dataclass(slots=True)
class Prepared:
    """What a run would start with."""

    plan: Plan
    choices: TrainingChoices
    device: Any
    task: Any
    tokenizer: Any
    train: Any
    """TokenizedData of the training examples."""
    model: Any
    meter: Any
    run: Run


class Silent(EventStream):
    """Events of a preparation are nobody's business; warnings still reach the log."""

    def __init__(self) -> None:
        import io

        super().__init__(io.StringIO())


def prepare(plan_file: Path, *, data: str | None, device: str, work: Path, **changes: Any) -> Prepared:
    """Loads what the plan names. `changes` replace fields of the choices; `work` is a folder for temporary files."""
    request = Request(plan=plan_file, data=data, device=device)
    plan = read_plan(request)
    choices = dataclasses.replace(read_choices(plan, str(plan_file)), **changes)
    from trainer.events import quiet

    quiet()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from trainer import devices, loading, modeling, tasks
    from trainer.instants import StepMeter

    events = Silent()
    run = Run(request=request, plan=plan, choices=choices, run_dir=work, events=events, control=Control(events))
    chosen = devices.choose("cpu" if plan.gpu == "cpu" else device)
    devices.check_precision(chosen, choices.precision, choices.method, choices.adapter_dtype)
    run.device = chosen
    run.config = loading.read_config(plan.model)
    loading.check_config(plan, run.config)
    tokenizer = loading.load_tokenizer(plan.model)
    run.task = tasks.choose(run.config, plan.data)
    run.task.check(choices)
    train, _, _ = run.prepare_data(tokenizer)
    seed = plan.hyperparameters.seed
    transformers.set_seed(seed)
    meter = StepMeter(chosen)
    meter.begin("load")
    model = loading.load_model(plan, choices, run.config, device=str(chosen), seed=seed, task=run.task)
    run.check_positions(model)
    if choices.method == "qlora":
        model = modeling.quantize(model, choices)
        modeling.prepare_kbit(model, choices)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    model = modeling.attach_adapters(model, choices)
    if choices.method == "qlora":
        model.get_base_model().is_quantized = False
    modeling.apply_checkpointing(model, choices)
    modeling.use_loss_version(model, choices)
    modeling.watch_loss(model, meter.loss_begins)
    meter.end()
    return Prepared(plan, choices, chosen, run.task, tokenizer, train, model, meter, run)


def make_loop(
    prepared: Prepared, work: Path, hyperparameters: Hyperparameters, *, cls: Any, callbacks: list[Any]
) -> Any:
    """A loop over the training data that neither evaluates nor saves."""
    return cls(
        model=prepared.model,
        tokenizer=prepared.tokenizer,
        run_dir=work,
        choices=prepared.choices,
        hyperparameters=hyperparameters,
        train=prepared.train,
        validation=None,
        device=prepared.device,
        meter=prepared.meter,
        identity={},
        callbacks=callbacks,
        task=prepared.task,
    )
