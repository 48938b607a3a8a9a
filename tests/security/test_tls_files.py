"""What an `ssl:` listener's files must be, and what is said of those that aren't it."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from cumulusd.config import ConfigError, load_config, warnings
from cumulusd.tls import TlsUnusable, load_certificate, parse_listener
from tests.security.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "root")


def test_a_description_is_read_and_written(tmp_path: Path) -> None:
    listener = parse_listener(
        "ssl:443:privateKey=k.pem:certKey=/e/c\\:1.pem:interface=\\:\\:1", tmp_path
    )
    assert (listener.port, listener.interface, listener.name) == (443, "::1", "[::1]:443")
    assert listener.private_key == tmp_path / "k.pem"
    assert listener.certificate == Path("/e/c:1.pem") and listener.chain is None
    assert parse_listener(listener.description, Path("/elsewhere")) == listener
    named = parse_listener("ssl:port=5:privateKey=k:extraCertChain=c:backlog=7", tmp_path)
    assert (named.port, named.backlog, named.chain) == (5, 7, tmp_path / "c")
    assert named.certificate == named.private_key
    assert parse_listener(named.description, Path("/")) == named


@pytest.mark.parametrize(
    ("description", "word"),
    [
        ("ssl:", "port"),
        ("ssl:x:privateKey=k", "port"),
        ("ssl:70000:privateKey=k", "port"),
        ("ssl:443", "privateKey"),
        ("ssl:443:privateKey=", "privateKey"),
        ("ssl:443:privateKey=k:sslmethod=SSLv3_METHOD", "sslmethod"),
        ("ssl:443:privateKey=k:backlog=0", "backlog"),
        ("ssl:443:privateKey=k:more", "more"),
    ],
)
def test_a_wrong_description(description: str, word: str) -> None:
    with pytest.raises(TlsUnusable, match=word):
        parse_listener(description, Path("/"))


def load(certificate: Path, key: Path, chain: Path | None = None) -> float:
    text = f"ssl:443:privateKey={key}:certKey={certificate}"
    text += "" if chain is None else f":certChain={chain}"
    return load_certificate(parse_listener(text, Path("/"))).expires_at


def test_every_way_to_give_a_chain(authority: Authority, tmp_path: Path) -> None:
    between = Authority(tmp_path, "between", authority)
    certificate, key = between.issue("daemon")
    apart = load(certificate, key, between.path)
    full = tmp_path / "full.pem"
    full.write_bytes(certificate.read_bytes() + between.path.read_bytes())
    together = tmp_path / "together.pem"
    together.write_bytes(full.read_bytes() + key.read_bytes())
    assert load(full, key) == apart == load(together, together)


def test_what_cannot_be_used_is_named_with_the_reason(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("good")
    _, other_key = authority.issue("other")
    locked, locked_key = authority.issue("locked", passphrase=b"sesame")
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    broken = tmp_path / "broken.pem"
    broken.write_bytes(certificate.read_bytes()[:200])
    empty = tmp_path / "empty.pem"
    empty.touch()
    der = tmp_path / "der.pem"
    der.write_bytes(authority.certificate.public_bytes(serialization.Encoding.DER))
    for files, words in {
        (certificate, tmp_path / "none.pem"): ["none.pem", "No such file"],
        (tmp_path / "none.pem", key): ["none.pem", "No such file"],
        (tmp_path, key): [str(tmp_path), "Is a directory"],
        (certificate, other_key): [str(certificate), str(other_key), "not that of"],
        (locked, locked_key): [str(locked_key), "encrypted"],
        (certificate, junk): [str(junk), "can't be read"],
        (certificate, certificate): [str(certificate), "no private key"],
        (broken, key): [str(broken), "no certificate"],
        (empty, key): [str(empty), "no certificate"],
        (der, key): [str(der), "no certificate"],
    }.items():
        with pytest.raises(TlsUnusable) as caught:
            load(*files)
        assert all(word in str(caught.value) for word in words), (files, str(caught.value))
    with pytest.raises(TlsUnusable, match=r"empty\.pem"):
        load(certificate, key, empty)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read(authority: Authority) -> None:
    certificate, key = authority.issue("unreadable")
    key.chmod(0)
    with pytest.raises(TlsUnusable, match="Permission denied"):
        load(certificate, key)


def test_the_configuration_has_it_checked(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("configured")
    (tmp_path / "k.pem").write_bytes(key.read_bytes())
    (tmp_path / "c.pem").write_bytes(certificate.read_bytes())
    path = tmp_path / "cumulusd.yaml"
    path.write_text(
        "listen: ['ssl:50051:privateKey=k.pem:certKey=c.pem']\n"
        f"tokens: [{{name: a, owner: a, role: client, token_sha256: '{'0' * 64}'}}]\n"
    )
    config = load_config(path, {})
    assert config.listen == (f"ssl:50051:privateKey={tmp_path}/k.pem:certKey={tmp_path}/c.pem",)
    assert warnings(config) == []
    (tmp_path / "k.pem").unlink()
    with pytest.raises(ConfigError, match=r"yaml:1: listen\[0\]: .*k\.pem can't be read: No such"):
        load_config(path, {})


def test_a_plain_listener_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "cumulusd.yaml"
    tokens = f"tokens: [{{name: a, owner: a, role: client, token_sha256: '{'0' * 64}'}}]\n"
    path.write_text("listen: ['tcp:1:interface=127.0.0.1', 'tcp:50051']\n" + tokens)
    (warning,) = warnings(load_config(path, {}))
    assert "'tcp:50051'" in warning and "allow_plain_tokens" in warning
    path.write_text("allow_plain_tokens: true\nlisten: ['tcp:50051']\n" + tokens)
    assert warnings(load_config(path, {})) == []
    path.write_text("listen: ['tcp:1:interface=127.0.0.1', 'unix:/run/x']\n" + tokens)
    assert warnings(load_config(path, {})) == []
