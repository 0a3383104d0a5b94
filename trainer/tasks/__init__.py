"""What is learned: next tokens (causal), hidden ones (masked), an answer's text (seq2seq) or a label
(classification).
"""

from trainer.tasks.base import Task
from trainer.tasks.choice import choose

__all__ = ["Task", "choose"]
