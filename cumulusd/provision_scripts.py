"""The scripts that set machines up, made out to one daemon. Blocking: they are files."""

import shlex
from pathlib import Path

from cumulusd.errors import NotFound

_HERE = Path(__file__).parent
#: In an installed package, and in the source tree.
_FOLDERS = (_HERE / "provision", _HERE.parent / "provision")
URL_LINE = 'ORCHESTRATOR_URL=""'
FINGERPRINT_LINE = 'ORCHESTRATOR_FINGERPRINT=""'


def made_out(name: str, url: str, fingerprint: str | None) -> bytes:
    """The script `name`, which knows the daemon at `url` (http or https) by its public key's
    `fingerprint`, as curl's --pinnedpubkey takes it. Raises NotFound."""
    for folder in _FOLDERS:
        try:
            text = (folder / name).read_text()
        except FileNotFoundError:
            continue
        text = _filled(text, URL_LINE, url)
        return _filled(text, FINGERPRINT_LINE, fingerprint or "").encode()
    raise NotFound(
        f"this daemon was installed without provision/{name}",
        hint="install it from the whole source tree or a released package",
    )


def http_url(advertise_url: str) -> str:
    """ws://host:port -> http://host:port, wss -> https."""
    return advertise_url.replace("ws", "http", 1).rstrip("/")


def worker_command(url: str, token: str, fingerprint: str | None) -> str:
    """What to run, as root, on a machine that is to become a worker."""
    curl = ["curl", "-fsSL"]
    pin = []
    if fingerprint is not None:
        # curl asks nobody else then: the key is all that counts.
        curl += ["--insecure", "--pinnedpubkey", fingerprint]
        pin = ["--fingerprint", fingerprint]
    elif url.startswith("http:"):
        pin = ["--allow-plain-token"]  # worker.sh sends it so only when told
    fetch = shlex.join([*curl, f"{url}/provision/worker.sh"])
    run = shlex.join(["--orchestrator", url, "--token", token, *pin])
    return f"{fetch} | bash -s -- {run}"


def _filled(text: str, line: str, value: str) -> str:
    """The line at the beginning of one, where there is one."""
    name = line.partition("=")[0]
    head, found, tail = text.partition(f"\n{line}")
    return f"{head}\n{name}={_double_quoted(value)}{tail}" if found else text


def _double_quoted(value: str) -> str:
    for sign in ("\\", '"', "$", "`"):
        value = value.replace(sign, f"\\{sign}")
    return f'"{value}"'
