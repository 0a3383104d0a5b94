"""What LitGPT's adapters hold beyond a plan of transformers and PEFT, term by term from its source.

The published rows of LitGPT were made with its own model code, Lightning Fabric and bitsandbytes 0.41 and 0.42. A plan
is not of that code; this module says what the difference is, so that the rest of the plan can be held against the rows.

Read 2026-11: litgpt/lora.py, litgpt/model.py, litgpt/finetune/lora.py (e5493986, 2024-07), finetune/lora.py of 2023-10;
lightning/fabric/plugins/precision/half.py and bitsandbytes.py; bitsandbytes/autograd/_functions.py at 0.42.0.

`python -m benchmarks.accuracy.litgpt` prints each row.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from benchmarks.accuracy import metrics, published
from planner.contract.units import GIB
from planner.decide import check
from planner.decide.question import Question

CHUNK = 128
"""Tokens of a row that the vocabulary head and the loss take at once."""
REASON = "LitGPT's own code and bitsandbytes of that time hold more; benchmarks/accuracy/litgpt.py counts what"
NF4_BYTES = {"nf4": 0.5 + 4 / 64, "nf4-double": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Of a weight: half a byte, and the scale of 64."""


def applies(case: published.Case) -> bool:
    """Whether the row is an adapter run of LitGPT."""
    return case.source == "litgpt" and case.kind == "allocated" and case.choices.method != "full"


def allocated(case: published.Case) -> tuple[int, int]:
    """Allocated peak in bytes: as planned, and with what LitGPT's code holds besides or doesn't hold.

    Fabric makes a module's output fp32, so logits take 4 bytes beside the head's own 2 while they are made, and their
    log-softmax 4 again. The loop's `logits` lives until the next forward is through, with the graph behind it: plain
    saved tensors are gone by then, but not the inputs of 4-bit products, which bitsandbytes kept as attributes.
    """
    report = check.check(
        Question(model=case.spec, hardware=case.device, choices=case.choices), with_remedies=False
    ).memory
    spec, choices = case.spec, case.choices
    tokens = choices.batch_size * choices.max_length
    logits = tokens * spec.vocab_size
    # The tables of 2023 put the longest row into the first micro-batch; those of the hub met it later on.
    follows = not case.id.startswith("litgpt-2023")
    held = report.instants["forward"] + tokens * spec.num_layers * _attention(case)
    before = 4 * logits if follows else 0
    unpacked = 0
    if choices.method == "qlora":
        inputs = _inputs(case)
        head = spec.vocab_size * spec.hidden_size
        # Flash attention saves its result, which is the projection's input, in any case.
        held += inputs - 2 * tokens * spec.num_layers * spec.num_heads * spec.head_dim
        held -= int(head * (2 - NF4_BYTES[str(choices.quantization)]))  # no head stays bf16
        before += inputs if follows else 0
        unpacked = 4 * head  # Fabric quantises fp16 weights: unpacked in fp16, then cast to bf16
    in_chunk = 6 * CHUNK * choices.batch_size * spec.vocab_size  # the gradient in fp32 and bf16
    peaks = (held + before + 6 * logits, held + before + 2 * logits + unpacked, held + 8 * logits + in_chunk + unpacked)
    return report.allocated_peak_bytes, max(peaks)


def _attention(case: published.Case) -> int:
    """Bytes of a token in a layer that its attention with adapters keeps more; negative where it keeps less."""
    spec, choices = case.spec, case.choices
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    # Values are a view of the product of all three, or they are repeated, with the keys, for every query head.
    more = 4 * queries if queries == keys else 4 * (queries - keys)
    widths = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    adapted = [width for name, width in widths.items() if name in choices.lora_targets]
    if choices.lora_dropout and adapted:  # one dropout for the three: its result and a byte of mask
        more -= 3 * spec.hidden_size * (len(adapted) - 1)
    if 0 < len(adapted) < len(widths):  # `index_copy` between zeros saves what it copies
        more += 2 * sum(adapted)
    return more


def _inputs(case: published.Case) -> int:
    """Bytes of the inputs of a micro-batch's 4-bit products, the head's too, each once."""
    spec = case.spec
    tokens = case.choices.batch_size * case.choices.max_length
    normed = spec.hidden_size * (1 if spec.architecture == "phi" else 2)  # phi: attention and MLP share a norm
    layer = normed + spec.num_heads * spec.head_dim + int(spec.intermediate_size)
    return 2 * tokens * (layer * spec.num_layers + spec.hidden_size)


def section(cases: Sequence[published.Case]) -> list[str]:
    """The part of docs/accuracy.md; empty without such rows."""
    rows = [(case, *allocated(case)) for case in cases if applies(case)]
    if not rows:
        return []
    planned = [bytes_ / case.measured - 1 for case, bytes_, _ in rows]
    whole = [bytes_ / case.measured - 1 for case, _, bytes_ in rows]
    header = ("LitGPT's adapter runs", "n", "mean \\|e\\|", "median \\|e\\|", "mean", "worst")
    table = [_row("as planned", planned), _row("with what its code holds beside", whole)]
    return [
        "",
        "LitGPT's rows are far off because other code ran. What it holds beside a plan can be counted from its source "
        "(benchmarks/accuracy/litgpt.py): logits in fp32, since Fabric casts a module's output, and those of the step "
        "before; values as a view of the whole projection; one dropout for three adapters; the head in 4 bits, "
        "unpacked in fp16 and cast; and the input of every 4-bit product, twice, which bitsandbytes kept until 0.43.2 "
        "(2024-07). With these terms, none of which is fitted:",
        "",
        *metrics.table(header, table),
    ]


def _row(name: str, errors: Sequence[float]) -> tuple[str, ...]:
    sizes = [abs(error) for error in errors]
    return (
        name,
        str(len(errors)),
        f"{100 * statistics.fmean(sizes):.2f} %",
        f"{100 * statistics.median(sizes):.2f} %",
        metrics.percent(statistics.fmean(errors), 2),
        metrics.percent(max(errors, key=abs), 2),
    )


def main() -> int:
    """Prints each row and the section."""
    cases = [*published.read(), *published.read(published.COLLECTED)]
    for case in cases:
        if applies(case):
            planned, whole = allocated(case)
            errors = [metrics.percent(bytes_ / case.measured - 1, 2) for bytes_ in (planned, whole)]
            print(f"{case.id:<40}{case.measured / GIB:8.3f} GiB  planned {errors[0]:>10}  with the rest {errors[1]:>9}")
    print("\n".join(section(cases)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
