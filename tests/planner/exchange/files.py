"""One file for each tool, in its own words, and what it comes to."""

from __future__ import annotations

from typing import Any

AXOLOTL = """
base_model: meta-llama/Llama-3.2-1B
load_in_4bit: true
adapter: qlora
datasets:
  - path: tatsu-lab/alpaca
    type: alpaca
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
num_epochs: 3
bf16: auto
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
attn_implementation: flash_attention_2
warmup_ratio: 0.1
wandb_project:
val_set_size: 0.05
output_dir: ./out
"""
LLAMA_FACTORY = """
model_name_or_path: meta-llama/Llama-3.2-1B
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity
template: llama3
cutoff_len: 1024
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
"""
TRL = """
model_name_or_path: meta-llama/Llama-3.2-1B
dtype: bfloat16
use_peft: true
lora_r: 16
lora_alpha: 32
lora_target_modules: [q_proj, v_proj]
max_length: 1536
packing: false
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
learning_rate: 1e-4
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
warmup_steps: 10
"""
LITGPT = """
checkpoint_dir: checkpoints/meta-llama/Llama-3.2-1B
out_dir: out
precision: bf16-true
quantize: bnb.nf4
devices: 1
lora_r: 16
lora_alpha: 32
lora_dropout: 0.0
lora_query: true
lora_key: true
lora_value: true
lora_projection: true
lora_mlp: true
data:
  class_path: litgpt.data.Alpaca2k
  init_args: {mask_prompt: true}
train:
  global_batch_size: 8
  micro_batch_size: 2
  lr_warmup_steps: 10
  epochs: 2
  max_seq_length: 512
optimizer:
  class_path: torch.optim.AdamW
  init_args: {lr: 0.0002, weight_decay: 0.1, betas: [0.9, 0.95]}
"""
TORCHTUNE = """
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 8
  lora_alpha: 16
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, path: /tmp/x, max_seq_len: 1024}
checkpointer: {_component_: torchtune.training.FullModelHFCheckpointer, checkpoint_dir: /tmp/x}
dataset: {_component_: torchtune.datasets.alpaca_dataset, packed: False}
batch_size: 2
gradient_accumulation_steps: 8
epochs: 1
optimizer: {_component_: torch.optim.AdamW, fused: True, weight_decay: 0.01, lr: 3e-4}
lr_scheduler: {_component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup, num_warmup_steps: 100}
loss: {_component_: torchtune.modules.loss.CEWithChunkedOutputLoss}
enable_activation_checkpointing: True
dtype: bf16
"""
MLX_LM = """
model: mlx-community/Llama-3.2-1B-4bit
train: true
fine_tune_type: lora
data: data
num_layers: -1
batch_size: 4
iters: 600
learning_rate: 1e-5
max_seq_length: 1024
grad_checkpoint: true
lora_parameters: {keys: ["self_attn.q_proj", "self_attn.v_proj"], rank: 8, scale: 20.0, dropout: 0.0}
"""
UNSLOTH = """
from unsloth import FastLanguageModel
from trl import SFTTrainer, SFTConfig
max_seq_length = 2048
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="unsloth/Llama-3.2-1B-bnb-4bit", max_seq_length=max_seq_length, dtype=None, load_in_4bit=True
)
model = FastLanguageModel.get_peft_model(
    model, r=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    lora_alpha=16, lora_dropout=0, use_gradient_checkpointing="unsloth", random_state=3407,
)
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=dataset, args=SFTConfig(
    per_device_train_batch_size=2, gradient_accumulation_steps=4, warmup_steps=5, max_steps=60,
    learning_rate=2e-4, optim="adamw_8bit", weight_decay=0.01, lr_scheduler_type="linear", output_dir='out'))
"""

FILES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "axolotl": (
        "a.yml",
        AXOLOTL,
        {
            "method": "qlora",
            "quantization": "nf4-double",
            "batch_size": 2,
            "gradient_accumulation_steps": 4,
            "max_length": 2048,
            "padding": "packed",
            "lora_r": 32,
            "lora_alpha": 16.0,
            "lora_targets": ("all-linear",),
            "optimizer": "paged-adamw-8bit",
            "precision": "bf16-amp",
            "attention": "flash",
            "gradient_checkpointing": True,
            "checkpoint_reentrant": False,
            "stack": "peft",
        },
        {"learning_rate": 2e-4, "epochs": 3.0, "scheduler": "cosine", "warmup_ratio": 0.1, "train_on_prompt": False},
    ),
    "llama-factory": (
        "l.yaml",
        LLAMA_FACTORY,
        {
            "method": "lora",
            "lora_r": 8,
            "lora_alpha": 16.0,
            "lora_dropout": 0.0,
            "precision": "bf16-amp",
            "max_length": 1024,
            "batch_size": 1,
            "gradient_accumulation_steps": 8,
            "checkpoint_reentrant": True,
            "attention": "sdpa",
            "loss": "full",
        },
        {"learning_rate": 1e-4, "warmup_ratio": 0.1, "scheduler": "cosine"},
    ),
    "trl": (
        "t.yaml",
        TRL,
        {
            "method": "lora",
            "lora_targets": ("q_proj", "v_proj"),
            "max_length": 1536,
            "precision": "bf16-amp",
            "loss": "chunked",
            "gradient_checkpointing": True,
            "optimizer_implementation": "fused",
        },
        {"min_learning_rate_ratio": 0.1, "warmup_steps": 10, "scheduler": "cosine"},
    ),
    "litgpt": (
        "g.yaml",
        LITGPT,
        {
            "method": "qlora",
            "quantization": "nf4",
            "precision": "bf16",
            "adapter_dtype": "bf16",
            "lora_targets": ("all-linear",),
            "batch_size": 2,
            "gradient_accumulation_steps": 4,
            "max_length": 512,
            "gradient_checkpointing": False,
            "max_grad_norm": 0.0,
        },
        {"learning_rate": 2e-4, "beta2": 0.95, "warmup_steps": 10, "train_on_prompt": False},
    ),
    "torchtune": (
        "tt.yaml",
        TORCHTUNE,
        {
            "method": "lora",
            "lora_targets": ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            "max_length": 1024,
            "optimizer_implementation": "fused",
            "loss": "chunked",
            "adapter_dtype": "bf16",
        },
        {"learning_rate": 3e-4, "warmup_steps": 100, "epochs": 1.0},
    ),
    "mlx-lm": (
        "m.yaml",
        MLX_LM,
        {
            "method": "qlora",
            "quantization": "nf4",
            "lora_alpha": 160.0,
            "lora_targets": ("q_proj", "v_proj"),
            "gradient_checkpointing": True,
            "max_grad_norm": 0.0,
        },
        {"learning_rate": 1e-5, "max_steps": 600, "scheduler": "constant", "train_on_prompt": True},
    ),
    "unsloth": (
        "u.py",
        UNSLOTH,
        {
            "method": "qlora",
            "stack": "builtin",
            "max_length": 2048,
            "checkpoint_offload": True,
            "loss": "chunked",
            "optimizer": "adamw-8bit",
            "lora_r": 16,
        },
        {"learning_rate": 2e-4, "warmup_steps": 5, "max_steps": 60, "scheduler": "linear"},
    ),
}
"""Tool -> name of the file, its content, choices and hyperparameters that it stands for."""
