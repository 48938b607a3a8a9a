"""Which modules there are, in which order they run, and how the time is shared. Pure."""

from collections.abc import Mapping, Sequence

#: Module -> its part of the time. Those that use a Swarm come first; it is gone for the others.
PARTS: Mapping[str, float] = {
    "start": 200,
    "burst": 460,
    "relay": 260,
    "requirements": 90,
    "data": 120,
    "client": 40,
    "opencl_layer": 40,
    "router": 160,
    "idle": 100,
    "scale": 400,
}
ON_SWARM = frozenset({"start", "burst", "relay", "requirements"})
TOTAL_S = 25 * 60.0
#: Of that, at most, for ending things: engines, and a module that is over its time.
SPARE_S = 120.0
#: How long a module may be over its time before it is ended.
GRACE_S = 30.0


def chosen(names: Sequence[str]) -> list[str]:
    """Those modules, all without names, in their order. Raises KeyError with one that isn't."""
    for name in names:
        if name not in PARTS:
            raise KeyError(name)
    return [name for name in PARTS if not names or name in names]


def usable_s(total_s: float) -> float:
    """What all modules together get of that."""
    return total_s - min(SPARE_S, total_s / 10)


def share_s(name: str, to_come: Sequence[str], left_s: float) -> float:
    """What that module gets of what is left, when these, itself among them, are still to come: what
    one didn't take is the others'."""
    return max(0.0, left_s) * PARTS[name] / sum(PARTS[each] for each in to_come)
