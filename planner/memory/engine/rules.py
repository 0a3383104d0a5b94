"""Which code runs: what decides how an operator allocates, fixed for a whole step."""

from __future__ import annotations

from dataclasses import dataclass

from planner.contract.choices import TrainingChoices


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Fixed while a tape runs, but for autocast, which an operator may leave."""

    target: str = "cuda"
    """cuda, cpu or mps: whose kernels run."""
    training: bool = True
    """False in an evaluation, where dropout does nothing."""
    lean: bool = False
    """Whether modules run in the lean forms of stack `builtin`."""
    autocast: bool = False
    """Whether matrix products run in 16 bit over fp32 tensors (torch.autocast)."""
    single_sequence: bool = False
    """Whether a micro-batch is one sequence, whose heads need no copy to be multiplied as a batch."""
    unaligned: bool = False
    """Whether rows of a mask are no multiple of what the efficient kernel takes, and are padded for it."""
    fused_half_softmax: bool = False
    """Whether a softmax of 16-bit scores into fp32 makes no fp32 copy of them (fp16 on CUDA)."""
    flash: bool = True
    """Whether a CUDA device has the flash kernel."""
    gradient_share: int = 1
    """Devices over which a gradient is scattered as soon as it is there (ZeRO, FSDP)."""

    @classmethod
    def of(
        cls,
        choices: TrainingChoices,
        *,
        target: str = "cuda",
        training: bool = True,
        flat: bool = False,
        unaligned: bool = False,
        flash: bool = True,
        gradient_share: int = 1,
    ) -> Rules:
        """The rules of a step under `choices`; `flat`: the micro-batch is one row of all its sequences."""
        return cls(
            target=target,
            training=training,
            lean=choices.stack == "builtin",
            autocast=choices.precision.endswith(("-mixed", "-amp")),
            single_sequence=flat or choices.batch_size == 1,
            unaligned=unaligned,
            fused_half_softmax=target == "cuda" and choices.precision.startswith("fp16"),
            flash=flash,
            gradient_share=gradient_share,
        )
