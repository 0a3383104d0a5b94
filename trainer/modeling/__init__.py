"""The pieces of the training step that both the real trainer and the trace run, so that they cannot drift apart."""

from trainer.modeling.adapters import attach_adapters
from trainer.modeling.build import as_config, build, copy_weights, from_files, learns_answers, weights_dtype
from trainer.modeling.checkpointing import apply_checkpointing, base_model, checkpointable_layers
from trainer.modeling.experts import separate_experts
from trainer.modeling.loss import compute_loss, use_loss_version, watch_loss
from trainer.modeling.optimizers import build_optimizer, parameter_groups
from trainer.modeling.precision import autocast_dtype, precision_context, wrap_forward
from trainer.modeling.quantized import prepare_kbit, quantize

__all__ = [
    "apply_checkpointing",
    "as_config",
    "attach_adapters",
    "autocast_dtype",
    "base_model",
    "build",
    "build_optimizer",
    "checkpointable_layers",
    "compute_loss",
    "copy_weights",
    "from_files",
    "learns_answers",
    "parameter_groups",
    "precision_context",
    "prepare_kbit",
    "quantize",
    "separate_experts",
    "use_loss_version",
    "watch_loss",
    "weights_dtype",
    "wrap_forward",
]
