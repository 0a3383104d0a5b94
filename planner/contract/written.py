"""Model types with a written program: what the planner counts by hand and the trainer knows from its own tests.

Every other type is recorded, and the trainer proves each of its pieces on the type's own code before it uses it.
"""

from __future__ import annotations

WRITTEN = frozenset(
    (
        *("bert", "distilbert", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neox"),
        *("granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3"),
        *("qwen3_moe", "roberta", "smollm3", "stablelm", "starcoder2", "t5", "xlm-roberta"),
    )
)
