"""A data set as a run uses it: what is trained on, in which lengths, and how many tokens an epoch takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from planner.contract.choices import TrainingChoices
from planner.contract.run_settings import DataSettings
from planner.data.dataset import DatasetProfile
from planner.data.lengths import DataLengths, lengths_of


@dataclass(frozen=True, kw_only=True, eq=False)
class DataUse:
    """The measured data with everything that decides how much of it a run sees."""

    profile: DatasetProfile
    settings: DataSettings = field(default_factory=DataSettings)
    """How it was read; its `validation_split` is the one that holds, named or advised."""
    seed: int = 42
    group_by_length: bool = True

    @property
    def split(self) -> float:
        """Share of the examples that validates."""
        return self.settings.validation_split

    @property
    def training_examples(self) -> int:
        """Examples of one epoch, after the split and `max_examples`."""
        every = self.profile.examples
        used = min(every, self.settings.max_examples or every)
        return max(1, self.profile.training_examples(self.split) * used // every)

    @cached_property
    def faults(self) -> list[str]:
        """What is odd about the examples, a sentence each."""
        found, own = self.profile.faults, self.profile.validation_lengths is not None
        if found is None:
            return []
        return found.sentences(self.profile.lengths, share=0.0 if own else self.split, seed=self.seed)

    @cached_property
    def lengths(self) -> DataLengths:
        """Lengths of the training and validation sequences."""
        return lengths_of(self.profile, validation_split=self.split, seed=self.seed)

    def tokens_per_epoch(self, choices: TrainingChoices) -> int:
        """Tokens that pass through the model in one epoch, padding included."""
        return self.profile.tokens_per_epoch(
            choices.max_length,
            batch_size=choices.batch_size,
            padding=choices.padding,
            group_by_length=self.group_by_length,
            examples=self.training_examples,
        )

    def steps_per_epoch(self, choices: TrainingChoices) -> int:
        """Optimizer steps of one epoch over the training part."""
        return self.profile.steps_per_epoch(choices.effective_batch_size, validation_split=self.split)
