"""Durations and sizes as people write them."""

import re

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_seconds(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1h30m`, `1d`. Raises ValueError."""
    plain = text.strip().lower().replace(" ", "")
    if _NUMBER.fullmatch(plain):
        return float(plain)
    parts = _PART.findall(plain)
    units = [unit for _, unit in parts]
    if not _DURATION.fullmatch(plain) or units != sorted(set(units), key="dhms".index):
        raise ValueError(f"{text!r} is no duration such as 90, 90s, 15m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_bytes(text: str) -> int:
    """Bytes of `8GiB`, `8G`, `512M` or `1000000`; as in Docker and Slurm, K, M, G and T are powers
    of 1024, with or without `i` and `B`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is no size such as 8GiB, 512M or a number of bytes")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])
