"""Units and the text of every number that a person reads. Bytes are integers inside; every other unit is in a name,
converted at the edge.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int64": 8, "int8": 1, "bool": 1}
"""Bytes per element of the storage types that the model distinguishes."""


def gib(size_bytes: float) -> float:
    """Bytes as GiB (2**30 bytes)."""
    return size_bytes / GIB


def format_bytes(size_bytes: float) -> str:
    """Bytes as text in the binary unit that leaves a number of three or four digits, e.g. `17.3 GiB`."""
    magnitude = abs(size_bytes)
    for unit, size in (("PiB", 1024**5), ("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if magnitude >= size:
            value = size_bytes / size
            return f"{value:.1f} {unit}" if abs(value) < 1000 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def format_count(count: float) -> str:
    """A count in three digits: `2.78 B`, `7.9 M`, `512`."""
    return _scaled(count, 1000, (" T", " B", " M", " k"), _plain(count))


def format_rate(per_second: float, unit: str) -> str:
    """A rate in three digits with its decimal prefix: `600 GB/s`, `125 TFLOP/s`."""
    return _scaled(
        per_second, 1000, tuple(f" {prefix}{unit}/s" for prefix in "PTGMk"), f"{_plain(per_second)} {unit}/s"
    )


def _scaled(value: float, step: int, units: tuple[str, ...], small: str) -> str:
    """The value in the first unit, largest first, that leaves at least 1 of it in three digits; `small` below all."""
    for place, unit in enumerate(units):
        size = float(step ** (len(units) - place))
        if abs(value) >= 0.9995 * size:  # 999.9 million in three digits is 1 B
            scaled = value / size
            return (f"{scaled:.3g}" if abs(scaled) < 999.5 else f"{scaled:,.0f}") + unit
    return small


def _plain(value: float) -> str:
    """A number under a thousand, three digits where it isn't whole."""
    return f"{value:.0f}" if value == int(value) else format_number(float(f"{value:.3g}"))


def format_quantity(value: float, unit: str) -> str:
    """A fact with its unit as a person reads it: `8519680 B` is `8.1 MiB`, `600 GB/s` stays."""
    return format_bytes(value) if unit == "B" else f"{format_number(value)} {unit}"


def format_number(value: float) -> str:
    """A number without needless digits: 0.0002 as `2e-4`, 3.0 as `3`, 151,936 whole."""
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if value and (abs(value) < 1e-2 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.6g}"


def format_deviation(share: float) -> str:
    """How far off something is, with its sign: `+1.2%`; `below 0.1%` for what rounds to nothing."""
    text = f"{share:+.1%}"
    return "below 0.1%" if text in ("+0.0%", "-0.0%") else text


def format_energy(watt_hours: float) -> str:
    """Energy in three digits: `420 mWh`, `37.1 Wh`, `1.24 kWh`."""
    milli = watt_hours * 1000
    return _scaled(milli, 1000, (" MWh", " kWh", " Wh"), f"{milli:.0f} mWh")


def counted(count: int, noun: str) -> str:
    """A number of things: `1 core`, `8 cores`, `12,000 examples`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Seconds as text with two units at most, e.g. `3 h 05 min`, `42 s`."""
    if 0 < seconds < 0.001:
        return "below 1 ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes, hours = round(seconds / 60), 0
    if minutes >= 60:
        hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        days, hours = divmod(hours, 24)
        return f"{days} d {hours:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
