"""State of a run as JSON and safetensors: equal to the bit, and nothing in the program can unpickle."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from trainer import modeling
from trainer.recovery import state_files
from trainer.weights import tensors
from trainer.weights.tensors import read_header

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*(ROOT / "planner").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")])
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
OBJECTS = {"gather_object", "all_gather_object", "scatter_object_list", "broadcast_object_list", "send_object_list"}
"""What torch and accelerate hand from process to process as pickles."""
EXPORT = ROOT / "planner" / "export" / "memory_viewer.py"
"""Writes the format of PyTorch's viewer, which is a pickle; it reads none."""


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return (
            ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and ours.stride() == theirs.stride()
            and torch.equal(ours.reshape(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8))
        )
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs) or (isinstance(ours, float) and math.isnan(ours) and math.isnan(theirs))


def test_a_state_comes_back_equal_to_the_bit(tmp_path: Path) -> None:
    shared = torch.randn(3)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 5).bfloat16(), "qmap": shared}, 1: {}},
        "groups": [{"lr": 1e-5 / 3, "betas": (0.9, 0.999), "params": [0, 1], "fused": None, "on": True}],
        "numbers": (2**70, -0.0, math.inf, math.nan, 5e-324),
        "transposed": torch.randn(4, 6).t(),
        "kinds": [torch.zeros(2, dtype=dtype) for dtype, _ in tensors.DTYPES.values()],
        "empty": torch.zeros(0, 7),
        "qmap": shared,
        "$odd": {"$tensor": "a text that looks like ours"},
        "deep": {"a": [{"b": ({},)}]},
    }
    state_files.write(tmp_path, "it", state)
    back = state_files.read(tmp_path, "it")
    assert same(state, back)
    assert back["qmap"] is back["state"][0]["qmap"]  # shared once, shared again
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "it.safetensors")["state/0/qmap"], shared)
    assert same(state, state_files.loads(state_files.dumps(state)))  # as it travels between processes
    for alone in (None, "é", [], 3.5):
        assert state_files.loads(state_files.dumps(alone)) == alone


def test_what_is_no_number_is_refused_when_it_is_written(tmp_path: Path) -> None:
    for value in (object(), {1.5: 2}, {"a": {3, 4}}, np.float64(2.0)):
        with pytest.raises(TypeError, match="can't be kept in a checkpoint"):
            state_files.write(tmp_path, "it", value)


@pytest.mark.parametrize(
    ("optimizer", "implementation"),
    [
        ("adamw", "fused"),
        ("adamw", "foreach"),
        ("adamw", "forloop"),
        ("sgd", "fused"),
        ("adafactor", "foreach"),
        ("adamw-8bit", "foreach"),
    ],
)
def test_an_optimizer_goes_on_bit_for_bit(tmp_path: Path, optimizer: str, implementation: Any) -> None:
    """GIVEN three updates WHEN the state passes through files THEN the next three are those without a pause."""
    choices = TrainingChoices(optimizer=optimizer, optimizer_implementation=implementation, method="full")

    def make() -> tuple[torch.nn.Module, Any]:
        torch.manual_seed(5)
        net = torch.nn.Sequential(torch.nn.Linear(80, 90), torch.nn.LayerNorm(90), torch.nn.Linear(90, 3))
        return net, modeling.build_optimizer(net, choices, Hyperparameters(learning_rate=1e-2))

    def update(net: torch.nn.Module, made: Any, number: int) -> None:
        inputs = torch.randn(7, 80, generator=torch.Generator().manual_seed(number))
        net(inputs).square().sum().backward()
        made.step()
        made.zero_grad()

    whole, whole_optimizer = make()
    for number in range(6):
        update(whole, whole_optimizer, number)
    first, first_optimizer = make()
    for number in range(3):
        update(first, first_optimizer, number)
    state_files.write(tmp_path, "optimizer", first_optimizer.state_dict())
    again, again_optimizer = make()
    again.load_state_dict(first.state_dict())
    again_optimizer.load_state_dict(state_files.read(tmp_path, "optimizer"))
    for number in range(3, 6):
        update(again, again_optimizer, number)
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), again.parameters(), strict=True))
    if optimizer == "adamw-8bit":
        kinds = {entry.dtype for entry in read_header(tmp_path / "optimizer.safetensors").values()}
        assert {"U8", "F32"} <= kinds


# ---- damage --------------------------------------------------------------------------------------------------------


def good_file(path: Path) -> bytes:
    tensors.write(path, {"a": torch.arange(6, dtype=torch.float32), "b": torch.ones(3, dtype=torch.int64)})
    return path.read_bytes()


def header_of(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length]))


def with_header(header: Any, body: bytes = b"\0" * 48) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_damaged_tensor_files_are_one_line_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    content = good_file(path)
    header = header_of(content)
    entry = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
    cases: dict[str, bytes] = {
        "empty": b"",
        "three bytes": content[:3],
        "header alone": content[:100],
        "short by one": content[:-1],
        "long by one": content + b"\0",
        "huge length": (2**63).to_bytes(8, "little") + content[8:],
        "length of the file": len(content).to_bytes(8, "little") + content[8:],
        "garbage": b"\x80\x04" * 200,
        "no object": with_header([1]),
        "not JSON": with_header(b"{" * 50),
        "deep": with_header(b"[" * 200_000),
        "digits": with_header(b'{"a": ' + b"9" * 5000 + b"}"),
        "entry is a text": with_header({"a": "x"}),
        "negative": with_header({"a": {**entry, "data_offsets": [-24, 0]}}),
        "truth": with_header({"a": {**entry, "shape": [True]}}),
        "fraction": with_header({"a": {**entry, "shape": [1.5]}}),
        "endless shape": with_header({"a": {**entry, "shape": [2**62, 2**62]}}),
        "another size": with_header({"a": {**entry, "shape": [5]}}),
        "overlap": with_header({"a": entry, "b": {**entry, "data_offsets": [12, 36]}}),
        "hole": with_header({"a": entry, "b": {**entry, "data_offsets": [28, 52]}}, b"\0" * 52),
        "half": with_header({**header, "b": header["a"]}),
    }
    for name, damaged in cases.items():
        path.write_bytes(damaged)
        for reader in (read_header, tensors.read):
            with pytest.raises(InvalidInput) as caught:
                reader(path)
            line = str(caught.value)
            assert line.startswith(str(path)), name
            assert "\n" not in line, name
            assert len(line) < 300, name
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="a link to a file that isn't there"):
        read_header(path)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_end_in_another_error(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "some.safetensors"
    content = good_file(path)
    for _ in range(25):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(min(len(damaged), 200))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        with contextlib.suppress(InvalidInput):
            tensors.read(path)


def test_damaged_states_are_one_line(tmp_path: Path) -> None:
    state_files.write(tmp_path, "it", {"a": torch.ones(3), "b": (1, 2)})
    whole = (tmp_path / "it.json").read_text()
    for text in (
        "",
        "[",
        "[]",
        "{}",
        whole[:-5],
        whole.replace('"a"', '"$map"'),
        whole.replace('"$tensor"', '"$tuple"'),
    ):
        (tmp_path / "it.json").write_text(text)
        with pytest.raises(InvalidInput, match=r"it\.json"):
            state_files.read(tmp_path, "it")
    (tmp_path / "it.json").write_text(whole)
    (tmp_path / "it.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"not written with it\.safetensors"):
        state_files.read(tmp_path, "it")


# ---- no pickle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_source_file_pickles(path: Path) -> None:
    """Names that read or write pickles, wherever they are called or imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names} & PICKLING
            assert not found or (path == EXPORT and found == {"pickle"}), found
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in PICKLING
        assert not any(str(getattr(node, name, "")) in OBJECTS for name in ("id", "attr", "name"))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}
            if node.value.id == "pickle":
                assert node.attr == "dumps"
        if isinstance(node, ast.keyword):
            assert node.arg not in {"allow_pickle", "weights_only"}
            if node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_the_trap_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()
