"""The company's CA bundle on a worker: a copy that jobs read, at one place."""

import os
from pathlib import Path

from cumulusd.errors import InternalError

NAME = "ca-bundle.pem"
MAX_BYTES = 1 << 20


def install_bundle(source: Path, root: Path) -> Path:
    """Copies the bundle into the agent's folder, where everybody may read it; the path there.

    A job that runs keeps the file it began with. Raises InternalError.
    """
    place = root / NAME
    draft = root / (NAME + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES or b"-----BEGIN CERTIFICATE-----" not in data:
            raise InternalError(
                f"the CA bundle {source} holds no certificate, or is over {MAX_BYTES} bytes",
                hint="name a PEM file in the daemon's configuration, jobs.ca_bundle",
            )
        with os.fdopen(os.open(draft, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(place)
    except OSError as error:
        raise InternalError(
            f"the CA bundle {source} can't be copied to {place}: {error}",
            hint="check the agent's folder and the file",
        ) from error
    return place
