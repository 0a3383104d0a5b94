"""Options in groups: on which device, which model, with which data, to what end; and how a plan is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from planner.cli.options import complete_gpu, complete_model, complete_values, option
from planner.contract.run_settings import DataSettings
from planner.decide.advice_sources import SCENARIOS
from planner.decide.question import GOALS, TIER_NAMES

GPU_HELP = "Device by name or alias (plan gpus); auto: this machine's."
DATA_HELP = "JSONL, JSON, CSV or parquet file, or a folder of them."
DEVICE_HELP = "auto, cuda, mps or cpu."
JSON_HELP = "One JSON object on stdout instead of a report."
FORMATS: tuple[str, ...] = get_args(DataSettings.model_fields["format"].annotation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is trained where, and how."""

    gpu: str | None = option(GPU_HELP, complete=complete_gpu)
    model: str | None = option(
        "Catalogue name, hub id, config.json or a folder that holds one. Default phi-2.", complete=complete_model
    )
    reserve: str | None = option("Memory to leave free, as 2, 1.5GiB or 512MiB (a bare number is GiB).")
    settings: Mapping[str, object] = field(default_factory=dict)
    """Training choices by name; None is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the examples come from and how they are read."""

    data: str | None = option(DATA_HELP, metavar="PATH")
    format: str = option(
        f"Shape of the examples: {', '.join(FORMATS)} (the chosen answers of pairs).",
        default="auto",
        complete=complete_values(FORMATS),
    )
    columns: list[str] | None = option("Other column names, as role=name (prompt=question).", metavar="ROLE=NAME")
    skip_invalid: bool = option(
        "Leave invalid examples out, and say how many, instead of stopping.", "--skip-invalid", default=False
    )
    validation_split: float | None = option("Share of the examples that validates. Default 0.1, less for large data.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """Another trainer's file that the settings come from."""

    files: list[str] | None = option(
        "Another trainer's file (Axolotl, LLaMA-Factory, TRL, Unsloth, LitGPT, torchtune, mlx-lm); again for "
        "accelerate's or DeepSpeed's config beside it.",
        "--from",
        metavar="FILE",
    )
    tool: str | None = option("Whose file it is, where its keys don't tell.", "--from-tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one optimizer step learns from."""

    effective_batch_size: int | None = option(
        "Sequences per optimizer step over all devices. Default 16, fewer where data would make under 100 steps."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim(Batch):
    """What a recommendation is for."""

    goal: str | None = option(
        "Which tier is recommended: fastest, balanced (default) or safest.", complete=complete_values(GOALS)
    )
    tier: str | None = option(
        f"Recommend this tier: {', '.join(TIER_NAMES)}; on an A10G or M3 the guides' own stands beside it.",
        complete=complete_values(TIER_NAMES),
    )
    scenario: str = option(
        f"The guides' presets: {', '.join(SCENARIOS)}.", default="standard", complete=complete_values(SCENARIOS)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeLimit:
    """How long the run may take."""

    time: str | None = option(
        "Time for the whole run, as 30m, 2h, 1h30m or 3d: what can be done in it is planned, and what was cut said."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a plan is trained."""

    data: str | None = option(DATA_HELP, metavar="PATH")
    skip_invalid: bool = option(
        "Leave invalid examples out, and say how many, instead of stopping.", "--skip-invalid", default=False
    )
    output: str | None = option("Run folder. Default runs/<time>-<model>.", metavar="FOLDER")
    resume: bool = option("Go on from the newest good checkpoint.", "--resume", default=False)
    adapter: str | None = option("Start from this adapter (PEFT format) instead of a new one.", metavar="FOLDER")
    dry_run: bool = option(
        "One longest batch only: measured peak beside the predicted one.", "--dry-run", default=False
    )
    device: str = option(DEVICE_HELP, default="auto")
    as_json: bool = option("The trainer's events as JSON lines.", "--json", default=False)
