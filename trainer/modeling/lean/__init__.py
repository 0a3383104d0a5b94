"""The lean step of stack `builtin`: the same mathematics as plain PEFT with fewer tensors kept alive.

Each piece replaces the forward of modules in place and can be left out by name, so that its parity can be tested alone.
"""

from trainer.modeling.lean.apply import PIECES, apply_lean

__all__ = ["PIECES", "apply_lean"]
