"""The section `provisioning`: what machines are told that become workers."""

from pathlib import Path

import pytest

from cumulusd.config import ConfigError, load_config

SHA = "ab" * 32


def load(folder: Path, text: str) -> object:
    path = folder / "c.yaml"
    path.write_text(f"provisioning: {{{text}}}\n")
    return load_config(path, {}).provisioning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chronos_source: https://example.org/chronos.tar.gz",
        f"chronos_source: http://10.0.0.1/chronos.tar.gz, chronos_sha256: {SHA}",
        "chronos_source: /opt/chronos.tar.gz",
        "chronos_source: 'pypi:chronos-gpu==1.1.0'",
        f"chronos_source: 'pypi:chronos-gpu==1.1.0', chronos_sha256: {SHA}",
        "deny: [10.0.0.0/24, 192.0.2.7]",
        "manager_addresses: ['192.0.2.1:42377', 'manager.example.org:2377']",
        "daemon_addresses: ['192.0.2.1:40051']",
        "remote_api_port: 2376",
        "images_from: orchestrator",
    ],
)
def test_what_is_taken(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chronos_source: ftp://example.org/x", "neither pypi:NAME==VERSION, https"),
        ("chronos_source: relative/path", "neither pypi:NAME==VERSION, https"),
        ("chronos_source: 'pypi:chronos-gpu'", "neither pypi:NAME==VERSION"),
        ("chronos_source: 'pypi:chronos-gpu>=1'", "neither pypi:NAME==VERSION"),
        ("chronos_source: 'pypi:--index-url==1'", "neither pypi:NAME==VERSION"),
        ("chronos_source: 'https://example.org/a b'", "blank"),
        ("chronos_source: http://example.org/x", "needs chronos_sha256"),
        (f"chronos_sha256: {SHA}", "goes with chronos_source"),
        (f"chronos_source: http://h/c.git, chronos_sha256: {SHA}", "names neither"),
        ("chronos_source: /x, chronos_sha256: abc", "64 lowercase hex"),
        ("deny: [10.0.0.1/24]", "no IPv4 network"),
        ("deny: ['fd00::/8']", "no IPv4 network"),
        ("manager_addresses: ['192.0.2.1']", "no address:port"),
        ("daemon_addresses: ['192.0.2.1:0']", "no port"),
        ("daemon_addresses: ['192.0.2.1:99999']", "no port"),
        ("remote_api_port: 0", "greater than or equal to 1"),
        ("images_from: nowhere", "'registry'"),
        ("remote_api: 2376", "did you mean 'remote_api_port'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, text)
