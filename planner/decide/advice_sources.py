"""Where the rules of `planner.decide.advice` come from, and the scenarios of the guides as data.

The five training guides are unsigned texts that circulate with fine-tuning projects; they are cited by number and
subject. Where they disagree with each other or with published measurements, the published source decides.
"""

from __future__ import annotations

from dataclasses import dataclass

GUIDE_1 = "training guide 1 (LoRA on phi-2, A10G and M3)"
GUIDE_2 = "training guide 2 (short form of guide 1)"
GUIDE_3 = "training guide 3 (small language models from scratch)"
GUIDE_4 = "training guide 4 (parameter selection for LoRA/PEFT)"
GUIDE_5 = "training guide 5 (BERT, GPT and T5 with transformers)"

LORA = "Hu et al. 2021, LoRA, https://arxiv.org/abs/2106.09685"
QLORA = "Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314"
LESS = "Biderman et al. 2024, LoRA Learns Less and Forgets Less, https://arxiv.org/abs/2405.09673"
REGRET = "Schulman et al. 2025, LoRA Without Regret, https://thinkingmachines.ai/blog/lora/"
TINKER = (
    "Thinking Machines 2025, Tinker docs on hyperparameters, "
    "https://tinker-docs.thinkingmachines.ai/supervised-learning/sl-hyperparams"
)
RSLORA = "Kalajdzievski 2023, rsLoRA, https://arxiv.org/abs/2312.03732"
BERT = "Devlin et al. 2018, BERT, https://arxiv.org/abs/1810.04805"
LLAMA2 = "Touvron et al. 2023, Llama 2, https://arxiv.org/abs/2307.09288"
STOCHASTIC = "Ozkara et al. 2025, Stochastic Rounding for LLM Training, https://arxiv.org/abs/2502.20566"
MIXED = "Micikevicius et al. 2018, Mixed Precision Training, https://arxiv.org/abs/1710.03740"
KRELL = "Krell et al. 2021, Efficient Sequence Packing, https://arxiv.org/abs/2107.02027"
OWN = "rule of this tool"


def sources(*names: str) -> str:
    """Several sources in one line."""
    return "; ".join(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One of the guides' situations: what a person has and wants. None leaves a value to the general rules."""

    title: str
    effective_batch_size: int = 32
    goal: str = "balanced"
    epochs: float | None = None
    rate_factor: float = 1.0
    """Learning rate against the general rule."""
    evaluations_per_epoch: int = 5
    logs_per_minute: float = 1.0
    patience: int = 3
    source: str = GUIDE_4


SCENARIOS: dict[str, Scenario] = {
    "quick": Scenario(
        title="quick experiment",
        effective_batch_size=16,  # 16 × 1 in guide 4, 2 × 8 in guide 1
        goal="fastest",
        epochs=1,
        rate_factor=1.5,  # guide 4 doubles; short runs want about 15 instead of 10 times the full rate (REGRET)
        logs_per_minute=4,
        patience=0,
    ),
    "standard": Scenario(title="standard training"),
    "production": Scenario(
        title="production quality",
        epochs=5,
        rate_factor=0.5,  # 1e-4 against 2e-4 in guide 1, 2e-4 against 5e-4 in guide 4
        evaluations_per_epoch=10,
        logs_per_minute=0.5,
        patience=5,
    ),
    "memory-constrained": Scenario(
        title="memory constrained",
        effective_batch_size=16,  # 2 × 8 in guide 4
        goal="safest",
        logs_per_minute=2,
    ),
    "time-constrained": Scenario(
        title="time constrained",
        goal="fastest",
        epochs=1,
        rate_factor=1.5,
        logs_per_minute=4,
        patience=0,
    ),
}
