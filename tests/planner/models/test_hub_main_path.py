"""The main path by hub id against a hub of this machine: planned, shown, trained; what is gated or broken is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from planner.cli import main
from planner.contract.errors import InvalidInput
from planner.handover import plans
from planner.models.sources import hub as client
from planner.models.sources import load_model
from planner.tui.app import TuneplanApp
from planner.tui.screens.data import DataScreen
from planner.tui.screens.end import EndScreen
from planner.tui.screens.plan import PlanScreen
from tests.support.clock import tries
from tests.support.hub_stand_in import TOKEN, Hub, Repository, serve
from tests.support.trainer_support import make_model, write_pairs
from tests.support.tui_support import flat, settle, type_text, until

TINY, INSTRUCT = "stand-in/tiny", "meta-llama/Llama-3.2-1B-Instruct"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with its tokenizer."""
    return make_model(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that holds the small model openly, and gated under the id of a catalogue's Instruct."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with serve() as served:
        served.models = {TINY: Repository(tiny), INSTRUCT: Repository(tiny, gated=True)}
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield served


def app_for(tmp_path: Path, **more: object) -> TuneplanApp:
    """The wizard at its model step, for a run of a few steps."""
    write_pairs(tmp_path / "pairs.jsonl")
    return TuneplanApp(
        gpu="cpu",
        output=tmp_path / "runs",
        start_folder=tmp_path,
        settings={"batch_size": 2, "gradient_accumulation_steps": 1, "precision": "fp32", "max_length": 64},
        hyperparameters={"max_steps": 2, "report_to": (), "sample_max_new_tokens": 4},
        **more,  # type: ignore[arg-type]
    )


async def plan_by_keys(app: TuneplanApp, pilot: Pilot[int], model: str, data: Path) -> None:
    """Types the model and the data, up to the plan."""
    await settle(app, pilot)
    await type_text(pilot, model)
    await settle(app, pilot)
    for _ in range(2):
        await pilot.press("enter")
        await settle(app, pilot)
        if isinstance(app.screen, DataScreen):
            break
    assert isinstance(app.screen, DataScreen)
    await pilot.press("shift+tab")
    await type_text(pilot, str(data))
    for _ in range(2):
        await pilot.press("enter")
        await settle(app, pilot)
    assert isinstance(app.screen, PlanScreen)


async def test_a_model_of_the_hub_is_planned_and_trained_by_keys(hub: Hub, tmp_path: Path) -> None:
    app = app_for(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await plan_by_keys(app, pilot, TINY, tmp_path / "pairs.jsonl")
        await pilot.press("t")
        await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 120)
        assert app.run_snapshot.phase == "finished", app.run_snapshot.failure
        assert plans.load(Path(app.run_folder) / "plan.yaml").model == TINY
    assert any(TINY in path and path.endswith("/model.safetensors") for _, path, _ in hub.requests)
    assert [path for _, path, _ in hub.requests if path.endswith((".py", ".bin"))] == []


async def test_a_gated_instruct_is_told_with_the_way_in_and_never_taken_for_its_base(hub: Hub, tmp_path: Path) -> None:
    """GIVEN a catalogue's Instruct behind a licence THEN planning needs no hub, and the run says where to go."""
    app = app_for(tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await plan_by_keys(app, pilot, INSTRUCT, tmp_path / "pairs.jsonl")
        assert hub.requests == []
        assert app.wizard.model.id in (INSTRUCT, INSTRUCT.rsplit("/", 1)[1].lower())
        await pilot.press("t")
        await settle(app, pilot)
        if app.run_snapshot is None:  # this machine may be too small for it, which is asked
            await pilot.press("t")
        shown = flat(await _ended(app, pilot))
        assert app.run_snapshot.phase == "failed"
        assert f"accept its licence at {hub.address}/{INSTRUCT}" in app.run_snapshot.failure
        assert "HF_TOKEN" in app.run_snapshot.failure
        assert "HF_TOKEN" in shown
        assert plans.load(Path(app.run_folder) / "plan.yaml").model == INSTRUCT
    asked = {path for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked
    assert all(INSTRUCT in path for path in asked), asked


async def _ended(app: TuneplanApp, pilot: Pilot[int]) -> str:
    """The end screen, whatever came of the run."""
    for _ in tries(120):
        if isinstance(app.screen, EndScreen):
            break
        await pilot.pause(0.1)
    return await settle(app, pilot)


def test_with_a_token_the_gated_one_is_read_and_other_dimensions_are_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a plan from the catalogue's dimensions and weights of others THEN exit 2; planned anew it is true."""
    data, file = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "plan.yaml"
    words = ["check", "--gpu", "cpu", "--model", INSTRUCT, "--data", str(data), "--precision", "fp32", "--batch-size"]
    words += ["1", "--max-length", "64", "--save", str(file)]
    assert main(words) in (0, 3)
    assert plans.load(file).model_config_inline["hidden_size"] == 2048
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["train", str(file), "--output", str(tmp_path / "run"), "--max-steps", "1"]) == 2
    err = capfd.readouterr().err
    assert "the plan was made for" in err
    assert TOKEN not in err
    assert any(token == TOKEN for _, _, token in hub.requests)
    assert main(words) == 0
    assert plans.load(file).model_config_inline["hidden_size"] == 32
    assert main(["train", str(file), "--output", str(tmp_path / "run2"), "--max-steps", "1"]) == 0


def test_the_planners_own_client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models["stand-in/gated"] = Repository(hub.models[TINY].folder, gated=True)
    assert load_model(TINY).num_layers == 2
    with pytest.raises(InvalidInput, match=f"accept its licence at {hub.address}/stand-in/gated and give your token"):
        load_model("stand-in/gated")
    with pytest.raises(InvalidInput, match=r"401 \(the model is gated or private"):
        load_model("stand-in/nothing")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n")  # as `hf auth login` leaves it
    assert load_model("stand-in/gated").num_layers == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidInput, match="HF_HUB_OFFLINE is set"):
        load_model(TINY)


def test_a_hub_that_breaks_off_or_drips_is_told_in_time(hub: Hub) -> None:
    folder = hub.models[TINY].folder
    hub.models["stand-in/cut"] = Repository(folder, cut_after=100)
    hub.models["stand-in/drip"] = Repository(folder, drip_seconds=0.05)
    with pytest.raises(client.Unreachable, match=r"broke off after 100 of the \d+ bytes"):
        client.fetch_config("stand-in/cut")
    with pytest.raises(client.Unreachable, match="too slow"):
        client.fetch_config("stand-in/drip", timeout_seconds=0.5)


def test_data_of_the_hub(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GIVEN a plan whose data is a data set of the hub THEN it is fetched and trained on."""
    source = tmp_path / "rows"
    source.mkdir()
    write_pairs(source / "train.jsonl")
    hub.datasets["stand-in/rows"] = Repository(source)
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)
    file = tmp_path / "plan.yaml"
    words = ["check", "--gpu", "cpu", "--model", TINY, "--precision", "fp32", "--batch-size", "2", "--max-length", "64"]
    assert main([*words, "--save", str(file)]) == 0
    run = ["train", str(file), "--max-steps", "1", "--report-to", "tensorboard", "--output", str(tmp_path / "run")]
    assert main([*run, "--data", "stand-in/rows"]) == 0, capfd.readouterr().err
    assert hub.asked("train.jsonl")


@pytest.mark.nightly
def test_data_that_the_hub_does_not_have(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.yaml"
    words = ["check", "--gpu", "cpu", "--model", TINY, "--precision", "fp32", "--batch-size", "2", "--max-length", "64"]
    assert main([*words, "--save", str(file)]) == 0
    capfd.readouterr()
    words = ["train", str(file), "--max-steps", "1", "--data", "stand-in/nothing", "--output", str(tmp_path / "none")]
    assert main(words) == 2
    assert "stand-in/nothing" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.nightly
async def test_a_catalogues_instruct_of_true_size_by_its_hub_id(
    hub: Hub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """GIVEN the catalogue's smallest Instruct with random weights THEN plan, `t`, and it is trained under its id."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from planner.models import catalogue
    from trainer.commands.demo import tokenizer

    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder = tmp_path_factory.mktemp("large")
    entry = dict(catalogue.entry(name).config)
    config = AutoConfig.for_model(entry.pop("model_type"), **entry)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.build().save_pretrained(folder)
    hub.models[name] = Repository(folder)
    app = app_for(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await plan_by_keys(app, pilot, name, tmp_path / "pairs.jsonl")
        await pilot.press("t")
        await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 300)
        assert app.run_snapshot.phase == "finished", app.run_snapshot.failure
        assert plans.load(Path(app.run_folder) / "plan.yaml").model == name
    assert {path.split("/resolve/")[0] for _, path, _ in hub.requests if "/resolve/" in path} == {f"/{name}"}
