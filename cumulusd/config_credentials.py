"""Secrets that systemd hands over (`LoadCredential=NAME:/path`): files that this service alone
sees.

A path in the configuration may begin with `${CREDENTIALS_DIRECTORY}/`; and where the configuration
names an environment variable that isn't set, the credential of that name stands in for it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

VARIABLE = "CREDENTIALS_DIRECTORY"
REFERENCE = f"${{{VARIABLE}}}"
#: No token or key is longer; something else stands there.
MAX_SECRET_BYTES = 64 * 1024


def resolve(path: str, environ: Mapping[str, str]) -> str:
    """The path with its reference replaced. Raises ValueError where there are no credentials."""
    if not path.startswith(REFERENCE):
        return path
    folder = environ.get(VARIABLE)
    if not folder:
        raise ValueError(
            f"{path!r} needs the environment variable {VARIABLE}, which systemd sets for a unit"
            " with LoadCredential= (in a shell, set it to a folder with the same files)"
        )
    return folder + path.removeprefix(REFERENCE)


def resolve_within(description: str, environ: Mapping[str, str]) -> str:
    """The same for each `KEY=${CREDENTIALS_DIRECTORY}/…` of an endpoint's description."""
    if f"={REFERENCE}" not in description:
        return description
    folder = resolve(REFERENCE, environ).replace("\\", "\\\\").replace(":", "\\:")
    return description.replace(f"={REFERENCE}", f"={folder}")


class Secrets(Mapping[str, str]):
    """Variables by name: the environment's, and the credentials for those that aren't set there.

    Reading a credential raises ValueError when it is there and can't be had.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        folder = environ.get(VARIABLE)
        self._folder = Path(folder) if folder else None

    def __getitem__(self, name: str) -> str:
        if self._environ.get(name) or self._folder is None or "/" in name:
            return self._environ[name]
        try:
            with open(self._folder / name, "rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        except FileNotFoundError:
            return self._environ[name]
        except OSError as error:
            raise ValueError(f"the credential {name} can't be read: {error.strerror}") from None
        if len(data) > MAX_SECRET_BYTES:
            raise ValueError(f"the credential {name} is over {MAX_SECRET_BYTES} bytes: no secret")
        try:
            return data.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise ValueError(f"the credential {name} is no text") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)
