"""What building needs of its surroundings: mirror, index, proxies, certificates.

Taken from flags, else from the environment, else from this machine's apt. Written into the build
context, where the steps read it; nothing of it is left in an image, save certificates on request.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError
from builder.recipe import MOUNT, SUITE
from builder.wheels import Wheels, pip_variables

HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
#: pip's own settings that are handed on as they are.
_PIP = ("PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Archive:
    """One Debian archive: an entry of apt's sources."""

    url: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        return f"deb {self.url} {self.suite} {' '.join(self.components)}\n"


@dataclass(frozen=True)
class Settings:
    """All of it."""

    archives: tuple[Archive, ...]  #: of SUITE; empty: none is known here
    ca_bundle: Path | None
    proxies: Mapping[str, str]
    pip: Mapping[str, str]
    wheels: Wheels  #: folders of packages here that `pip` names
    apt_lines: tuple[str, ...]  #: this machine's `Acquire` settings
    install_ca: bool

    @property
    def mirror(self) -> str:
        """Where debootstrap gets the suite itself. Raises BuildError."""
        for archive in self.archives:
            if archive.suite == SUITE:
                return archive.url
        raise BuildError(
            "this machine's apt sources name no Debian mirror; give one: --apt-mirror URL"
        )

    def write(self, folder: Path) -> None:
        """Into the build context, as the steps read it. Private: it may hold passwords."""
        folder.mkdir(mode=0o700)
        variables = {**self.proxies, **self.pip}
        variables |= {name.upper(): value for name, value in self.proxies.items()}
        apt = list(self.apt_lines)
        if self.ca_bundle:
            shutil.copyfile(self.ca_bundle, folder / "ca.crt")
            inside = f"{MOUNT}/common/settings/ca.crt"
            variables |= {"PIP_CERT": inside, "SSL_CERT_FILE": inside}
            apt.append(f'Acquire::https::CAInfo "{inside}";')
        (folder / "environment").write_text(
            "".join(f"export {name}={shlex.quote(text)}\n" for name, text in variables.items())
        )
        (folder / "apt.conf").write_text("".join(f"{line}\n" for line in apt))
        (folder / "sources.list").write_text("".join(one.line() for one in self.archives))
        if self.install_ca:
            self._write_certificates(folder / "install-ca")

    def _write_certificates(self, folder: Path) -> None:
        """One file each, as `update-ca-certificates` wants them."""
        if self.ca_bundle is None:
            raise BuildError("--install-ca needs a bundle: --ca-bundle FILE, or SSL_CERT_FILE")
        found = _CERTIFICATE.findall(self.ca_bundle.read_bytes())
        if not found:
            raise BuildError(f"{self.ca_bundle} holds no PEM certificate")
        folder.mkdir()
        for number, certificate in enumerate(found):
            (folder / f"cumulus-{number:03}.crt").write_bytes(certificate.rstrip() + b"\n")


def gather(
    environ: Mapping[str, str],
    *,
    ca_bundle: str | None,
    index_url: str | None,
    apt_mirror: str | None,
    install_ca: bool,
) -> Settings:
    """Flags before the environment before this machine's settings. Raises BuildError."""
    named = ca_bundle or environ.get("SSL_CERT_FILE")
    bundle = Path(named).resolve() if named else (HOST_BUNDLE if HOST_BUNDLE.is_file() else None)
    if bundle is not None and not bundle.is_file():
        raise BuildError(f"no CA bundle at {bundle}; see --ca-bundle and SSL_CERT_FILE")
    if install_ca and not named:
        raise BuildError("--install-ca needs a bundle: --ca-bundle FILE, or SSL_CERT_FILE")
    proxies = {
        name: value
        for name in _PROXIES
        if (value := environ.get(name) or environ.get(name.upper()))
    }
    if apt_mirror:
        archives = tuple(
            Archive(apt_mirror, suite, ("main",)) for suite in (SUITE, f"{SUITE}-updates")
        )
    else:
        archives = _archives(Path("/etc/apt"))
    index = index_url or environ.get("UV_DEFAULT_INDEX") or environ.get("PIP_INDEX_URL")
    told, wheels = pip_variables(environ, index)
    return Settings(
        archives=archives,
        ca_bundle=bundle,
        proxies=proxies,
        pip={name: environ[name] for name in _PIP if environ.get(name)} | told,
        wheels=wheels,
        apt_lines=_apt_lines(),
        install_ca=install_ca,
    )


def _apt_lines() -> tuple[str, ...]:
    """How this machine's apt fetches (proxies, retries, ...); files of its own aren't handed on."""
    if shutil.which("apt-config") is None:
        return ()
    done = subprocess.run(
        ["apt-config", "dump", "--no-empty", "Acquire"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise BuildError(f"apt-config dump failed: {done.stderr.strip()}")
    return tuple(
        line
        for line in done.stdout.splitlines()
        if line.startswith("Acquire::")
        and not re.search(r'(?i)IndexTargets|::CAInfo|::CAPath|::Ssl(Cert|Key)|Detect "', line)
    )


def _archives(folder: Path) -> tuple[Archive, ...]:
    """Debian's archives among this machine's sources, told of SUITE whatever this machine runs."""
    codenames = {SUITE, *_own_codename()}
    found: list[Archive] = []
    for url, suite in _sources(folder):
        name, dash, part = suite.partition("-")
        if name not in codenames or part not in ("", "updates", "security"):
            continue  # backports, or somebody else's archive
        wanted = Archive(url, f"{SUITE}{dash}{part}", ("main",))
        if wanted not in found:
            found.append(wanted)
    # The suite itself first: without it there is no mirror, whatever else is there.
    found.sort(key=lambda archive: archive.suite != SUITE)
    return tuple(found)


def _own_codename() -> list[str]:
    """This machine's release, when it is Debian."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return []
    return [release["VERSION_CODENAME"]] if release.get("ID") == "debian" else []


def _sources(folder: Path) -> Iterator[tuple[str, str]]:
    """(URL, suite) of all entries that hold a `main` for binaries, signed as Debian's."""
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]:
        text = path.read_text(errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            signer = re.search(r"signed-by=(\S+)", line)
            words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
            if words[:1] == ["deb"] and "main" in words[3:] and _is_debians(signer and signer[1]):
                yield words[1].rstrip("/"), words[2]
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for paragraph in re.split(r"\n\s*\n", path.read_text(errors="replace")):
            fields = _fields(paragraph)
            if "main" not in fields.get("components", []) or "deb" not in fields.get("types", []):
                continue
            signer_words = " ".join(fields.get("signed-by", []))
            if fields.get("enabled") == ["no"] or not _is_debians(signer_words):
                continue
            for url in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield url.rstrip("/"), suite


def _is_debians(signer: str | None) -> bool:
    # An entry without a key of its own is signed by what all of apt trusts.
    return not signer or "debian-archive" in signer


def _fields(paragraph: str) -> dict[str, list[str]]:
    lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
    fields: dict[str, list[str]] = {}
    key = ""
    for line in lines:
        if line[:1].isspace():
            fields.setdefault(key, []).extend(line.split())
        elif ":" in line:
            key, _, rest = line.partition(":")
            key = key.strip().lower()
            fields[key] = rest.split()
    return fields


def is_root() -> bool:
    return os.geteuid() == 0
