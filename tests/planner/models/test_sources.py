"""Finding a model by name, path, cache or hub; old and new forms of a config; every way in which it can be wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.devices import hardware
from planner.models import catalogue, recorded
from planner.models.recorded import Unlearned
from planner.models.sources import from_config, load_model
from tests.support.sources_cases import CASES

CONFIGS = dict(CASES)
LLAMA = CONFIGS["llama"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache and a hub that isn't there, unless a test sets up one."""
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def config(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in (LLAMA | keys).items() if value != "drop"}


# ---------------------------------------- where it is found


def test_a_file_and_a_folder_give_the_same_model(tmp_path: Path) -> None:
    file = write(tmp_path / "config.json", LLAMA)
    assert load_model(str(file)) == load_model(str(tmp_path)).__class__(**_fields(load_model(str(tmp_path)), str(file)))
    assert load_model(str(file)).parameters == from_config(LLAMA, "x").parameters


def _fields(spec: Any, identity: str) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__slots__} | {"id": identity}


def test_a_path_comes_before_a_catalogue_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "gpt2" / "config.json", LLAMA)
    monkeypatch.chdir(tmp_path)
    assert load_model("gpt2").architecture == "llama"


def cache(home: Path, hub_id: str, revision: str, content: Any, *, main: bool = True) -> None:
    folder = home / "hub" / f"models--{hub_id.replace('/', '--')}"
    write(folder / "snapshots" / revision / "config.json", content)
    if main:
        write(folder / "refs" / "main", revision)


def test_the_local_cache_is_read_at_revision_main(tmp_path: Path) -> None:
    cache(tmp_path / "hf", "someone/model", "aaa", config(num_hidden_layers=2))
    cache(tmp_path / "hf", "someone/model", "bbb", config(num_hidden_layers=3), main=False)
    spec = load_model("someone/model")
    assert (spec.id, spec.num_layers) == ("someone/model", 2)


def test_the_newest_snapshot_serves_where_main_is_missing(tmp_path: Path) -> None:
    cache(tmp_path / "hf", "someone/model", "ccc", LLAMA, main=False)
    assert load_model("someone/model").num_layers == 4


def test_hf_hub_cache_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere" / "hub"))
    cache(tmp_path / "elsewhere", "someone/model", "ddd", LLAMA)
    assert load_model("someone/model").num_layers == 4


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, one broken file, one gated model; it records what it was asked."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        answers = {
            "/someone/model/resolve/main/config.json": (200, json.dumps(LLAMA)),
            "/someone/broken/resolve/main/config.json": (200, "{"),
            "/someone/huge/resolve/main/config.json": (200, " " * (5 * 1024**2)),
            "/someone/gated/resolve/main/config.json": (401, ""),
        }
        if self.path == "/someone/moved/resolve/main/config.json":
            self.send_response(302)
            self.send_header("Location", "/someone/model/resolve/main/config.json")
            self.end_headers()
            return
        code, body = answers.get(self.path, (404, ""))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None]]]:
    handler = type("OneHub", (Hub,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_unknown_hub_id_is_fetched(hub: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    spec = load_model("someone/model")
    assert (spec.id, spec.num_layers) == ("someone/model", 4)
    assert hub == [("/someone/model/resolve/main/config.json", "Bearer secret")]


def test_the_token_is_not_sent_on_to_where_the_hub_redirects(
    hub: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert load_model("someone/moved").num_layers == 4
    assert [token for _, token in hub] == ["Bearer secret", None]


@pytest.mark.parametrize("known", ["phi-2", "microsoft/phi-2", "someone/cached"])
def test_what_is_known_here_is_not_fetched(hub: list[tuple[str, str | None]], known: str, tmp_path: Path) -> None:
    cache(tmp_path / "hf", "someone/cached", "aaa", LLAMA)
    load_model(known)
    assert hub == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("someone/nothing", "404"),
        ("someone/gated", "401.*HF_TOKEN"),
        ("someone/broken", "line 1, column 2: not valid JSON"),
        ("someone/huge", "larger than"),
    ],
)
def test_a_hub_that_has_no_usable_config(hub: list[tuple[str, str | None]], name: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line_with_the_way_out() -> None:
    with pytest.raises(InvalidInput, match=r"cannot be reached.*config\.json is accepted too") as caught:
        load_model("someone/model")
    assert "\n" not in str(caught.value)


def test_offline_mode_asks_nobody(hub: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidInput, match="HF_HUB_OFFLINE"):
        load_model("someone/model")
    assert hub == []


# ---------------------------------------- wrong names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("phi2", "unknown; near: phi-2"),
        ("llama-3.2-2b", "near: .*llama-3.2-1b"),
        ("microsoft/phi-22", "near: phi-2"),
        ("no-such-thing-at-all", "'plan models' lists all"),
        ("", "--model is empty"),
        ("./nowhere", "no such file or folder"),
        ("nowhere/config.json", "no such file or folder"),
        ("a/b/c", "is unknown"),
    ],
)
def test_wrong_names(name: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        load_model(name)


def test_a_folder_without_config_and_one_with_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"holds no config\.json"):
        load_model(str(tmp_path))
    write(tmp_path / "adapter_config.json", {"base_model_name_or_path": "microsoft/phi-2"})
    with pytest.raises(InvalidInput, match="an adapter of 'microsoft/phi-2'"):
        load_model(str(tmp_path))


# ---------------------------------------- wrong configs


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "line 1, column 1: not valid JSON"),
        ('{"model_type": "llama",', "not valid JSON"),
        ("[1]", "holds a JSON list"),
        ("{}", "model_type is missing"),
        ({"model_type": 3}, "model_type is 3"),
        (b"\xff\xfe".decode("latin1"), "not valid JSON"),
    ],
)
def test_broken_files(tmp_path: Path, content: Any, text: str) -> None:
    file = write(tmp_path / "config.json", content)
    with pytest.raises(InvalidInput, match=text) as caught:
        load_model(str(file))
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\x80\x81\xff")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_model(str(file))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"hidden_size": 0}, "hidden_size is 0, but must be a whole number of at least 1"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"hidden_size": 30}, "hidden size 30 is not a multiple of 4"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 3}, "a divisor of the 4 attention heads"),
        ({"vocab_size": 1.5}, "vocab_size is 1.5"),
        ({"attention_dropout": 2}, "attention_dropout is 2"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes', but must be true or false"),
        ({"hidden_act": 7}, "hidden_act is 7"),
        ({"rope_scaling": "big"}, "rope_scaling"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"head_dim": 0}, "head_dim is 0"),
    ],
)
def test_nonsense_values_are_named_with_their_file(tmp_path: Path, keys: dict[str, Any], text: str) -> None:
    file = write(tmp_path / "config.json", config(**keys))
    with pytest.raises(InvalidInput, match=text) as caught:
        load_model(str(file))
    assert str(file) in str(caught.value)


def test_layer_types_must_name_every_layer() -> None:
    with pytest.raises(InvalidInput, match=r"layer_types.*4 entries"):
        from_config(CONFIGS["qwen2"] | {"layer_types": ["full_attention"]}, "x")


def test_a_type_without_a_written_program_asks_to_be_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    with pytest.raises(Unlearned, match="'mamba' has no written program; 'plan learn' records one") as caught:
        from_config({"model_type": "mamba", "hidden_size": 64}, "x")
    assert caught.value.wanted is None
    assert caught.value.config == {"model_type": "mamba", "hidden_size": 64}
    with pytest.raises(InvalidInput, match="must be a name"):
        from_config({"model_type": "../../etc"}, "x")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (CONFIGS["falcon-7b-like"] | {"alibi": True}, "alibi"),
        (CONFIGS["bert"] | {"is_decoder": True}, "is_decoder"),
        (CONFIGS["bert"] | {"position_embedding_type": "relative_key"}, "relative_key"),
        (CONFIGS["distilbert"] | {"sinusoidal_pos_embds": True}, "sinusoidal"),
        (CONFIGS["gpt2"] | {"add_cross_attention": True}, "add_cross_attention"),
        (LLAMA | {"architectures": ["LlamaForQuestionAnswering"]}, "LlamaForQuestionAnswering"),
        (CONFIGS["t5"] | {"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(NotModelled, match=text):
        from_config(raw, "x")


@pytest.mark.parametrize(
    ("stored", "name", "says"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            "Qwen/Qwen3-8B-GPTQ-Int4",
            "(gptq, 4 bits) … give Qwen/Qwen3-8B",
        ),
        (
            {"quant_method": "awq", "bits": 4},
            "someone/Qwen3-8B-AWQ",
            "(awq, 4 bits) … give Qwen/Qwen3-8B",
        ),
        ({"quant_method": "fp8"}, "Qwen/Qwen3-8B-FP8", "(fp8) aren't trained; give Qwen/Qwen3-8B and --method qlora"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            "unsloth/llama-3-8b-unsloth-bnb-4bit",
            "(bitsandbytes, 4 bits) aren't trained; give meta-llama/Meta-Llama-3-8B and --method qlora, which",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            "x/gemma-2-2b-it-bnb-8bit",
            "give google/gemma-2-2b-it and --method qlora, --quantization int8, which quantizes it while loading",
        ),
        (
            {"quant_method": "compressed-tensors"},
            "RedHatAI/Llama-3.2-1B-Instruct-FP8-dynamic",
            "give meta-llama/Llama-3.2-1B-Instruct",
        ),
        (
            {"quant_method": "mxfp4"},
            "some/thing",
            "(mxfp4) … give the model that they were made of with 16",
        ),
        (
            {"group_size": 64, "bits": 4},
            "mlx-community/Qwen3-8B-4bit",
            "(mlx, 4 bits) … give Qwen/Qwen3-8B",
        ),
        (
            {"quant_method": "hqq"},
            "some/thing",
            "(hqq) … give the model that they were made of and --method",
        ),
    ],
)
def test_a_quantised_copy_is_refused_with_what_to_load_instead(stored: dict[str, Any], name: str, says: str) -> None:
    with pytest.raises(NotModelled) as refused:
        from_config(LLAMA | {"quantization_config": stored}, name)
    assert says.replace("…", "aren't trained;") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["quantization_config", "quantization", "compression_config"])
def test_quantised_weights_are_seen_wherever_a_file_says_so(key: str) -> None:
    """GIVEN a multimodal file that says it beside or inside its text part THEN it isn't planned as plain."""
    whole, text = dict(catalogue.entry("gemma-3-4b").config), {"quant_method": "awq", "bits": 4}
    inner = whole["text_config"]
    assert isinstance(inner, dict)
    for config in (whole | {key: text}, whole | {"text_config": inner | {key: text}}, LLAMA | {key: text}):
        with pytest.raises(NotModelled, match="already quantized"):
            from_config(config, "x")
    named = LLAMA | {key: text, "_name_or_path": "Qwen/Qwen3-8B"}
    with pytest.raises(NotModelled, match="give Qwen/Qwen3-8B and"):
        from_config(named, "some/thing")


def test_a_task_that_the_family_has_not() -> None:
    with pytest.raises(NotModelled, match="'masked' is not modelled for llama"):
        from_config(LLAMA, "x", task="masked")


# ---------------------------------------- forms of configs


@pytest.mark.parametrize(
    ("name", "architecture", "task"),
    [
        ("llama", "LlamaForCausalLM", "causal"),
        ("llama", "LlamaModel", "causal"),
        ("gpt2", "GPT2LMHeadModel", "causal"),
        ("bert", "BertForPreTraining", "masked"),
        ("bert", "BertForSequenceClassification", "classification"),
        ("roberta", "RobertaForMaskedLM", "masked"),
        ("t5", "T5WithLMHeadModel", "seq2seq"),
        ("t5", "T5ForConditionalGeneration", "seq2seq"),
    ],
)
def test_the_head_follows_architectures(name: str, architecture: str, task: str) -> None:
    assert from_config(CONFIGS[name] | {"architectures": [architecture]}, "x").task == task


def test_labels_of_a_classifier_come_from_the_config() -> None:
    raw = LLAMA | {
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
    }
    assert from_config(raw, "x").modules[-1].out_features == 4
    plain = {key: value for key, value in LLAMA.items() if key != "num_labels"}
    assert from_config(plain, "x", task="classification").modules[-1].out_features == 2


@pytest.mark.parametrize(
    ("name", "window", "layers"),
    [
        ("llama", None, ()),
        ("mistral", None, ()),
        ("mistral-window", 4096, (0, 1, 2, 3)),
        ("qwen2", None, ()),
        ("qwen2-window", 8, (2, 3)),
        ("smollm3", 8, (3,)),
        ("gemma2", 4096, (0, 2)),
        ("gemma3", 4096, (0, 1, 3)),
        ("qwen2-moe-window", 8, (0, 2)),
        ("qwen3-moe-sparse-step", 8, (0, 1, 2, 3)),
        ("starcoder2-no-bias", 8, (0, 1, 2, 3)),
    ],
)
def test_sliding_layers(name: str, window: int | None, layers: tuple[int, ...]) -> None:
    spec = from_config(CONFIGS[name], name)
    assert (spec.sliding_window, spec.sliding_layers) == (window, layers)


def test_layer_types_win_over_the_older_keys() -> None:
    types = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    spec = from_config(CONFIGS["qwen2-window"] | {"layer_types": types}, "x")
    assert spec.sliding_layers == (1,)


def test_a_multimodal_gemma_is_planned_as_its_text_part() -> None:
    """The language model's own keys stand in text_config, the vision tower is no part of the plan."""
    text = {key: value for key, value in CONFIGS["gemma3"].items() if key != "num_labels"}
    raw = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    spec = from_config(raw, "x")
    assert (spec.architecture, spec.task) == ("gemma3_text", "causal")
    assert spec.parameters == from_config(CONFIGS["gemma3"], "x").parameters


@pytest.mark.parametrize("key", ["partial_rotary_factor", "rope_theta", "rope_type", "factor"])
@pytest.mark.parametrize("name", ["phi-2", "llama-3.2-1b", "gemma-3-1b", "pythia-70m"])
def test_null_among_rotary_parameters_is_as_good_as_nothing(name: str, key: str) -> None:
    """GIVEN a key with null THEN the network is that of the config without it, and has a peak."""
    given = dict(catalogue.entry(name).config)
    rope = given.pop("rope_parameters", None) or {"rope_type": "default"}
    without = {name: each for name, each in rope.items() if name != key}
    nulled = from_config({**given, "rope_parameters": {**without, key: None}}, "x")
    assert nulled.config == from_config({**given, "rope_parameters": without}, "x").config
    choices = TrainingChoices(max_length=64).with_usual_implementation("cuda")
    beside = from_config({**given, "rope_parameters": without, key: None}, "x")  # where older files have it
    for spec in (nulled, beside):
        assert memory.predict(spec, hardware.find("a100-80gb"), choices).allocated_peak_bytes > 0


def test_old_and_new_rotary_forms_give_the_same_config() -> None:
    old = from_config(config(rope_theta=5.0, rope_scaling={"type": "linear", "factor": 2.0}), "x").config
    new = from_config(
        config(rope_parameters={"rope_type": "linear", "type": "linear", "factor": 2.0, "rope_theta": 5.0}), "x"
    )
    assert old["rope_parameters"] == new.config["rope_parameters"]


def test_the_given_config_is_left_as_it_was() -> None:
    for name, raw in CASES:
        before = json.dumps(raw)
        from_config(raw, name)
        assert json.dumps(raw) == before


ODD: tuple[Any, ...] = (None, -1, 0, 1.5, "odd", True, [], {}, 10**30)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_value_of_any_key_ends_in_anything_but_an_error_of_ours(name: str) -> None:
    """GIVEN a good config WHEN any one of its keys holds something odd THEN it builds or is refused in one line."""
    raw = CONFIGS[name]
    completed = from_config(raw, name).config
    for key in completed.keys() | {"architectures", "id2label", "text_config", "rope_scaling", "quantization_config"}:
        for value in ODD:
            if key == "model_type" and value == "odd":
                continue
            message = refusal({**raw, key: value}, name)
            assert message is None or message.startswith(name), (key, value)
            assert message is None or "\n" not in message, (key, value)


def refusal(raw: dict[str, Any], name: str) -> str | None:
    """The text of our error, None where the config is accepted; any other exception passes through."""
    try:
        assert from_config(raw, name).parameters > 0
    except TuneplanError as error:
        return str(error)
    return None


def test_fields_of_a_mixture_of_experts() -> None:
    spec = from_config(CONFIGS["qwen2-moe"], "x")
    assert (spec.num_experts, spec.experts_per_token, spec.sparse_layers) == (6, 2, (0, 2, 3))
    assert (spec.expert_intermediate_size, spec.shared_expert_intermediate_size) == (12, 20)
    dense = from_config(CONFIGS["qwen3-moe"] | {"mlp_only_layers": [0, 1, 2, 3]}, "x")
    assert (dense.num_experts, dense.sparse_layers) == (0, ())


def test_positions_leave_out_what_roberta_reserves() -> None:
    assert load_model("roberta-base").max_positions == 512
    assert load_model("bert-base-uncased").max_positions == 512
    assert load_model("t5-small").max_positions == 0
    assert load_model("phi-2").max_positions == 2048


def test_dropouts_are_read_under_each_familys_names() -> None:
    phi = load_model("phi-2")
    assert (phi.attention_dropout, phi.hidden_dropout, phi.embedding_dropout) == (0.0, 0.1, 0.0)
    gpt2 = load_model("gpt2")
    assert (gpt2.attention_dropout, gpt2.hidden_dropout, gpt2.embedding_dropout) == (0.1, 0.1, 0.1)
    assert load_model("powerlm-3b").attention_dropout == 0.1
    assert load_model("distilbert-base-uncased").hidden_dropout == 0.1


def test_every_name_of_the_catalogue_loads() -> None:
    assert all(load_model(name).parameters > 0 for name in catalogue.names())


def test_a_name_too_long_for_a_file_is_a_name() -> None:
    with pytest.raises(InvalidInput, match="is unknown"):
        load_model("9" * 5000)


@pytest.mark.parametrize("model_type", ["../../../etc", "a/b", "a\0b", "x" * 5000])
def test_a_model_type_is_no_path(model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned of an unknown network stands in the data folder, whatever its config says."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    config = {"model_type": model_type, "architectures": 3}
    assert recorded.folder(config).parent == tmp_path / "recorded"
    with pytest.raises(recorded.Unlearned):
        recorded.spec_of(config, "m")
