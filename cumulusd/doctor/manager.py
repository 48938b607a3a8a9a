"""What one look at a Swarm's manager says: engine, manager, quorum, clock, images. Pure."""

from collections.abc import Iterator, Sequence

from cumulusd.doctor.finding import Finding, count, fault, not_known, of_error, ok, warning
from cumulusd.doctor.swarm_look import Look
from cumulusd.swarm.answers import NodeInfo, version_text
from cumulusd.swarm.engine import NEWEST_API, OLDEST_API

#: Clocks further apart are told; tokens, certificates and logs go by them.
SKEW_TOLD_S = 5.0
SKEW_FAULT_S = 60.0


def examine(look: Look) -> Iterator[Finding]:
    """The engine at the configured endpoint, and the Swarm it belongs to."""
    yield from _engine(look)
    yield from _managers(look)
    yield from _clock(look)
    yield from _images(look)


def unanswered(look: Look) -> str:
    """Why something isn't known, in a few words."""
    return "the engine doesn't answer" if look.info is None else "the Swarm can't be asked"


def _engine(look: Look) -> Iterator[Finding]:
    ours = f"{version_text(OLDEST_API)} to {version_text(NEWEST_API)}"
    if look.info is None or look.api is None:
        for error in look.errors:
            yield of_error("engine", error)
        return
    yield ok(
        "engine",
        f"{look.name} is Docker {look.info.engine_version} on {look.info.name}; API "
        f"{version_text(look.api)} is spoken (Cumulus knows {ours})",
    )


def _managers(look: Look) -> Iterator[Finding]:
    if look.info is None:
        yield not_known("manager", unanswered(look))
        return
    if not look.info.is_manager:
        yield fault(
            "manager",
            f"the engine at {look.name} is no Swarm manager"
            + (f": {look.info.error}" if look.info.error else ""),
            "point platform.swarm.endpoint at a manager, or run `docker swarm init` there",
        )
        return
    if look.info.error:
        yield fault("manager", look.info.error, "see `docker info` on the manager")
    if look.nodes is None:
        for error in look.errors:
            yield of_error("quorum", error)
        return
    yield ok("manager", f"{look.info.name} is one (node {look.info.node_id})")
    yield from quorum([node for node in look.nodes if node.role == "manager"])


def quorum(managers: Sequence[NodeInfo]) -> Iterator[Finding]:
    """Can more managers be lost? They answered: there is a quorum now."""
    away = [node for node in managers if node.reachability not in ("", "reachable")]
    here, needed = len(managers) - len(away), len(managers) // 2 + 1
    names = ", ".join(node.hostname for node in away)
    if away:
        yield warning(
            "quorum",
            f"{here} of {count(len(managers), 'manager')} can be reached, {needed} are needed; "
            f"not {names}",
            "bring them back, or remove them: docker node demote, docker node rm",
        )
    elif len(managers) == 1:
        yield ok(
            "quorum", "one manager: while it is away nothing is placed; 3 survive the loss of 1"
        )
    elif len(managers) % 2 == 0:
        yield warning(
            "quorum",
            f"{len(managers)} managers survive the loss of {len(managers) - needed}, as "
            f"{len(managers) - 1} would",
            "take an odd number",
        )
    else:
        yield ok(
            "quorum",
            f"{len(managers)} managers, all reachable: {len(managers) - needed} may be lost",
        )


def _clock(look: Look) -> Iterator[Finding]:
    if look.ahead_s is None:
        yield not_known("clock", f"the manager's: {unanswered(look)}")
        return
    apart_s = max(0.0, abs(look.ahead_s) - look.ahead_within_s)
    way = "ahead of" if look.ahead_s > 0 else "behind"
    said = f"the manager's is {apart_s:.1f} s {way} this machine's"
    advice = "set both by NTP: tokens, certificates and the order of logs go by clocks"
    if apart_s > SKEW_FAULT_S:
        yield fault("clock", said, advice)
    elif apart_s > SKEW_TOLD_S:
        yield warning("clock", said, advice)
    else:
        yield ok("clock", f"the manager's is this machine's, within {SKEW_TOLD_S:g} s")


def _images(look: Look) -> Iterator[Finding]:
    for name, image in look.images.items():
        by = image.digests[0] if image.digests else image.image_id
        yield ok("image", f"{name} is on the manager, as {by[:80]}")
    for name in look.missing_images:
        if name.startswith("sha256:") or "@sha256:" in name:
            yield ok("image", f"{name} isn't on the manager, which needn't have it")
            continue
        yield fault(
            "image",
            f"{name} is not on the manager, which has to say what the name means",
            "build it (images/build), pull it or load it there and on every worker, or name it by "
            "digest (name@sha256:…)",
        )
    if look.info is None:
        yield not_known("image", f"on the manager: {unanswered(look)}")
