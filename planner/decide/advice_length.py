"""How long and in which rhythm: epochs, batch, schedule, warm-up, evaluations, early stopping.

Nothing here jumps: where a value falls with the number of examples or steps it does so step by step.
"""

from __future__ import annotations

import math

from planner.contract.records import Advice
from planner.contract.sentence import joined, named, sentence
from planner.contract.units import counted, format_duration
from planner.decide import advice_sources as src
from planner.decide.advice_case import FEW_STEPS, MOST_PASSES, USUAL_PASSES, AdviceCase
from planner.decide.advice_sources import sources

VALIDATION_SPLIT = 0.1
"""Share of the examples that validates (training guides 1 and 3)."""
VALIDATION_EXAMPLES = 2_000
"""More than so many only cost time: the loss's standard error falls with their square root."""
WARMUP = ((1_000, 0.1), (10_000, 0.03))
"""(optimizer steps, share that warms up): guide 4's ends, a power of the steps between them."""
SMALL_BATCH_WORDS = "small batches learn as well while each has its rate"


def epochs(case: AdviceCase) -> Advice:
    """Passes over the data."""
    value, source = case.epochs, sources(src.UNSLOTH, src.FACTORY, src.GUIDE_4)
    guides = "guide 1: 20; guide 4: 5 to 10 below 1,000 examples, 3 to 5 to 100,000, 1 to 3 beyond"
    spread = "LLaMA-Factory 3, Unsloth 1 to 3, Axolotl 1 to 4"
    if case.max_steps is not None:
        rule = f"at most {value:g}; the time that was given ends it after {counted(case.max_steps, 'step')}"
    elif case.data is None:
        rule = "3; with data, as many more as 100 optimizer steps ask for"
        if case.scenario.epochs is not None:
            rule = f"{case.scenario.title}: {value:g}"
    elif case.scenario.epochs is not None and value == case.scenario.epochs:
        rule = f"{case.scenario.title}: {value:g}, {case.steps} optimizer steps"
    elif value > USUAL_PASSES:
        rule = (
            f"{value:g} instead of {USUAL_PASSES}: {case.data.examples} examples make {case.steps_per_epoch} steps an "
            "epoch; stopped early where validation stops improving"
        )
    else:
        rule = f"3 passes over {case.data.examples:,} examples, {case.steps:,} optimizer steps; validation decides"
    if case.steps is not None and case.steps < FEW_STEPS and case.data is not None:
        rule += sentence(". ", too_short(case))
    return Advice(name="epochs", value=value, rule=rule, source=source, spread=spread, guides=guides)


def too_short(case: AdviceCase) -> str:
    """What to do about a run of fewer than 100 optimizer steps."""
    steps, batch = case.steps or 0, case.choices.effective_batch_size
    ways: list[str] = []
    if batch > 1:
        smaller = max(1, batch * steps // FEW_STEPS)
        ways.append(named("effective_batch_size") + f" {smaller}")
    if case.epochs < MOST_PASSES and case.max_steps is None:
        ways.append(f"up to {MOST_PASSES} epochs")
    assert case.data is not None
    if case.max_steps is not None:
        few = f"{counted(steps, 'step')} {'is' if steps == 1 else 'are'} too few to learn much: "
        return few + joined(", or ", [*ways, "more time"])
    wanted = math.ceil(FEW_STEPS * batch / case.epochs / (1 - VALIDATION_SPLIT))
    ways.append(
        f"{wanted:,} examples instead of {case.data.examples:,}" if wanted > case.data.examples else "more data"
    )
    return f"{steps} steps are too few to learn much: " + joined(", or ", ways)


def effective_batch(case: AdviceCase) -> Advice:
    """Sequences per optimizer step."""
    now, most = case.choices.effective_batch_size, case.scenario.effective_batch_size
    steps = case.steps
    rule = f"{now}: {SMALL_BATCH_WORDS}, and adapters bear large ones worse than full training"
    if steps is not None and now < most:
        rule = f"{now} instead of {most}, so that the data makes {steps} optimizer steps; {SMALL_BATCH_WORDS}"
    elif steps is not None:
        rule = f"{now}, {steps:,} optimizer steps in all; {SMALL_BATCH_WORDS}"
    if steps is not None and steps < FEW_STEPS and now > 1:
        rule += sentence(
            f"; {steps} steps are few, ",
            named("effective_batch_size"),
            f" {max(1, now * steps // FEW_STEPS)} makes more",
        )
    return Advice(
        name="effective_batch_size",
        value=now,
        rule=rule,
        source=sources(src.SMALL_BATCH, src.REGRET, src.UNSLOTH, src.AXOLOTL),
        spread="Unsloth 8, Axolotl 4 to 8, LLaMA-Factory 8, TRL 16",
        guides="guides 1, 3 and 4: 32 to 128",
    )


def scheduler(case: AdviceCase) -> Advice:
    """How the rate falls."""
    return Advice(
        name="scheduler",
        value="cosine",
        rule="cosine down to a tenth of the first rate; linear to 0 does as well, step decay is the least stable",
        source=sources(src.GUIDE_3, src.GUIDE_5, src.TINKER),
        spread="Unsloth and Tinker linear to 0, the others cosine",
        guides="guide 4: linear for short runs, constant for very short ones",
    )


def warmup(case: AdviceCase) -> Advice:
    """Share of the steps over which the rate rises."""
    steps = case.steps
    value = warmup_share(steps)
    rule = "0.1 while the number of steps is unknown: too long costs little, too short can cost the run"
    if steps is not None:
        rule = f"{max(1, round(value * steps))} of {steps:,} steps: 0.1 up to 1,000 steps, falling to 0.03 at 10,000"
    return Advice(
        name="warmup_ratio",
        value=value,
        rule=rule,
        source=sources(src.GUIDE_4, src.FACTORY, src.AXOLOTL),
        spread="LLaMA-Factory and Axolotl 0.1, Unsloth 5 steps",
        guides="guide 1: 0.05; guide 3: 100 steps; guide 5: 500 to 1,000 steps",
    )


def warmup_share(steps: int | None) -> float:
    """0.1 to 1,000 steps, 0.03 from 10,000, between them a power of the steps."""
    (few, high), (many, low) = WARMUP
    if steps is None or steps <= few:
        return high
    exponent = math.log(high / low) / math.log(many / few)
    return float(f"{max(low, high * (few / steps) ** exponent):.2g}")


def validation_share(examples: int | None) -> float:
    """Share of the examples that validates where the user names none: a tenth, less for a large data set."""
    if examples is None or examples * VALIDATION_SPLIT <= VALIDATION_EXAMPLES:
        return VALIDATION_SPLIT
    return float(f"{VALIDATION_EXAMPLES / examples:.2g}")


def validation(case: AdviceCase) -> Advice:
    """Share of the examples kept out of training."""
    value = validation_share(None if case.data is None else case.data.examples)
    rule = "a tenth, drawn before training and never trained on"
    source = sources(src.GUIDE_1, src.GUIDE_3)
    if value < VALIDATION_SPLIT:
        rule = f"{VALIDATION_EXAMPLES} examples are enough: the error of the mean falls with their square root"
        source = sources(source, src.OWN)
    return Advice(name="validation_split", value=value, rule=rule, source=source, guides="guide 1: 0.1 to 0.2")


def intervals(case: AdviceCase) -> list[Advice]:
    """When to evaluate, save and log."""
    evaluations = case.scenario.evaluations_per_epoch
    every: int | None = None
    if case.steps_per_epoch is None:
        eval_rule = f"once an epoch while the data set is unknown; else {evaluations} times"
    elif case.evaluations_per_epoch == 1:
        eval_rule = f"once an epoch: {case.steps_per_epoch} steps are few"
    else:
        every = case.steps_per_epoch // evaluations
        eval_rule = f"{evaluations} times an epoch"
    logging, log_rule = 10, "every 10 steps while the step time is unknown"
    if case.step_seconds is not None and case.step_seconds > 0:
        seconds = 60 / case.scenario.logs_per_minute
        logging = min(200, max(1, round(seconds / case.step_seconds)))
        log_rule = f"a line every {seconds:g} s at {format_duration(case.step_seconds)} a step"
        if case.steps is not None and case.steps < 20 * logging:
            logging = max(1, case.steps // 20)
            log_rule = f"20 lines over {case.steps} steps"
    return [
        Advice(name="eval_steps", value=every, rule=eval_rule, source=src.GUIDE_4, guides="guide 4: 5 to 10 an epoch"),
        Advice(
            name="save_steps",
            value=every,
            rule="at each evaluation, so that the best state is never lost; the last two and the best are kept",
            source=sources(src.GUIDE_3, src.GUIDE_5),
        ),
        Advice(name="logging_steps", value=logging, rule=log_rule, source=src.GUIDE_4),
    ]


def last_step(steps: int) -> Advice:
    """Where a run ends that has only so much time."""
    rule = "as many optimizer steps as the given time has room for, loading and evaluation counted"
    return Advice(name="max_steps", value=steps, rule=rule, source=src.OWN)


def early_stopping(case: AdviceCase) -> Advice:
    """Evaluations without improvement before the run stops."""
    patience = case.scenario.patience
    rule = f"{case.scenario.title}: stop after {patience} evaluations without improvement"
    evaluations = round(case.epochs * case.evaluations_per_epoch)
    if case.epochs > USUAL_PASSES:
        patience = max(1, min(patience or 2, evaluations // 3))
        rule = f"{case.epochs:g} passes may be too many: stop after {patience} evaluations without improvement"
    elif patience == 0:
        rule = f"{case.scenario.title}: off, the run is short"
    elif case.steps_per_epoch is not None and evaluations <= 2 * patience:
        patience = 0
        rule = f"off: {evaluations:g} evaluations are too few to tell noise from a trend"
    return Advice(
        name="early_stopping_patience",
        value=patience,
        rule=rule,
        source=sources(src.GUIDE_4, src.GUIDE_3),
        guides="guide 3: not under 10 epochs; guide 4: 2 to 5",
    )
