"""Checkpoints of a training loop and the result of a run: whole or not at all, as PEFT and transformers write them."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.run_settings import Hyperparameters
from planner.contract.shown import clause
from trainer import modeling
from trainer.distributed.alone import Alone
from trainer.distributed.world import World, is_lost_connection
from trainer.loop.inputs import Listeners
from trainer.measure import devices
from trainer.measure.instants import StepMeter
from trainer.recovery import checkpoints, state_files
from trainer.recovery.pieces import Recovery
from trainer.recovery.symptoms import WINDOW, is_due
from trainer.tasks import Task
from trainer.tasks.base import with_task_file
from trainer.weights import adapter_files
from trainer.wire.files import disk_problem, set_aside, whole_folder, write_manifest
from trainer.wire.folder import is_ours

OPTIMIZER, SCHEDULER, SCALER, RANDOM = "optimizer", "scheduler", "scaler", "random"
"""Names of `state_files` in a checkpoint; of several processes each has a `RANDOM` with its number."""
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "state1", "state2")
"""What an optimizer keeps in the shape of its parameter."""


class Saving(transformers.Trainer):
    """The part of `LoopTrainer` that writes checkpoints and reads them.

    Of several processes the first writes. A checkpoint holds whole tensors, however they were divided, so that a run
    goes on from it with any strategy.
    """

    model: Any
    args: Any
    state: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any
    choices: TrainingChoices
    hyperparameters: Hyperparameters
    identity: dict[str, Any]
    meter: StepMeter
    recovery: Recovery
    strategy: Alone
    task: Task
    world: World
    listeners: Listeners

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a whole checkpoint or none: temporary folder, manifest with hashes, fsync, rename, then rotation."""
        self.store_flos()
        run_dir = Path(self.args.output_dir)
        step = self.state.global_step
        final = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        self.listeners.announce("save")
        self.meter.begin("save")
        weights, optimizer = self.whole_weights(), self.strategy.whole_optimizer(self.optimizer)
        numbers = self._random_numbers()
        if not self.world.main:
            self.meter.end()
            self.listeners.announce("train")
            return
        try:
            if final.exists() and not is_ours(final):
                set_aside(final)  # somebody put it there while the run went on
            with whole_folder(final) as folder:
                self._save(str(folder), weights)
                state_files.write(folder, OPTIMIZER, self._named(optimizer))
                state_files.write(folder, SCHEDULER, self.lr_scheduler.state_dict())
                scaler = getattr(self.accelerator, "scaler", None)
                if scaler is not None:
                    state_files.write(folder, SCALER, scaler.state_dict())
                for rank, own in enumerate(numbers):
                    state_files.write(folder, self._random_name(rank), own)
                if self.state.best_global_step:
                    best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
                    if best.exists() or self.state.best_global_step == step:
                        self.state.best_model_checkpoint = str(best)
                self._note_callback_states()
                self.state.log_history = needed_history(self.state.log_history, self.hyperparameters)
                best_so_far = self.state.best_model_checkpoint
                self.state.best_model_checkpoint = None  # a whole path, where the folder may be moved
                self.state.save_to_json(str(folder / "trainer_state.json"))
                self.state.best_model_checkpoint = best_so_far
                checkpoints.write_identity(
                    folder,
                    {
                        **self.identity,
                        "recovery": self.recovery.state(),
                        "processes": self.world.size,
                        "best": Path(best_so_far).name if best_so_far else None,
                    },
                )
                write_manifest(folder)
        except Exception as error:
            problem = disk_problem(error, run_dir)
            if problem is None:
                raise
            good = checkpoints.last_good(run_dir)
            kept = f"the last good checkpoint is {good}" if good else "no earlier checkpoint exists"
            raise RunFailed(f"checkpoint of step {step} could not be written: {problem}; {kept}") from error
        finally:
            self.meter.end()
        checkpoints.rotate(run_dir, self.hyperparameters.save_total_limit, self.state.best_model_checkpoint)
        self.listeners.announce("train")

    def _note_callback_states(self) -> None:
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name = type(callback).__name__
                if isinstance(self.state.stateful_callbacks.get(name), list):
                    self.state.stateful_callbacks[name].append(callback.state())
                else:
                    self.state.stateful_callbacks[name] = callback.state()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Adapters in PEFT's format (or the whole model under `full`) with the tokenizer."""
        folder = Path(output_dir or self.args.output_dir)
        save_trained(self.model, self.processing_class, folder, self.task, state_dict)

    # ---- whole tensors ---------------------------------------------------------------------------------------------

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """What is trained, gathered on rank 0; None where this process holds it whole anyway. All processes call it."""
        if self.strategy.whole:
            return None
        self.strategy.divide(self.model)
        named = dict(self.model.named_parameters())
        if self.choices.method == "full":
            kept = self.model.state_dict().keys()
            named |= {name: buffer for name, buffer in self.model.named_buffers() if name in kept}
        else:
            named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        found = {name: self.strategy.full(tensor.detach()) for name, tensor in named.items()}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        planned = [_options(group) for group in self.optimizer.param_groups]
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)  # of accelerate's wrapper
        rates = list(scheduler.base_lrs)
        with _fitting(checkpoint):
            held = self._numbered(state_files.read(Path(checkpoint), OPTIMIZER), checkpoint)
            self.strategy.load_optimizer(self.optimizer, held)
            was, own = state_files.read(Path(checkpoint), SCHEDULER), scheduler.state_dict()
            # It would keep whatever it is given under any name.
            self.lr_scheduler.load_state_dict({key: was[key] for key in own if type(was[key]) is type(own[key])})
            self._plan_again(scheduler, planned, rates)

    def _trained_names(self) -> list[str]:
        """Names of the trained parameters, in the order of the optimizer's groups."""
        known = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [known[id(p)] for group in modeling.parameter_groups(self.model, 0.0) for p in group["params"]]

    def _named(self, optimizer: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state with the names of the parameters for their numbers."""
        names = self._trained_names()
        state = {names[number]: values for number, values in optimizer["state"].items()}
        return {**optimizer, "state": state, "parameters": names}

    def _numbered(self, held: dict[str, Any], checkpoint: str) -> dict[str, Any]:
        """The state as the optimizer takes it. Raises InvalidInput where other parameters were trained."""
        names = self._trained_names()
        was = held.pop("parameters")
        if was != names:
            odd = next(
                iter([name for name in was if name not in names] + [name for name in names if name not in was]), ""
            )
            raise InvalidInput(
                f"{checkpoint}: {len(was)} tensors were trained and {len(names)} are now (first that differs: {odd}); "
                "resume with the plan that wrote it"
            )
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        for name, values in held["state"].items():
            for key, value in _tensors_of(values):
                # Kernels take it that moments are as large as their parameter.
                if key in MOMENTS and tuple(value.shape) != tuple(shapes[name]):
                    raise InvalidInput(f"{checkpoint}: {key} of {name} has the shape {tuple(value.shape)}")
        number = {name: index for index, name in enumerate(names)}
        return {**held, "state": {number[name]: values for name, values in held["state"].items()}}

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None and state_files.exists(Path(checkpoint), SCALER):
            with _fitting(checkpoint):
                scaler.load_state_dict(state_files.read(Path(checkpoint), SCALER))

    def _plan_again(self, scheduler: Any, planned: list[dict[str, Any]], rates: list[float]) -> None:
        """The plan's rate, decay and momenta instead of the checkpoint's: a plan that was changed since then holds.

        Where nothing was changed these are the same numbers. The moments and the step stay the checkpoint's.
        """
        groups = self.optimizer.param_groups
        if len(groups) != len(planned):
            return
        scheduler.base_lrs = rates
        for group, options in zip(groups, planned, strict=True):
            group |= {name: value for name, value in options.items() if name in group}
        for group, rate, factor in zip(groups, rates, scheduler.lr_lambdas, strict=True):
            group["lr"] = rate * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in groups]

    # ---- random numbers --------------------------------------------------------------------------------------------

    def _random_name(self, rank: int) -> str:
        return RANDOM if self.world.size == 1 else f"{RANDOM}-{rank}"

    def _random_numbers(self) -> list[dict[str, Any]]:
        """Every process's random state, on each."""
        kind, keys, *rest = np.random.get_state()
        own: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": (kind, torch.from_numpy(np.array(keys, dtype=np.int64)), *rest),
            "cpu": torch.get_rng_state(),
        }
        device = self.args.device.type
        if device in ("cuda", "mps"):
            own[device] = getattr(torch, device).get_rng_state()
        return self.world.objects(own)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder, name = Path(checkpoint), self._random_name(self.world.rank)
        if checkpoints.processes(folder) != self.world.size or not state_files.exists(folder, name):
            # Other processes wrote it: no state is this one's, but all must draw other numbers.
            torch.manual_seed(hash((self.hyperparameters.seed, self.state.global_step, self.world.rank)) % 2**63)
            return
        with _fitting(checkpoint):
            own = state_files.read(folder, name)
            random.setstate(own["python"])
            kind, keys, *rest = own["numpy"]
            np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
            torch.set_rng_state(own["cpu"])
            device = self.args.device.type
            if device != "cpu" and device in own:
                getattr(torch, device).set_rng_state(own[device])

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights are copied into the existing parameters, which keep their dtype, before the model is divided."""
        if self.choices.method == "full":
            modeling.copy_weights(self.model, resume_from_checkpoint)
            return
        adapter_files.copy_into(
            self.model,
            adapter_files.read_weights(Path(resume_from_checkpoint)),
            resume_from_checkpoint,
            "holds other adapter tensors than this plan trains; resume with the plan that wrote it",
        )


@contextlib.contextmanager
def _fitting(checkpoint: str) -> Iterator[None]:
    """A state that isn't what this program writes becomes one line."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        if devices.is_out_of_memory(error) or is_lost_connection(error):
            raise
        reason = clause(str(error) or type(error).__name__)
        raise InvalidInput(f"{checkpoint}: its state doesn't fit this run: {reason}") from error


def _tensors_of(values: dict[str, object]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of one parameter's state, also those that bitsandbytes wraps once more."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _tensors_of(value)
        elif isinstance(value, torch.Tensor):
            yield key, value


def _options(group: dict[str, object]) -> dict[str, object]:
    """What the plan says of a group of parameters; not its parameters, nor the rate that the schedule makes."""
    return {name: group[name] for name in ("initial_lr", "weight_decay", "betas", "eps") if name in group}


def save_trained(
    model: Any,
    tokenizer: Any,
    folder: Path,
    task: Task | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """What was trained, in safetensors, with the tokenizer beside it; `weights` where the model holds only parts."""
    given: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    if hasattr(model, "peft_config"):
        # Without `False` PEFT asks the hub whether the vocabulary was resized; it never is here.
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **given)
        _in_order(folder / "adapter_config.json")
    else:
        inner = getattr(model, "_orig_mod", model)
        inner.save_pretrained(folder, **given)
    tokenizer.save_pretrained(folder)
    if task is not None:
        with_task_file(folder, task)


def _in_order(config: Path) -> None:
    """PEFT writes its sets in the order of their hashes, another one in each process: equal runs write equal files."""
    content = json.loads(config.read_text(encoding="utf-8"))
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            content[key] = sorted(value)
    config.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


STEPS_NEEDED, EVALUATIONS_NEEDED = 200, 200
"""Entries of the log that a checkpoint carries: what a resumed run looks back at, however long the run was."""


def needed_history(history: list[dict[str, Any]], hyperparameters: Hyperparameters) -> list[dict[str, Any]]:
    """What early stopping and the watch for symptoms need of the log: its beginning, its end, and the evaluations since
    the last one that counted as better.

    The whole log is in events.jsonl; in every checkpoint it would make saving slower as the run gets longer.
    """
    after = [place for place, entry in enumerate(history) if "eval_loss" in entry and entry.get("step", 0) > 0]
    tested = [place for place in after if is_due(history[place])]
    before = [place for place, entry in enumerate(history) if "eval_loss" in entry and entry.get("step", 0) == 0]
    steps = [place for place, entry in enumerate(history) if "loss" in entry]
    rest = [place for place, entry in enumerate(history) if "loss" not in entry and "eval_loss" not in entry]
    keep = {*before[:1], *steps[:WINDOW], *steps[-STEPS_NEEDED:], *rest[-WINDOW:]}
    best, since = math.inf, 0
    for number, place in enumerate(tested):
        if history[place]["eval_loss"] < best - hyperparameters.early_stopping_threshold:
            best, since = history[place]["eval_loss"], number
    last = max(EVALUATIONS_NEEDED, hyperparameters.early_stopping_patience)
    keep |= {*tested[since : since + 1], *tested[since + 1 :][-last:]}
    if after:
        keep.add(min(after, key=lambda place: history[place]["eval_loss"]))
    return [history[place] for place in sorted(keep)]


def copy_trained(source: Path, destination: Path) -> None:
    """The loadable part of a checkpoint (no optimizer, no trainer state) under its final name, whole."""
    private = {"trainer_state.json", checkpoints.IDENTITY, "manifest.json"}
    private |= {file for name in (OPTIMIZER, SCHEDULER, SCALER, RANDOM) for file in state_files.names(name)}
    with whole_folder(destination) as folder:
        for file in source.iterdir():
            plain = stat.S_ISREG(file.lstat().st_mode)
            if plain and file.name not in private and not file.name.startswith(f"{RANDOM}-"):
                shutil.copy2(file, folder / file.name)
