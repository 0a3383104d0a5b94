"""Host memory that really ends: no library crashes on it, a cgroup's limit is found, and a crash leaves a note."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from planner.contract.files import MARK
from tests.support.trainer_support import make_plan, of_kind, train
from trainer.measure import devices
from trainer.recovery import lastwords, limits, room

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")

SQUEEZED = """
import json, os, resource, sys
import torch
from trainer.measure import devices
from trainer.recovery import room
from trainer.modeling.lean import products

torch.set_num_threads(1)
with room._Asking():
    torch.ones(2).add_(1)

def child(dtype, rows, columns, out, left):
    x, weight = torch.randn(rows, columns, dtype=dtype), torch.randn(out, columns, dtype=dtype)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + left, -1))
    try:
        with room.asked_first(torch.device("cpu")):
            made = products.linear(x, weight)
    except Exception as error:
        return 1 if devices.is_out_of_memory(error) else 2
    return 0

codes = []
for dtype in (torch.float32, torch.bfloat16):
    for shape in ((128, 128, 128), (64, 512, 4096)):
        needed = shape[0] * shape[2] * dtype.itemsize
        # The quarter MiBs after the result's own bytes are where code is compiled without room for it.
        for left in [needed // 2, *(needed + quarter * 2**18 for quarter in range(8)), needed + 2**26]:
            pid = os.fork()
            if pid == 0:
                os._exit(child(dtype, *shape, left))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(codes))
"""


@LINUX
def test_a_product_without_room_is_an_exception_and_never_a_signal() -> None:
    """oneDNN ended a third of these 40 with SIGSEGV before it was asked whether there is room."""
    done = subprocess.run([sys.executable, "-c", SQUEEZED], capture_output=True, text=True, env={**os.environ})
    codes = json.loads(done.stdout)
    assert len(codes) == 40
    assert set(codes) == {0, 1}


def test_what_is_asked_for_is_the_result() -> None:
    a, b, c = torch.zeros(3, 5), torch.zeros(5, 700), torch.zeros(700)
    bf16 = a.to(torch.bfloat16)
    assert room.result_bytes("mm", (a, b)) == 3 * 700 * 4
    assert room.result_bytes("mm", (bf16, b)) == 3 * 700 * 2
    assert room.result_bytes("addmm", (c, a, b)) == 3 * 700 * 4
    assert room.result_bytes("addmm_", (c, a, b)) == 0  # written in place
    assert room.result_bytes("bmm", (a.expand(4, 3, 5), b.expand(4, 5, 700))) == 4 * 3 * 700 * 4
    assert room.result_bytes("_linear_pointwise", (a, b.t(), None)) == 3 * 700 * 4
    assert room.result_bytes("gelu", (b,)) == 2 * 5 * 700 * 4
    assert room.result_bytes("add", (a, a)) is None


def test_out_of_memory_is_known_by_its_kind_and_words() -> None:
    import errno

    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 8192 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        type("PanicException", (BaseException,), {})("ThreadPoolBuildError { kind: IOError(Os { code: 11 }) }"),
    ):
        assert devices.is_out_of_memory(error), error
    # A sentence in somebody's data is no shortage.
    assert not devices.is_out_of_memory(ValueError("row 3: the answer was 'std::bad_alloc'"))
    assert not devices.is_out_of_memory(OSError(errno.ENOENT, "No such file"))


# ---- the cgroup ----------------------------------------------------------------------------------------------------


def group(folder: Path, names: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in names.items():
        (folder / name).write_text(text + "\n")


def test_the_tightest_group_counts_in_both_versions(tmp_path: Path) -> None:
    own = tmp_path / "own"
    v2 = tmp_path / "v2"
    own.write_text("0::/outer/inner\n")
    group(v2 / "outer", {"memory.max": "3000", "memory.current": "2500", "memory.stat": "inactive_file 100\nanon 5"})
    group(v2 / "outer/inner", {"memory.max": "max", "memory.current": "900", "memory.stat": "anon 5"})
    found = limits.cgroup(v2, own)
    assert found is not None
    assert (found.folder, found.limit, found.held) == (v2 / "outer", 3000, 2400)
    # v1, seen from within a container: the path in /proc is its host's.
    v1 = tmp_path / "v1"
    own.write_text("3:cpu:/x\n4:memory:/docker/abc\n")
    stat = "cache 900\ntotal_inactive_file 300\ntotal_active_file 100"
    group(v1 / "memory", {"memory.limit_in_bytes": "8000", "memory.usage_in_bytes": "5000", "memory.stat": stat})
    found = limits.cgroup(v1, own)
    assert found is not None
    assert (found.limit, found.held) == (8000, 4600)
    group(v1 / "memory", {"memory.limit_in_bytes": str(2**63 - 4096)})
    assert limits.cgroup(v1, own) is None
    assert limits.cgroup(tmp_path / "none", tmp_path / "missing") is None


@LINUX
def test_the_fence_is_put_up_where_a_group_ends_and_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limits.fenced() as free:
        if limits.cgroup() is None:
            assert free is None
    tight = limits.MemoryGroup(folder=Path("/x"), limit=2**31, held=2**30)
    monkeypatch.setattr(limits, "cgroup", lambda: tight)
    with limits.fenced(2) as free:
        assert free == (2**30 - 2**26) // 2
        assert limits.limited()
        assert limits.has(2**28)
        assert not limits.has(2**29)
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**29, dtype=torch.uint8)
        assert devices.is_out_of_memory(caught.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@LINUX
def test_a_group_too_small_for_the_libraries_is_told_as_every_failure_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, since it is found before anything is loaded: one line on stderr, one `failed` on stdout."""
    plan = make_plan(tmp_path / "plan.json", tmp_path / "model", tmp_path / "pairs.jsonl")
    monkeypatch.setattr(limits, "cgroup", lambda: limits.MemoryGroup(folder=Path("/x"), limit=2**28, held=2**26))
    events, failure = train(plan, tmp_path / "run")
    assert str(failure).startswith("out of memory: this process's memory cgroup has 192 of 256 MiB left")
    assert [failed["exit_code"] for failed in of_kind(events, "failed")] == [4]
    assert not (tmp_path / "run").exists()


# ---- last words ----------------------------------------------------------------------------------------------------


def note(folder: Path, *, crash: str = "", kills: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    line = json.dumps({"rows": 4, "eval_rows": 3, "kills": limits.kills() if kills is None else kills})
    (folder / "last-words-0.txt").write_text(f"{line}\n{crash}")


def test_only_a_crash_or_the_kernel_takes_rows_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lastwords.fewer(tmp_path) is None
    note(tmp_path)  # kill -9, power cut
    assert lastwords.fewer(tmp_path) is None
    note(tmp_path, crash="Fatal Python error: Segmentation fault\n\nCurrent thread")
    assert lastwords.fewer(tmp_path) == {"rows": 2, "eval_rows": 1}
    note(tmp_path)
    monkeypatch.setattr(limits, "kills", lambda: 10**9)
    assert lastwords.fewer(tmp_path) == {"rows": 2, "eval_rows": 1}
    for damage in ("", "{", '{"rows": "x", "eval_rows": 1, "kills": 0}', "[1]\n" * 9, "\0\xff" * 99, "9" * 5000):
        (tmp_path / "last-words-0.txt").write_text(damage + "\nFatal Python error: x")
        assert lastwords.fewer(tmp_path) is None, damage
    (tmp_path / "last-words-0.txt").unlink()
    (tmp_path / "last-words-0.txt").symlink_to("/etc/passwd")
    assert lastwords.fewer(tmp_path) is None


@LINUX
def test_a_process_that_crashes_leaves_its_note_and_one_that_ends_does_not(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from trainer.recovery.lastwords import LastWords;"
        "words = LastWords(Path(sys.argv[1])); words.begin(8, 8); words.begin(4, 8);"
        "words.end() if sys.argv[2] == '0' else os.kill(os.getpid(), int(sys.argv[2]))"
    )
    for number, left in ((signal.SIGSEGV, {"rows": 2, "eval_rows": 4}), (signal.SIGKILL, None), (0, None)):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(int(number))], capture_output=True)
        assert done.returncode == -int(number)
        assert lastwords.fewer(tmp_path) == left, number
    assert list(tmp_path.iterdir()) == []


def test_a_stderr_without_a_file_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, or in a test that captures what is said."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "__stderr__", io.StringIO())
    monkeypatch.setattr(faulthandler, "is_enabled", lambda: True)
    words = lastwords.LastWords(tmp_path)
    words.begin(2, 2)
    words.end()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_memory_ended_goes_on_with_half_the_rows(model: Path, data: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "plan.json", model, data, settings={"lora_dropout": 0.0}, max_steps=2)
    events, failure = train(plan, tmp_path / "whole")
    assert failure is None
    assert not list((tmp_path / "whole").glob("last-words*"))
    (tmp_path / "halved").mkdir()
    shutil.copy(tmp_path / "whole" / MARK, tmp_path / "halved")
    note(tmp_path / "halved", crash="Fatal Python error: Segmentation fault")
    again, failure = train(plan, tmp_path / "halved")
    assert failure is None
    assert [warning["what"] for warning in of_kind(again, "warning")] == ["killed for want of memory"]
    assert not list((tmp_path / "halved").glob("last-words*"))
    losses = [[step["loss"] for step in of_kind(each, "step")] for each in (events, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
