"""What only a device can show of our step: 16-bit parity, saved inputs in host memory, a real overflow.

    python benchmarks/gpu_checks.py --out DIR [--device cuda|cpu] [--seconds 80]

A line of DIR/checks.jsonl for each check, as soon as it is done: name, whether it holds, what was seen. A check that
raises is a line too. Without a GPU the same code runs on the CPU, with small models.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from planner.contract.choices import TrainingChoices
from trainer import modeling
from trainer.modeling.checkpointing import checkpointable_layers
from trainer.modeling.lean import apply_lean

Seen = tuple[bool, dict[str, Any]]
IDS = {"vocab_size": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 8, "max_position_embeddings": 4096}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
WIDTH = {"cuda": {"hidden_size": 1024, "intermediate_size": 2816}, "cpu": {"hidden_size": 64, "intermediate_size": 176}}
MODELS = {
    "llama": ("LlamaForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 64}),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "head_dim": 64, "sliding_window": 64}),
    "phi": ("PhiForCausalLM", {**SHAPE, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5}),
    "gpt_neox": ("GPTNeoXForCausalLM", SHAPE),
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
}
LEAST_FLOOR = 1e-4
"""Distance from fp32 under which two 16-bit steps are called equal."""


def config(name: str, device: str) -> dict[str, Any]:
    """A small model's config.json."""
    head, shape = MODELS[name]
    return {"model_type": name, "architectures": [head], **IDS, **WIDTH[device], **shape}


def choices(**changes: Any) -> TrainingChoices:
    """Ours in bf16 on one micro-batch."""
    base: dict[str, Any] = {
        "batch_size": 2,
        "max_length": 256,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "lora_dropout": 0.0,
        "loss": "chunked",
    }
    return TrainingChoices(**{**base, **changes})


def built(name: str, chosen: TrainingChoices, device: str) -> Any:
    """The adapted model without lean forms, its B matrices no longer zero."""
    torch.manual_seed(5)
    plain = TrainingChoices(**{**_fields(chosen), "stack": "peft", "loss": "full", "made_again": ("mlp", "norms")})
    model = modeling.build(config(name, device), dtype=modeling.weights_dtype(chosen.precision), device=device)
    model = modeling.attach_adapters(model, plain)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.02)
    return model.to(device)


def _fields(chosen: TrainingChoices) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(chosen)


def batch(chosen: TrainingChoices, device: str) -> dict[str, torch.Tensor]:
    """Token ids that are their own labels."""
    generator = torch.Generator().manual_seed(3)
    shape = (chosen.batch_size, chosen.max_length)
    ids = torch.randint(3, IDS["vocab_size"], shape, generator=generator).to(device)
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def step(model: Any, chosen: TrainingChoices, device: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients (fp64, on the host) of one step."""
    model.train()
    model.zero_grad(set_to_none=True)
    loss, _ = modeling.compute_loss(model, batch(chosen, device), chosen, num_items=None)
    loss.backward()
    found = {n: p.grad.detach().double().cpu() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def distance(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Relative distance of all gradients together (2-norm)."""
    off = sum(float((found[n] - exact[n]).square().sum()) for n in exact)
    return (off / sum(float(exact[n].square().sum()) for n in exact)) ** 0.5


def parity(name: str, made_again: tuple[str, ...], device: str) -> Seen:
    """Our step in bf16 is no further from fp32 than plain PEFT's is."""
    ours, stock = choices(made_again=made_again), choices(stack="peft", loss="full")
    model = built(name, ours, device)
    exact = step(copy.deepcopy(model).float(), choices(stack="peft", loss="full", precision="fp32"), device)
    plain = step(model, stock, device)
    lean = step(apply_lean(model, ours), ours, device)
    far = {"stock": distance(plain[1], exact[1]), "ours": distance(lean[1], exact[1])}
    holds = far["ours"] <= 1.5 * far["stock"] + LEAST_FLOOR
    return holds, {**far, "loss_fp32": exact[0], "loss_stock": plain[0], "loss_ours": lean[0]}


class Overlapped:
    """Saved inputs go to pinned host memory on a stream of their own, and come back on it: an experiment beside the
    trainer's `save_on_cpu`, whose copies wait in the stream of the arithmetic."""

    def __init__(self, device: str) -> None:
        self.stream = torch.cuda.Stream() if device == "cuda" else None

    def pack(self, x: torch.Tensor) -> Any:
        """Starts the copy to the host."""
        if self.stream is None:
            return x.device, x.to("cpu", copy=True), None
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            kept = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            x.record_stream(self.stream)
            done = self.stream.record_event()
        return x.device, kept, done

    def unpack(self, packed: Any) -> torch.Tensor:
        """Copies back; the arithmetic waits for it."""
        device, kept, done = packed
        if self.stream is None:
            return torch.as_tensor(kept, device=device)
        with torch.cuda.stream(self.stream):
            done.wait(self.stream)
            back: torch.Tensor = kept.to(device, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self.stream)
        back.record_stream(torch.cuda.current_stream())
        return back

    def around(self, checkpoint: Any) -> Any:
        """A layer's checkpoint with these hooks."""

        def run(function: Any, *args: Any, **kwargs: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
                return checkpoint(function, *args, **kwargs)

        return run


def offload(device: str) -> Seen:
    """Saved inputs on the device, in host memory as the trainer does it, and with overlapping copies: equal gradients;
    seconds and peak of each."""
    found: dict[str, Any] = {}
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    length = 2048 if device == "cuda" else 64
    for way in ("kept", "offload", "overlap"):
        own = way == "offload" and device != "cpu"  # the trainer's copies are pinned, which a CPU has no use for
        chosen = choices(gradient_checkpointing=True, checkpoint_offload=own, max_length=length)
        model = apply_lean(built("llama", chosen, device), chosen)
        modeling.apply_checkpointing(model, chosen)
        if way == "overlap" or (way == "offload" and not own):
            hooks = Overlapped(device)
            for layer in checkpointable_layers(model):
                layer._gradient_checkpointing_func = hooks.around(layer._gradient_checkpointing_func)
        times = []
        for _ in range(4):
            _settle(device)
            began = time.perf_counter()
            _, gradients[way] = step(model, chosen, device)
            times.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        found[way] = {"seconds": min(times), "peak_bytes": peak}
        del model
    off = {way: distance(gradients[way], gradients["kept"]) for way in ("offload", "overlap")}
    return all(value == 0.0 for value in off.values()), {**found, "distance": off}


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def overflow(device: str) -> Seen:
    """A run whose heaviest micro-batches don't fit a smaller card, which the allocator (on a CPU a meter of tensors)
    holds it to: it has to end, with the losses of a run that has room."""
    with tempfile.TemporaryDirectory(prefix="overflow-") as scratch:
        folder = Path(scratch)
        free, peak = _run(folder, "free", device, None)
        start = _start_bytes(folder, device)
        tight, _ = _run(folder, "tight", device, start + int(0.6 * (peak - start)))
    told = [event["data"] for event in tight if event["kind"] == "oom"]
    losses = [[event["data"]["loss"] for event in events if event["kind"] == "step"] for events in (free, tight)]
    close = len(losses[0]) == len(losses[1]) > 0 and all(
        abs(a - b) <= 2e-2 * abs(a) for a, b in zip(*losses, strict=True)
    )
    seen = [{key: event.get(key) for key in ("phase", "batch_size", "new_batch_size")} for event in told]
    ended = any(event["kind"] == "finished" for event in tight)
    return bool(told) and ended and close, {"overflows": seen, "losses_free": losses[0], "losses_tight": losses[1]}


def _plan(folder: Path, name: str, device: str) -> Path:
    from benchmarks.throughput import contenders, workload
    from planner.contract.records import Plan
    from planner.contract.run_settings import DataSettings, Hyperparameters

    load = workload.QUICK if device == "cpu" else workload.CUDA
    if not (folder / "model").exists():
        workload.write(folder / "model", load)
    texts = folder / "train.jsonl"
    workload.write_text(texts, load.sequences_of(workload.RAGGED)[:16])
    made = Plan(
        model=str(folder / "model"),
        gpu="cpu" if device == "cpu" else "auto",
        settings={**contenders.settings(load, workload.RAGGED), "batch_size": 8},
        hyperparameters=Hyperparameters(learning_rate=1e-12, scheduler="constant", epochs=1.0, report_to=()),
        data=DataSettings(path=str(texts), format="text", validation_split=0.0),
    )
    plan = folder / f"{name}.json"
    plan.write_text(made.model_dump_json(by_alias=True))
    return plan


def _run(folder: Path, name: str, device: str, limit: int | None) -> tuple[list[dict[str, Any]], int]:
    """Events of a run under a limit, and its allocated peak."""
    import io

    from trainer.commands.probe import limits
    from trainer.commands.run import main
    from trainer.wire.events import EventStream
    from trainer.wire.request import Request

    plan, said = _plan(folder, name, device), io.StringIO()
    gc.collect()  # what an earlier run or check held counts against the limit
    if device == "cuda":
        torch.cuda.empty_cache()
    limits.limit_device(torch.device(device), limit)
    meter = limits.LimitedStorageMeter(limit or 1 << 60) if device == "cpu" else None
    try:
        if meter is not None:
            meter.__enter__()
        main(Request(plan=plan, output=folder / name, device=device), EventStream(said))
    finally:
        if meter is not None:
            meter.__exit__(None, None, None)
        limits.limit_device(torch.device(device), None)
    events = [json.loads(line) for line in said.getvalue().splitlines() if line.strip()]
    if meter is not None:
        return events, max(meter.instants.values())
    observed = [json.loads(path.read_text()) for path in (folder / name).glob("observation*.json")]
    return events, max(entry["allocated_peak_bytes"] for entry in observed)


def _start_bytes(folder: Path, device: str) -> int:
    """Bytes of the weights, which any run has to hold."""
    return sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))


def checks(device: str) -> Iterator[tuple[str, Callable[[], Seen]]]:
    """All checks by name, the most valuable first."""
    yield "parity bf16 llama", lambda: parity("llama", ("mlp", "norms"), device)
    yield "offload with overlapping copies", lambda: offload(device)
    yield "recovery from a real overflow", lambda: overflow(device)
    for name in MODELS:
        for made_again in (("mlp", "norms"), ()):
            if (name, made_again) != ("llama", ("mlp", "norms")):
                label = "made again" if made_again else "kept"
                yield f"parity bf16 {name} {label}", lambda n=name, m=made_again: parity(n, m, device)


def main() -> int:
    """Runs the checks until the time is up; exit code 1 where one doesn't hold or none was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=80.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    until, held = time.monotonic() + given.seconds, []
    with open(given.out / "checks.jsonl", "w", encoding="utf-8") as lines:
        for name, check in checks(given.device):
            if time.monotonic() > until:
                break
            began = time.monotonic()
            try:
                holds, seen = check()
            except Exception as error:
                holds = False
                seen = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-800:]}
            row = {"name": name, "holds": holds, "seconds": round(time.monotonic() - began, 2), "seen": seen}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            held.append(holds)
            print(f"gpu_checks: {name}: {'holds' if holds else 'DOES NOT HOLD'}", file=sys.stderr, flush=True)
    return 0 if held and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
