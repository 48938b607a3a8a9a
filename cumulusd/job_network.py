"""What jobs and their installer get of a company's network: certificates, proxies, the index."""

from collections.abc import Mapping

#: Who reads a CA bundle: OpenSSL and uv, requests, curl.
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)


def certificates(bundle: str | None) -> dict[str, str]:
    """The variables that name a CA bundle, for one at that path; none without one."""
    return {} if bundle is None else dict.fromkeys(CERTIFICATE_VARIABLES, bundle)


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that name proxies."""
    return {name: environ[name] for name in PROXY_VARIABLES if environ.get(name)}


def index(environ: Mapping[str, str], index_url: str | None) -> dict[str, str]:
    """Where uv finds packages: as configured, else as the environment says."""
    found = {name: environ[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX") if environ.get(name)}
    if "UV_DEFAULT_INDEX" not in found and environ.get("PIP_INDEX_URL"):
        found["UV_DEFAULT_INDEX"] = environ["PIP_INDEX_URL"]
    if index_url is not None:
        found["UV_DEFAULT_INDEX"] = index_url
    return found
