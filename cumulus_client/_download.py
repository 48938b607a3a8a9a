"""Fetching a file that a job left to be downloaded."""

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cumulus_client.connection import backoff_s
from cumulus_client.exceptions import ConnectionLost, ResultError
from cumulus_wire import uris

#: Calls in a row that brought nothing, before the download gives up.
MAX_FRUITLESS = 12


class Caller(Protocol):
    """What a download needs of a connection."""

    async def call_once(
        self,
        procedure: str,
        kwargs: Mapping[str, Any],
        on_progress: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]: ...


def target_of(name: str, path: str | os.PathLike[str] | None) -> Path:
    """Where to write the output `name`: `path`, in `path` where that is a folder, or under its own
    name in the working directory. Raises FileNotFoundError when its folder isn't there."""
    own = name.rpartition("/")[2]
    if own in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a file")
    if path is None:
        return Path(own)
    target = Path(path)
    if target.is_dir():
        return target / own
    meant_as_folder = os.fspath(path).endswith(("/", os.sep))
    folder = target if meant_as_folder else target.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, f"there is no folder to download {name!r} into", str(folder)
        )
    return target


async def download(
    connection: Caller, job_id: str, name: str, path: str | os.PathLike[str] | None
) -> Path:
    """Writes the output, and gives its path when it is whole and verified; until then nothing
    stands there. Goes on where it was after a lost connection. Raises NotFound, ResultError for a
    file that is not what the job left, OSError for a target that can't be written."""
    target = target_of(name, path)
    # Without its name, which may be as long as a name can be.
    part = target.with_name(f".cumulus-{secrets.token_hex(8)}.part")
    with open(part, "xb") as file:
        try:
            await _fetch(connection, job_id, name, file)
            file.flush()
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return target


async def _fetch(connection: Caller, job_id: str, name: str, file: BinaryIO) -> None:
    digest, held = hashlib.sha256(), 0
    failure: list[OSError] = []

    def take(part: dict[str, Any]) -> None:
        # Written here, on the connection's own thread: what the disk can't take yet isn't read
        # from the socket either, so that nothing waits in memory.
        nonlocal held
        if failure or part["offset"] != held:
            return
        try:
            file.write(part["data"])
        except OSError as error:
            failure.append(error)
            call.cancel()
            return
        digest.update(part["data"])
        held += len(part["data"])

    fruitless = 0
    while True:
        before = held
        arguments = {"job_id": job_id, "name": name, "offset": held}
        call = asyncio.ensure_future(connection.call_once(uris.JOB_OUTPUT, arguments, take))
        try:
            answer = await call
        except ConnectionLost:
            fruitless = 0 if held > before else fruitless + 1
            if fruitless > MAX_FRUITLESS:
                raise
            await asyncio.sleep(backoff_s(fruitless))
        except asyncio.CancelledError:
            if failure:
                raise failure[0] from None
            raise
        else:
            break
    if failure:
        raise failure[0]
    if (held, digest.hexdigest()) != (answer.get("size_bytes"), answer.get("sha256")):
        raise ResultError(
            f"the output {name!r} of job {job_id} came damaged: {held} B that are not the "
            f"{answer.get('size_bytes')} B whose SHA-256 the job's end has",
            job_id=job_id,
            hint="download it again",
        )
