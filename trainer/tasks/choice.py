"""Which task a model and its data ask for."""

from __future__ import annotations

from planner.contract.run_settings import DataSettings
from trainer.modeling.build import auto_class
from trainer.tasks.base import Task
from trainer.tasks.classification import Classification
from trainer.tasks.masked import Masked
from trainer.tasks.seq2seq import SequenceToSequence


def choose(config: dict[str, object], settings: DataSettings) -> Task:
    """The task that the model's head, or data of the format `classification`, asks for."""
    if settings.format == "classification":
        return Classification(config)
    name = auto_class(config).__name__
    kinds = {
        "AutoModelForSequenceClassification": Classification,
        "AutoModelForSeq2SeqLM": SequenceToSequence,
        "AutoModelForMaskedLM": Masked,
    }
    return kinds.get(name, Task)(config)
