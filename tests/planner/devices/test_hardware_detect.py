"""What is found on a machine. The hardware that isn't here is stood in for by objects with its library's answers."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from planner.contract.errors import NotModelled
from planner.contract.units import GIB, MIB
from planner.devices import apple, hardware


class FakeNvml(SimpleNamespace):
    """NVML's Python binding with one card; only the calls that the planner makes."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, nvmlMemory_v2 = 1, 2, 0x2000028

    def __init__(self, name: str, total: int, used: int = 0, reserved: int = 0, old: bool = False, **card):
        super().__init__(name=name, total=total, used=used, reserved=reserved, old=old, asked=[], **card)

    def nvmlInit(self): ...
    def nvmlShutdown(self): ...
    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        self.asked.append(index)
        return "card"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked.append(uuid)
        return "card"

    def nvmlDeviceGetName(self, handle):
        return self.name

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        if version is None:
            return SimpleNamespace(total=self.total, free=self.total - self.used - self.reserved)
        if self.old:
            raise self.NVMLError("function not found")
        return SimpleNamespace(total=self.total, free=self.total - self.used - self.reserved, reserved=self.reserved)

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return self.capability

    def nvmlDeviceGetNumGpuCores(self, handle):
        return self.cores

    def nvmlDeviceGetMaxClockInfo(self, handle, which):
        return self.clock if which == self.NVML_CLOCK_SM else self.memory_clock

    def nvmlDeviceGetMemoryBusWidth(self, handle):
        return self.bus


@pytest.fixture
def card(monkeypatch):
    def install(*args, **kwargs) -> FakeNvml:
        nvml = FakeNvml(*args, **kwargs)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return nvml

    return install


def test_a_known_card_gets_its_profile_with_the_real_memory(card):
    card("NVIDIA A10G", total=23028 * MIB, reserved=440 * MIB, used=1000 * MIB)
    found = hardware.detect()
    assert found.profile.name == "a10g"
    assert found.total_bytes == found.profile.total_bytes == 22588 * MIB
    assert found.used_by_others_bytes == 1000 * MIB
    assert found.note == ""
    assert hardware.find("auto").name == "a10g"


def test_an_old_driver_counts_its_own_share_as_used(card):
    card("Tesla T4", total=15109 * MIB, reserved=0, used=3 * MIB, old=True)
    found = hardware.detect()
    assert (found.profile.name, found.total_bytes, found.used_by_others_bytes) == ("t4", 15109 * MIB, 3 * MIB)


def test_the_memory_tells_variants_apart(card):
    card("NVIDIA GeForce RTX 3060", total=8192 * MIB)
    found = hardware.detect()
    assert found.total_bytes == 8192 * MIB
    assert "8.0 GiB" in found.note
    assert "rtx-3060-12gb" in found.note


def test_an_unknown_card_is_built_from_nvml(card):
    card(
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        total=16376 * MIB,
        capability=(8, 9),
        cores=9728,
        clock=2040,
        memory_clock=9001,
        bus=256,
    )
    found = hardware.detect()
    assert found.profile.flops_per_second["fp32"] == pytest.approx(2 * 9728 * 2.04e9)
    assert found.profile.flops_per_second["bf16"] == pytest.approx(2 * 2 * 9728 * 2.04e9)
    assert found.profile.bandwidth_bytes_per_second == pytest.approx(576.064e9)
    assert found.profile.cublas_workspace_bytes == 8519680
    assert "lower bound" in found.note


def test_an_unknown_old_card_has_no_bf16(card):
    card("Quadro P4000", total=8192 * MIB, capability=(6, 1), cores=1792, clock=1708, memory_clock=3802, bus=256)
    assert hardware.detect().profile.dtypes == ("fp32", "fp16")


@pytest.mark.parametrize(("visible", "asked"), [("1,0", [1]), ("GPU-abc", ["GPU-abc"])])
def test_cuda_visible_devices_chooses_the_card(card, monkeypatch, visible, asked):
    nvml = card("NVIDIA L4", total=23034 * MIB, reserved=400 * MIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.detect().profile.name == "l4"
    assert nvml.asked == asked


def test_hidden_cards_leave_the_cpu(card, monkeypatch):
    card("NVIDIA L4", total=23034 * MIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(sys, "platform", "linux")
    assert hardware.detect().profile.kind == "cpu"


def test_a_driver_that_fails_is_named(card, monkeypatch):
    nvml = card("NVIDIA L4", total=1)

    def lost(handle):
        raise nvml.NVMLError("GPU is lost")

    monkeypatch.setattr(nvml, "nvmlDeviceGetName", lost, raising=False)
    with pytest.raises(NotModelled, match="GPU is lost"):
        hardware.detect()


def test_without_a_driver_the_cpu_is_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(sys, "platform", "linux")
    found = hardware.detect()
    assert found.profile.name == "cpu"
    assert 0 <= found.used_by_others_bytes < found.total_bytes
    assert "estimate" in found.note


def test_the_cpu_is_scaled_to_its_cores(monkeypatch):
    monkeypatch.setattr(hardware, "_usable_cores", lambda: 2)
    monkeypatch.setattr(hardware, "_has_bf16_units", lambda: False)
    assert hardware.find("cpu").flops_per_second == pytest.approx({"fp32": 0.1e12, "bf16": 0.05e12})
    monkeypatch.setattr(hardware, "_has_bf16_units", lambda: True)
    assert hardware.find("cpu").flops_per_second["bf16"] == pytest.approx(0.1e12)


def test_eight_and_sixteen_gb_variants_are_told_apart(card):
    card("NVIDIA GeForce RTX 4060 Ti", total=8188 * MIB, reserved=380 * MIB)
    assert hardware.detect().profile.name == "rtx-4060-ti-8gb"
    card("NVIDIA GeForce RTX 4060 Ti", total=16380 * MIB, reserved=430 * MIB)
    assert hardware.detect().profile.name == "rtx-4060-ti-16gb"


def test_macs_by_chip_and_memory():
    found = hardware.mac_from_facts("Apple M3 Pro", 18 * GIB)
    assert found is not None
    assert found.profile.name == "m3-18gb"
    assert found.total_bytes == apple.working_set(18 * GIB)[0]
    assert found.note == ""


def test_a_raised_limit_counts_but_the_system_keeps_4_gib():
    found = hardware.mac_from_facts("Apple M4 Max", 64 * GIB, wired_limit_bytes=63 * GIB)
    assert found is not None
    assert found.profile.budget_bytes == 60 * GIB
    assert "was set" in found.note


def test_a_newer_mac_takes_the_speed_of_the_newest_known():
    found = hardware.mac_from_facts("Apple M5 Pro", 48 * GIB)
    assert found is not None
    assert found.total_bytes == apple.MEASURED[48]
    assert "M4 Pro" in found.note


def test_what_metal_says_goes_before_any_table():
    found = hardware.mac_from_facts("Apple M3 Max", 64 * GIB, metal=(40 * GIB, 30 * GIB))
    assert found is not None
    assert (found.total_bytes, found.profile.largest_buffer_bytes) == (40 * GIB, 30 * GIB)


def test_metal_is_asked_on_a_mac_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "linux")
    assert apple.live() is None
    monkeypatch.setattr("sys.platform", "darwin")  # without the frameworks
    assert apple.live() is None or min(apple.live() or (0,)) > 0


def test_an_intel_mac_is_no_apple_gpu():
    assert hardware.mac_from_facts("Intel(R) Core(TM) i7", 16 * GIB) is None
