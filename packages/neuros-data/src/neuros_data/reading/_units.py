"""Units of measurement as files write them, in SI."""

from typing import NamedTuple

_PREFIXES = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_NONE = frozenset({"", "n/a", "na", "none", "unknown", "a.u.", "au", "arbitrary", "1"})
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "usec": 1e-6, "ns": 1e-9}
VOLT = "V"


class Unit(NamedTuple):
    """An SI unit and how many of it one of the file's units is."""

    name: str
    factor: float


def parse_unit(text: str) -> Unit:
    """Read a unit: volts with a prefix become volts; what is not known is kept as it is written.

    Examples:
        >>> parse_unit("uV"), parse_unit("degC"), parse_unit("n/a")
        (Unit(name='V', factor=1e-06), Unit(name='degC', factor=1.0), Unit(name='a.u.', factor=1.0))
    """
    plain = text.strip()
    if plain.lower() in _NONE:
        return Unit("a.u.", 1.0)
    for stem in ("volts", "volt", "V", "v"):
        if plain.endswith(stem) and plain.removesuffix(stem) in _PREFIXES:
            return Unit(VOLT, _PREFIXES[plain.removesuffix(stem)])
    return Unit(plain, 1.0)


def unit_of_name(name: str) -> Unit | None:
    """The unit that a name ends in, as `emg_uv` does; None without."""
    ending = name.rpartition("_")[2].lower()
    return {"uv": Unit(VOLT, 1e-6), "mv": Unit(VOLT, 1e-3), "volts": Unit(VOLT, 1.0)}.get(ending)


def seconds_of_name(name: str) -> float:
    """Seconds of one unit of a clock's name: `time_ms` counts in 1e-3.

    Examples:
        >>> seconds_of_name("time_ms"), seconds_of_name("timestamps")
        (0.001, 1.0)
    """
    for separator in ("_", " ", ".", "(", "["):
        ending = name.rstrip(")]").rpartition(separator)[2].lower()
        if ending in _SECONDS:
            return _SECONDS[ending]
    return 1.0
