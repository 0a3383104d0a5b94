"""Where the rules of `planner.decide.advice` come from, and the scenarios of the guides as data.

The five training guides are unsigned texts that circulate with fine-tuning projects; they are cited by number and
subject, and their values stand beside ours. Where they disagree with each other or with published measurements, the
published source decides.
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
SWEEP = (
    "Thinking Machines 2026, SFT sweep (35 models, tulu3), https://github.com/thinking-machines-lab/tinker-cookbook/"
    "blob/main/tinker_cookbook/recipes/chat_sl/results/sft_sweep.md"
)
MUA = "Chen et al. 2026, Learning Rate Scaling across LoRA Ranks, https://arxiv.org/abs/2602.06204"
ALPHA = "Zhang et al. 2026, The Hidden Power of Scaling Factor in LoRA, https://arxiv.org/abs/2606.12883"
VARIANTS = "Lee et al. 2026, Learning Rate Matters: Vanilla LoRA May Suffice, https://arxiv.org/abs/2602.04998"
SMALL_BATCH = "Marek et al. 2025, Small Batch Size Training for Language Models, https://arxiv.org/abs/2507.07101"
FACTORY = (
    "LLaMA-Factory 2026, scripts/stat_utils/cal_lr.py, "
    "https://github.com/hiyouga/LLaMA-Factory/blob/main/scripts/stat_utils/cal_lr.py"
)
UNSLOTH = "Unsloth 2026, notebooks, https://github.com/unslothai/notebooks"
AXOLOTL = "Axolotl 2026, examples, https://github.com/axolotl-ai-cloud/axolotl/tree/main/examples"
TRL = "TRL 2026, trl/scripts/sft.py, https://github.com/huggingface/trl/blob/main/trl/scripts/sft.py"
OWN = "rule of this tool"


def sources(*names: str) -> str:
    """Several sources in one line."""
    return "; ".join(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One of the guides' situations: what a person has and wants. None leaves a value to the general rules."""

    title: str
    effective_batch_size: int = 16
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
