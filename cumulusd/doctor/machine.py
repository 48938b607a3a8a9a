"""What of this machine the daemon needs: its folder, disk, open files, tokens, certificates."""

import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cumulusd.admin.token_file import TokenFile
from cumulusd.certificates import expiry_told
from cumulusd.config import Config
from cumulusd.config_listen import is_loopback
from cumulusd.disk import Disk
from cumulusd.doctor.finding import Finding, count, fault, not_known, of_error, ok, size, warning
from cumulusd.errors import CumulusError
from cumulusd.open_files import RESERVED, WANTED
from cumulusd.tls import SCHEME, TlsUnusable, load_certificate, parse_listener

#: A token that expires sooner is told.
SOON_S = 14 * 86_400.0
#: Names of tokens, and of files, in one line; more are counted.
_MAX_NAMED = 5


def state_folder(config: Config) -> Iterator[Finding]:
    """Whose state_dir is, and who else gets at it."""
    folder = config.state_dir
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        yield _missing(folder)
        return
    except OSError as error:
        yield fault("state_dir", f"{folder} can't be looked at: {error.strerror}", _AS_DAEMON)
        return
    owner = _user(found.st_uid)
    if os.geteuid() not in (0, found.st_uid) and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield not_known("state_dir", f"{folder} is {owner}'s: this user doesn't get in", _AS_DAEMON)
        return
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        yield fault(
            "state_dir",
            f"others may write to {folder} (mode {mode:04o}): tokens and jobs are theirs to change",
            f"chmod 700 {folder}",
        )
    elif mode & 0o055:
        yield warning(
            "state_dir", f"others may look into {folder} (mode {mode:04o})", f"chmod 700 {folder}"
        )
    else:
        yield ok("state_dir", f"{folder} is {owner}'s alone")
    strangers = _not_owned_by(found.st_uid, folder)
    if strangers:
        named = ", ".join(strangers[:_MAX_NAMED])
        more = len(strangers) - _MAX_NAMED
        yield fault(
            "state_dir",
            f"in {folder}, which is {owner}'s, others own {named}"
            + (f" and {more} more" if more > 0 else ""),
            f"chown -R {owner} {folder} while the daemon is stopped; was it once run by another "
            "user?",
        )


def disk(config: Config) -> Iterator[Finding]:
    """Has state_dir's disk room, and for all that may be kept?"""
    folder = _first_there(config.state_dir)
    why = Disk(folder, config.jobs.min_free_bytes).fault()
    if why is not None:
        yield fault("disk", why, "make room there: until then no job is accepted")
        return
    found = os.statvfs(folder)
    free_bytes, total_bytes = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    kept_bytes = config.jobs.history_max_bytes + config.jobs.outputs_history_max_bytes
    said = f"{size(free_bytes)} of {size(total_bytes)} are free for {config.state_dir}"
    if kept_bytes + config.jobs.min_free_bytes > total_bytes:
        yield warning(
            "disk",
            f"{said}, and history alone may take {size(kept_bytes)}",
            "lower jobs.history_max_bytes and jobs.outputs_history_max_bytes: when the disk is "
            "full, no job is accepted",
        )
    else:
        yield ok("disk", said)


def open_files(config: Config, limit: int | None, hard_here: int) -> Iterator[Finding]:
    """How many files may be open. `limit`: the running daemon's, None when it isn't known;
    `hard_here`: this shell's hard limit."""
    allowed = min(hard_here, WANTED) if limit is None else limit
    whose = "of this shell; the daemon's may be another" if limit is None else "of the daemon"
    wanted = config.router.max_connections + RESERVED
    if allowed < wanted:
        yield warning(
            "open files",
            f"{allowed} may be open ({whose}): fewer than router.max_connections "
            f"({config.router.max_connections}) and {RESERVED} of its own",
            "give the daemon more (LimitNOFILE=, ulimit -n), or lower router.max_connections",
        )
    else:
        yield ok("open files", f"{allowed} may be open ({whose})")


def tokens(config: Config, made: Sequence[dict[str, Any]] | None, now: float) -> Iterator[Finding]:
    """Who gets in. `made`: what a running daemon shows of its tokens; None: it isn't asked."""
    if made is None:
        try:
            kept = TokenFile(config.state_dir).load() or []
        except CumulusError as error:
            yield of_error("tokens", error)
            return
        except PermissionError:
            yield not_known("tokens", "those made by command can't be read", _AS_DAEMON)
            return
        made = [{"name": one.name, "role": one.role, "expires_at": one.expires_at} for one in kept]
        made += [{"name": one.name, "role": one.role, "expires_at": None} for one in config.tokens]
    people = [one for one in made if one["role"] != "agent"]
    if not people:
        if config.tokens_made:
            yield fault(
                "tokens",
                "there is none, and nobody comes in without one",
                "make one: cumulusd token create",
            )
        elif all(map(is_loopback, config.listen)):
            yield ok("tokens", "none: who is on this machine may do everything")
        return
    expired = [one for one in people if _ends(one) <= now]
    soon = [one for one in people if now < _ends(one) <= now + SOON_S]
    usable = len(people) - len(expired)
    if not usable:
        yield fault("tokens", f"all {len(people)} have expired", "make one: cumulusd token create")
    else:
        yield ok("tokens", f"{count(usable, 'token')} for people and programs")
    if soon:
        yield warning(
            "tokens",
            f"soon to expire: {_names(soon)}",
            "make others in time: cumulusd token create",
        )
    if expired and usable:
        yield warning(
            "tokens", f"expired: {_names(expired)}", "cumulusd token revoke NAME, or make others"
        )


def certificates(config: Config, now: float) -> Iterator[Finding]:
    """How long the listeners' certificates are good for. `now`: unix seconds."""
    for description in config.listen:
        if not description.startswith(SCHEME):
            continue
        try:
            listener = parse_listener(description, Path("/"))
            ends = load_certificate(listener).expires_at
        except TlsUnusable as error:
            yield fault("certificate", str(error), "put sound files there: docs/operations.md")
            continue
        why = expiry_told(listener, ends, now)
        if why is None:
            until = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%d")
            yield ok("certificate", f"that of {listener.name} is valid until {until}")
        elif ends <= now:
            yield fault("certificate", why, "renew it, then send the daemon SIGHUP")
        else:
            yield warning("certificate", why, "renew it, then send the daemon SIGHUP")


_AS_DAEMON = "run this as root, or as the daemon's user"


def _missing(folder: Path) -> Finding:
    above = _first_there(folder)
    if os.access(above, os.W_OK | os.X_OK):
        return ok("state_dir", f"{folder} is not there yet: the daemon makes it")
    return warning(
        "state_dir",
        f"{folder} is not there, and this user can't make it in {above}",
        "make it, owned by the daemon's user (systemd: StateDirectory=)",
    )


def _first_there(folder: Path) -> Path:
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))


def _not_owned_by(uid: int, folder: Path) -> list[str]:
    """Names in the folder itself; what is below is made by whoever made those."""
    try:
        with os.scandir(folder) as entries:
            found = [(each.name, each.stat(follow_symlinks=False).st_uid) for each in entries]
    except OSError:
        return []  # something vanished while it was looked at
    return sorted(name for name, owner in found if owner != uid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _ends(token: dict[str, Any]) -> float:
    ends = token["expires_at"]
    return float("inf") if ends is None else float(ends)


def _names(tokens: Sequence[dict[str, Any]]) -> str:
    names = sorted(str(one["name"]) for one in tokens)
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
