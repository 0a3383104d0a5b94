"""The kinds of hostile input. Each is a function of a random source and an empty folder that raises where something
that must hold does not."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from contextlib import chdir, redirect_stderr
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from planner import memory
from planner.calibration import reading, store
from planner.contract import events, records, settings
from planner.contract.choices import TrainingChoices
from planner.contract.run_settings import DataSettings
from planner.contract.spec import Calibration
from planner.handover import plans
from planner.models import catalogue, sources
from planner.models.sources import hub
from planner.models.sources.configs import DEFAULTS_FOLDER
from planner.models.sources.schema import ROPE, RULES
from tests.fuzz import data_files, mutations, oracle

Case = Callable[[Random, Path], None]

GPUS = ("a10g", "t4", "h100", "rtx-4090", "m3-18gb", "cpu", "v100-16gb")


@cache
def configs() -> tuple[dict[str, Any], ...]:
    """A small config of every family: the catalogue's, with few layers."""
    found = []
    for entry in catalogue.entries():
        config = dict(entry.config)
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"):
            if isinstance(config.get(key), int):
                config[key] = min(config[key], 4)
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = config["layer_types"][:4]
        found.append(config)
    return tuple(found)


@cache
def config_keys() -> tuple[str, ...]:
    """Every key that any family reads."""
    keys = set(RULES) | set(ROPE)
    for file in DEFAULTS_FOLDER.glob("*.json"):
        keys |= set(json.loads(file.read_text())["fields"])
    return tuple(sorted(keys))


def config(random: Random, folder: Path) -> None:
    """A config.json with wrong values: a spec whose numbers can be true, or one line; sometimes the whole command."""
    base = random.choice(configs())
    raw = mutations.text(mutations.mutate(base, random, config_keys()), random)
    if folder.is_dir() and random.random() < 0.1:
        file = folder / "config.json"
        file.write_bytes(raw)
        _checked(["check", "--gpu", random.choice(GPUS), "--model", str(file), "--max-length", "64", "--json"])
        return

    def question() -> None:
        content = hub.parse_config(raw.decode("utf-8", errors="replace"), "config.json")
        task = random.choice((None, None, None, "classification"))
        spec = sources.from_config(content, "m", task=task, origin="config.json")
        assert spec.parameters > 0
        choices = TrainingChoices(
            batch_size=random.choice((1, 4)),
            max_length=random.choice((16, 512)),
            method=random.choice(("lora", "full", "qlora")),
            precision=random.choice(("bf16", "fp32")),
            loss=random.choice(("full", "chunked")),
            attention=random.choice(("sdpa", "eager")),
        )
        settings.check_length(spec, choices)
        _sane(memory.predict(spec, _profile("a10g"), choices))

    with oracle.limited():
        oracle.asked(question)


@cache
def _profile(name: str) -> Any:
    from planner.devices import profiles

    return profiles.load(name)


def _sane(found: records.MemoryReport) -> None:
    content = found.model_dump(mode="json")
    oracle.report({"memory": content, "speed": None, "model": {"parameters": 1}})


def _checked(words: list[str]) -> None:
    """A `check` or a recommendation in JSON: refused in a line, or with sane numbers."""
    with oracle.limited():
        code, out, _ = oracle.command(words)
    if code == 2 or "--json" not in words or "memory" not in out:
        return
    content = oracle.answer(out)
    if isinstance(content, list):  # devices, models
        return
    found = [content] if "memory" in content else content.get("options", [])
    for one in found:
        oracle.report(one)
    if found:
        assert (code == 3) == all(one["verdict"] == "does_not_fit" for one in found), code


@cache
def plan_content() -> dict[str, Any]:
    """A whole plan, as `--save` writes it."""
    spec = sources.load_model("phi-2")
    choices = TrainingChoices()
    report = memory.predict(spec, _profile("a10g"), choices)
    plan = records.Plan(
        model="microsoft/phi-2",
        model_config_inline=dict(catalogue.entry("phi-2").config),
        gpu="a10g",
        settings=choices,
        advice=[records.Advice(name="learning_rate", value=2e-4, rule="r", source="s")],
        data=DataSettings(path="train.jsonl", columns={"prompt": "q"}),
        predicted=report,
        created="2026-01-01T00:00:00+00:00",
    )
    return plan.model_dump(mode="json", by_alias=True)


PLAN_KEYS = (
    *records.Plan.model_fields,
    *("schema", "<<", "a b", "SETTINGS", "settings.lora_r", "None", ""),
)


def plan(random: Random, folder: Path) -> None:
    """A plan file with wrong values: planner and trainer refuse it in the same words, or take the same of it."""
    from trainer.wire.request import Request, write_plan
    from trainer.wire.request import read_plan as trainer_plan

    base = plan_content()
    content = dict(base)
    part = random.choice(("settings", "hyperparameters", "data", "predicted", None))
    if part is None:
        content = mutations.mutate(base, random, PLAN_KEYS)
    else:
        names = settings.BY_NAME if part == "settings" else base[part]
        content[part] = mutations.mutate(base[part], random, tuple(names))
    file = folder / "plan.yaml"
    if random.random() < 0.5:
        file.write_bytes(mutations.text(content, random))
    else:
        file.write_bytes(_yaml(content, random))
    with oracle.limited():
        planned, refused = oracle.asked(lambda: plans.load(file))
        trained, said = oracle.asked(lambda: trainer_plan(Request(plan=file)))
        if refused != said or planned != trained:
            raise oracle.Broken(f"planner says {refused!r}, trainer {said!r}")
        if planned is None:
            return
        write_plan(planned, folder)
        again = plans.load(folder / "plan.yaml")
        assert plans.dumps(again) == plans.dumps(planned), "written, it reads otherwise"


def _yaml(content: Any, random: Random) -> bytes:
    """As YAML, sometimes damaged; what YAML can't hold as JSON."""
    try:
        raw = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError):
        return mutations.text(content, random)
    return mutations.damage(raw.replace(b"'" + mutations.RAW.encode(), b""), random) if random.random() < 0.3 else raw


WORDS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "4",
        "1e9",
        "9" * 30,
        "9" * 5000,
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e-320",
        "1e400",
        "0x10",
    ),
    *("true", "no", "none", "abc", "a,b", ",", "a=b", "=", "prompt=x", "/", "/etc", ".", "~", "\x1b[31m", "[x]", "[/]"),
    *("é😀", "\u202e", "a\nb", "--", "-", "--json", "@x", "%s", "$HOME", "x" * 5000, "bf16", "qlora", "all-linear"),
    *("a10g", "t4", "h100", "m3-18gb", "cpu", "RTX 4090 24GB", "a100 9999GB", "phi-2", "gpt2", "bert-base", "t5-small"),
    *("config.json", "plan.yaml", "settings.yaml", "train.jsonl", "folder", "none.json", "2GiB", "512MiB", "1e3GiB"),
    *(
        "fastest",
        "safest",
        "quick",
        "peft",
        "builtin",
        "full",
        "flash",
        "packed",
        "zero3",
        "int8",
        "٣",
        "\udcff",
        "a\0b",
    ),
)


@cache
def _options(command: str) -> tuple[str, ...]:
    root = oracle.parser()
    found = root.get_command(None, command) if command else root
    return tuple(flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts))


FITTING = {
    int: ("1", "2", "3", "8", "64", "1000", "65536", "16777216"),
    float: ("0", "0.1", "0.5", "1", "16", "1e-9", "1e9"),
    tuple: ("attention", "all-linear", "q_proj,v_proj", "c_attn", "lm_head", "embed_tokens"),
    bool: (None,),
}
"""Words that an option takes, so that what several of them ask for together is reached as well."""
OTHERS = {
    "--data": ("train.jsonl", "."),
    "--validation-split": FITTING[float],
    "--effective-batch-size": FITTING[int],
    "--reserve": ("1GiB", "512MiB", "0GiB"),
    "--columns": ("prompt=a", "completion=b"),
    "--skip-invalid": (None,),
    "--brief": (None,),
    "--explain-all": (None,),
}


def _fitting(flag: str, random: Random) -> str | None:
    """A word that the option takes; None where it takes none, any word where nothing is known of it."""
    setting = settings.BY_NAME.get(flag.removeprefix("--").removeprefix("no-").replace("-", "_"))
    if setting is None:
        return random.choice(OTHERS.get(flag, WORDS))
    return random.choice(setting.about.allowed or FITTING.get(setting.kind, WORDS))


SAFE = ("", "check", "gpus", "models", "train", "ui")
"""Commands that start no process as long as no plan can be read."""


def cli(random: Random, folder: Path) -> None:
    """A command line of known options with any words."""
    command = random.choice(("", "check", "check", "", "gpus", "models", "train", "ui", "nothing"))
    flags = [flag for flag in _options(command if command in SAFE else "") if flag.startswith("--")]
    words = [command] if command else []
    if command in ("", "check"):
        words += (
            ["--gpu", random.choice(GPUS), "--max-length", "64"] if random.random() < 0.8 else ["--max-length", "64"]
        )
        words += ["--json"] if random.random() < 0.8 else []
        words += ["--model", random.choice(("gpt2", "config.json", "config.json", "config.json"))]
    for _ in range(random.choice((0, 1, 1, 2, 3, 5))):
        flag = random.choice(flags)
        if flag in ("--install-completion", "--show-completion", "--save", "--dry-run"):
            continue
        value = random.choice(WORDS) if random.random() < 0.4 else _fitting(flag, random)
        if value is None:
            words.append(flag)
            continue
        words += [f"{flag}={value}"] if random.random() < 0.5 else [flag, value] if random.random() < 0.7 else [flag]
    if command in ("gpus", "models", "train", "nothing") and random.random() < 0.7:
        words.append(random.choice([word for word in WORDS if word != "plan.yaml"]))
    (folder / "config.json").write_text(json.dumps(random.choice(configs())))
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "folder").mkdir()
    entries = {random.choice(flags).lstrip("-"): mutations.value(random) for _ in range(3)}
    (folder / "settings.yaml").write_bytes(_yaml(entries, random))
    if random.random() < 0.2:
        words += ["--config", "settings.yaml"]
    with chdir(folder):
        _checked(words)


@cache
def _observation() -> dict[str, Any]:
    config_ = configs()[0]
    spec = sources.from_config(config_, "m")
    choices = TrainingChoices(batch_size=1, max_length=64)
    report = memory.predict(spec, _profile("a10g"), choices)
    found = records.Observation(
        created="2026-01-01T00:00:00+00:00",
        source="run",
        hardware={"profile": "a10g", "title": "NVIDIA A10G", "total_bytes": 2**34},
        versions={"torch": "2.13.0"},
        model={"id": "m", "config": config_},
        settings=settings.to_settings(choices),
        predicted=report,
        allocated_peak_bytes=report.allocated_peak_bytes + 1000,
        reserved_peak_bytes=report.reserved_peak_bytes,
        device_peak_bytes=report.device_peak_bytes,
        instants=report.instants,
        step_seconds=[0.1, 0.2],
        batch_lengths=((64,),),
        notes=["planned"],
    )
    return found.model_dump(mode="json", by_alias=True)


def calibration(random: Random, folder: Path) -> None:
    """A data folder with damaged fits and observations: set aside in a line, or corrections that can be true."""
    fit = asdict(
        Calibration(
            applied=True,
            made="2026-01-01",
            versions={"torch": store._installed("torch") or ""},
            interval=(1.0, 2.0),
            errors={"bare_median": 0.1},
            context_bytes=10**9,
            speed={"arithmetic": 1.0, "bandwidth": 1.0, "launch": 1.0, "spread": 0.1},
        )
    )
    whole: Any = {"schema": store.SCHEMA, "profile": "a10g", "fits": [fit, fit]}
    keys = (*fit, "schema", "fits")
    if random.random() < 0.7:
        whole["fits"][0] = mutations.mutate(fit, random, tuple(fit))
    else:
        whole = mutations.mutate(whole, random, keys)
    for place, raw in (
        ("calibration/a10g.json", mutations.text(whole, random)),
        *(
            (
                f"observations/{number}.json",
                mutations.text(mutations.mutate(_observation(), random, tuple(_observation())), random),
            )
            for number in range(2)
        ),
    ):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
    before = os.environ.get("TUNEPLAN_HOME")
    os.environ["TUNEPLAN_HOME"] = str(folder)
    reading.forget_warnings()
    try:
        if random.random() < 0.05:
            _checked(["check", "--gpu", "a10g", "--model", "gpt2", "--max-length", "64", "--json"])
            return
        _attached()
        if random.random() < 0.1:
            _fitted()
    finally:
        if before is None:
            del os.environ["TUNEPLAN_HOME"]
        else:
            os.environ["TUNEPLAN_HOME"] = before


def _attached() -> None:
    """The device with what the data folder says of it, and a prediction for it."""
    from planner.decide.reasons import calibration_sentences

    with oracle.limited(), redirect_stderr(io.StringIO()) as said:
        device = store.attach(_profile("a10g"))
        choices = TrainingChoices(batch_size=1, max_length=64)
        _sane(memory.predict(sources.from_config(configs()[0], "m"), device, choices))
        assert all(map(math.isfinite, device.calibration.errors.values())) if device.calibration else True
        for line in (*said.getvalue().splitlines(), *calibration_sentences(device)):
            oracle.complaint(line)
        json.dumps(device.calibration and device.calibration.summary(), allow_nan=False)


def _fitted() -> None:
    """The observations as the fit sees them."""
    from planner.calibration.features import rows

    with oracle.limited():
        rows(store.read_observations(), _profile("a10g"))


@cache
def _events() -> list[dict[str, Any]]:
    data = {
        "started": {"run_dir": "r", "pid": 1, "device": "cpu", "total_steps": 5, "epochs": 1.0, "versions": {}},
        "phase": {"name": "train", "detail": "x"},
        "data": {"examples": 3, "validation_examples": 1, "tokens": 9, "truncated": 0, "lengths": {}, "skipped": 0},
        "step": {
            "step": 1,
            "total_steps": 5,
            "epoch": 0.1,
            "loss": 1.5,
            "learning_rate": 1e-4,
            "grad_norm": 1.0,
            "tokens_per_second": 10.0,
            "step_seconds": 0.1,
            "allocated_peak_bytes": 10,
            "seconds_left": 3.0,
        },
        "eval": {"step": 1, "loss": 1.0, "perplexity": 2.7, "best": True, "sample": "x"},
        "checkpoint": {"path": "checkpoint-1", "step": 1, "kind": "last"},
        "warning": {"what": "x", "message": "y", "advice": "z"},
        "oom": {"phase": "step", "step": 1, "batch_size": 2, "new_batch_size": 1, "gradient_accumulation_steps": 2},
        "paused": {"step": 1},
        "finished": {"reason": "stopped", "adapter_path": "a", "steps": 5, "seconds": 3.0, "eval_loss": 1.0},
        "failed": {"message": "m", "exit_code": 4},
    }
    return [
        events.Event(kind=kind, time=1.7e9, data=content).model_dump(mode="json", by_alias=True)
        for kind, content in data.items()
    ]


def runs(random: Random, folder: Path) -> None:
    """Run folders with damaged events and plans beside a good one, which is found all the same."""
    from planner.tui import history

    events = _events()
    good = b"".join(json.dumps(event).encode() + b"\n" for event in events[:4])
    bad = b""
    for event in random.choices(events, k=random.randint(1, 6)):
        changed = mutations.mutate(event, random, tuple(event)) if random.random() < 0.7 else event
        bad += mutations.text(changed, random).replace(b"\n", b" ") + b"\n"
    whole = mutations.mutate(plan_content(), random, PLAN_KEYS) if random.random() < 0.3 else plan_content()
    for name, written, content in (("good", good, plan_content()), ("bad", bad, whole)):
        run = folder / name
        (run / "checkpoint-1").mkdir(parents=True)
        (run / "events.jsonl").write_bytes(written)
        (run / "plan.yaml").write_bytes(mutations.text(content, Random(1)))
    with oracle.limited():
        found = {run.folder.name: run for run in history.unfinished(folder)}
        if "good" not in found:
            raise oracle.Broken(f"the good run is hidden: {sorted(found)}")
        for run in found.values():
            oracle.complaint(" ".join(run.cells(run.changed + 60.0)))
            oracle.asked(lambda run=run: history.reopen(run))


KINDS: dict[str, Case] = {
    "config": config,
    "plan": plan,
    "cli": cli,
    "calibration": calibration,
    "runs": runs,
    "data": data_files.data,
    "tokens": data_files.tokens,
}
