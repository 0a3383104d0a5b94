"""Which processor a machine names."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.measure import processor
from trainer.measure.processor import Processor

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu avx512f amx_bf16

processor\t: 1
vendor_id\t: GenuineIntel
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


def test_a_processor_is_named_by_maker_family_and_model() -> None:
    found = processor.of(INTEL)
    assert (found.vendor, found.family, found.model) == ("GenuineIntel", "6", "143")
    assert found.title == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (family 6, model 143)"


def test_one_without_a_maker_has_a_name_still() -> None:
    found = processor.of(ARM)
    assert found.vendor == ""
    assert found.title
    assert "family" not in found.title


@pytest.mark.parametrize(
    ("told", "vendor"),
    [("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", "GenuineIntel"), ("AMD64, AuthenticAMD", "AuthenticAMD"),
     ("arm", "")],
)  # fmt: skip
def test_without_the_kernel_s_list_the_system_s_name_says_the_maker(
    told: str, vendor: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(processor.platform, "processor", lambda: told)
    assert processor.processor.__wrapped__() == Processor(vendor=vendor, name=told)
