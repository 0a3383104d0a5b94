"""What is learned: next tokens (causal), hidden ones (masked), an answer's text (seq2seq) or a label
(classification).
"""

from trainer.tasks.base import Task, choose, load_pretrained

__all__ = ["Task", "choose", "load_pretrained"]
