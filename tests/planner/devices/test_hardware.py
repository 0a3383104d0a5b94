"""Device profiles: complete, sourced, found by the names people write, and quick to load."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.spec import HardwareProfile
from planner.contract.units import GIB, MIB
from planner.devices import apple, hardware, profiles
from planner.devices.host import cgroup_limit_bytes
from tests.support.clock import reference_seconds

PROFILES = {profile.name: profile for profile in profiles.all_profiles()}

PROMISED = """
    a10g l4 t4 v100-16gb v100-32gb a100-40gb a100-80gb l40s h100-80gb h200 b200 rtx-3060-12gb rtx-3070 rtx-3090
    rtx-4060-ti-16gb rtx-4070-ti rtx-4080 rtx-4090 rtx-5090 rtx-a6000 gtx-1050-ti mi300x m1-16gb m2-24gb m3-18gb
    m4-max-128gb cpu
"""


def test_every_promised_device_is_there():
    assert [name for name in PROMISED.split() if name not in PROFILES] == []


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
def test_profile_is_complete_and_plausible(profile: HardwareProfile):
    file = tomllib.loads((profiles.FOLDER / f"{profile.name}.toml").read_text())
    assert file["name"] == profile.name
    for fact in profile.facts.values():
        assert fact.source
        assert fact.date
        assert fact.unit in profiles.UNIT_FACTORS
    assert 0 < profile.budget_bytes <= profile.total_bytes
    assert set(profile.dtypes) <= set(profile.flops_per_second)
    if profile.kind == "cuda":
        # usable bytes lie a little under what is sold: marketing GB never enters
        sold = file["memory_gb"] * GIB
        assert 0.87 * sold < profile.total_bytes < 1.02 * sold
        assert profile.compute_capability is not None
        major = profile.compute_capability[0]
        assert ("bf16" in profile.dtypes) == (major >= 8)
        assert profile.cublas_workspace_bytes == (32 * MIB if major >= 9 else 4096 * 1024 * 2 + 16 * 1024 * 8)
        assert 0.09 * GIB < profile.context_bytes <= 0.75 * GIB
        if "nvidia_smi_total" in profile.facts:
            assert profile.total_bytes <= profiles.amount(profile.facts["nvidia_smi_total"])
        # dense tensor rate over plain fp32 never exceeds what an architecture's multiprocessor can do
        assert profile.flops_per_second["fp16"] / profile.flops_per_second["fp32"] < 30


def test_facts_of_an_a10g_by_hand():
    card = profiles.load("a10g")
    assert card.total_bytes == 22587 * MIB
    assert card.context_bytes == round(0.30 * GIB)
    assert card.bandwidth_bytes_per_second == 600e9
    assert card.flops_per_second == {"fp32": 35e12, "tf32": 35e12, "bf16": 70e12, "fp16": 70e12}
    assert card.compute_capability == (8, 6)
    assert card.cublas_workspace_bytes == 8_519_680


@pytest.mark.parametrize("name", [name for name in profiles.names() if name[:2] in ("m1", "m2", "m3", "m4")])
def test_a_mac_s_budget_is_the_working_set_that_was_measured(name: str):
    """Less what the system keeps, where RAM less 4 GiB is smaller; between measured sizes it says that it is a rule."""
    mac = profiles.load(name)
    size = round(profiles.amount(mac.facts["unified_memory"]) / GIB)
    basis = mac.facts["working_set"].source
    if size in apple.MEASURED:
        assert mac.total_bytes == apple.MEASURED[size]
        assert "measured" in basis
    else:
        assert size in (18, 96, 192, 512)
        assert basis.startswith("rule:")
    assert mac.budget_bytes == min(mac.total_bytes, (size - 4) * GIB)
    assert mac.largest_buffer_bytes == int(0.75 * mac.total_bytes)


def test_unmeasured_sizes_lie_between_their_neighbours():
    shares = {size: apple.working_set(size * GIB)[0] / (size * GIB) for size in (16, 18, 24, 64, 96, 128, 256, 512, 4)}
    assert shares[16] == pytest.approx(shares[18], abs=1e-4)  # both neighbours have 74 %
    assert shares[64] < shares[96] < shares[128]
    assert shares[512] == shares[256]
    assert shares[4] == pytest.approx(apple.MEASURED[8] / (8 * GIB))


@pytest.mark.parametrize(("size", "buffer"), [(48, 30_150_672_384), (64, 41_747_087_360), (128, 86_586_540_032)])
def test_the_largest_buffer_is_what_metal_said(size: int, buffer: int):
    assert apple.largest_buffer(apple.working_set(size * GIB)[0]) == pytest.approx(buffer, rel=0.001)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("A10G", "a10g"),
        ("NVIDIA A10G", "a10g"),
        ("A10G-24GB", "a10g"),
        ("rtx4090", "rtx-4090"),
        ("RTX 4090 24GB", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("a100", "a100-40gb"),
        ("A100-80GB", "a100-80gb"),
        ("A100 80 GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("v100", "v100-16gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla T4", "t4"),
        ("h100", "h100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("RTX_6000_Ada", "rtx-6000-ada"),
        ("RTX A6000", "rtx-a6000"),
        ("1050 ti", "gtx-1050-ti"),
        ("MI300X", "mi300x"),
        ("MacBook Pro M3 18GB", "m3-18gb"),
        ("m3-pro-18gb", "m3-18gb"),
        ("Apple M4 Max 64GB", "m4-max-64gb"),
        ("CPU", "cpu"),
    ],
)
def test_aliases_as_people_write_them(written: str, name: str):
    assert hardware.find(written).name == name


def test_no_alias_means_two_devices():
    owner: dict[str, str] = {}
    for name in profiles.names():
        for alias in (name, *PROFILES[name].aliases):
            key = profiles.normalise(alias)
            assert owner.setdefault(key, name) == name, f"{alias} names {owner[key]} and {name}"


@pytest.mark.parametrize(
    ("wrong", "near"), [("a11g", "a10g"), ("rtx 4095", "rtx-4090"), ("V100-64GB", "v100-16gb"), ("m3-20gb", "m3-")]
)
def test_unknown_name_names_its_neighbours_in_one_line(wrong: str, near: str):
    with pytest.raises(InvalidInput) as caught:
        hardware.find(wrong)
    message = str(caught.value)
    assert repr(wrong) in message
    assert near in message
    assert "\n" not in message


@pytest.mark.parametrize("wrong", ["", "   ", "quantum-chip", "RTX 4090 48GB"])
def test_unknown_name_without_neighbours_is_still_clear(wrong: str):
    with pytest.raises(InvalidInput, match="unknown GPU"):
        hardware.find(wrong)


def test_one_profile_costs_less_than_20_ms():
    def cold(name: str) -> None:
        profiles.load.cache_clear()
        profiles._alias_index.cache_clear()
        profiles.load(name)

    assert reference_seconds(lambda: cold("a10g")) < 0.020
    assert reference_seconds(lambda: cold("NVIDIA A100-SXM4-80GB")) < 0.020


GOOD = (profiles.FOLDER / "a10g.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('kind = "cuda"', 'kind = "tpu"', "kind 'tpu' must be one of"),
        ('unit = "GB/s"', 'unit = "GBps"', r"\[facts.bandwidth\] unit 'GBps' is unknown"),
        ("[facts.context]", "[facts.contxt]", r"\[facts.context\] is missing"),
        ("value = 600", 'value = "600"', r"\[facts.bandwidth\] value must be a number"),
        ("value = 600", "value = -1", r"\[facts.bandwidth\] value must be a number"),
        ('dtypes = ["fp32", "bf16", "fp16"]', 'dtypes = ["fp8"]', "dtypes must be some of"),
        ('name = "a10g"', "", "name is missing"),
        ("[facts.flops_bf16]", "[facts.flops_bf17]", r"\[facts.flops_bf16\] is missing"),
        ("kind =", "kind", "not valid TOML"),
    ],
)
def test_a_broken_profile_says_which_key(tmp_path: Path, old: str, new: str, complaint: str):
    assert old in GOOD
    file = tmp_path / "broken.toml"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InvalidInput, match=complaint):
        profiles.read(file)


def test_a_fact_without_a_source_is_refused(tmp_path: Path):
    lines = [line for line in GOOD.splitlines() if not line.startswith("source")]
    (tmp_path / "x.toml").write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match="exactly value, unit, source and date"):
        profiles.read(tmp_path / "x.toml")


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path):
    with pytest.raises(TuneplanError, match="cannot be read"):
        profiles.read(tmp_path / "none.toml")


def test_the_containers_limit_counts(tmp_path: Path):
    limit = tmp_path / "memory.max"
    limit.write_text("2147483648\n")
    assert cgroup_limit_bytes((str(tmp_path / "absent"), str(limit))) == 2 * GIB
    limit.write_text("max\n")
    assert cgroup_limit_bytes((str(limit),)) is None
