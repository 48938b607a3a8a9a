"""What of the daemon's environment its jobs may see: an allow-list, as secrets stand there too."""

from collections.abc import Mapping
from pathlib import Path

from cumulusd import job_network

#: Locale and certificates; with the proxies, a company's network works inside jobs as outside.
_PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_DIR", *job_network.CERTIFICATE_VARIABLES)
#: What steers uv where the configuration doesn't, beside the index.
_INSTALLER = ("UV_FIND_LINKS", "UV_NATIVE_TLS", "NETRC")


def runner_environment(environ: Mapping[str, str], ca_bundle: Path | None) -> dict[str, str]:
    """What a runner, and through it the job, is started with."""
    passed = {name: environ[name] for name in _PASSED if environ.get(name)}
    if "LC_ALL" not in passed:
        passed.setdefault("LANG", "C.UTF-8")  # as the job image has it
    passed.update(job_network.proxies(environ))
    passed.update(job_network.certificates(None if ca_bundle is None else str(ca_bundle)))
    return passed


def installer_environment(
    environ: Mapping[str, str], ca_bundle: Path | None, index_url: str | None
) -> dict[str, str]:
    """What uv is started with when it installs a job's requirements."""
    passed = runner_environment(environ, ca_bundle)
    passed.update({name: environ[name] for name in _INSTALLER if environ.get(name)})
    passed.update(job_network.index(environ, index_url))
    return passed
