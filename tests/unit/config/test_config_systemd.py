"""Secrets and sockets that systemd hands over, as the configuration names them."""

from pathlib import Path

import pytest

from cumulusd.activation import Inherited, parse_inherited
from cumulusd.config import ConfigError, load_config, warnings
from cumulusd.config_credentials import MAX_SECRET_BYTES, Secrets, resolve, resolve_within
from cumulusd.tls import TlsUnusable, parse_listener

TOKEN = "a" * 40


def load(folder: Path, text: str, **environ: str) -> object:
    (folder / "c.yaml").write_text(text)
    return load_config(folder / "c.yaml", environ)


def faults(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    return str(caught.value)


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    made = tmp_path / "credentials"
    made.mkdir()
    return made


def test_a_path_begins_with_the_folder(tmp_path: Path, credentials: Path) -> None:
    (credentials / "ca").write_text("pem")
    text = "jobs: {ca_bundle: '${CREDENTIALS_DIRECTORY}/ca'}"
    config = load_config(
        _written(tmp_path, text), {"CREDENTIALS_DIRECTORY": str(credentials), "HOME": "/"}
    )
    assert config.jobs.ca_bundle == credentials / "ca"


def _written(folder: Path, text: str) -> Path:
    (folder / "c.yaml").write_text(text)
    return folder / "c.yaml"


def test_without_credentials_it_is_refused_with_key_and_line(tmp_path: Path) -> None:
    told = faults(tmp_path, "jobs:\n  ca_bundle: '${CREDENTIALS_DIRECTORY}/ca'\n")
    assert "c.yaml:2: jobs.ca_bundle: " in told
    assert "needs the environment variable CREDENTIALS_DIRECTORY" in told
    assert "LoadCredential=" in told


def test_a_credential_that_isnt_there_is_told_by_its_path(
    tmp_path: Path, credentials: Path
) -> None:
    text = "listen: ['ssl:443:interface=127.0.0.1:privateKey=${CREDENTIALS_DIRECTORY}/key']"
    told = faults(tmp_path, text, CREDENTIALS_DIRECTORY=str(credentials))
    assert f"{credentials}/key can't be read: No such file or directory" in told


def test_a_folder_with_a_colon_is_quoted_in_an_endpoint() -> None:
    text = "ssl:443:privateKey=${CREDENTIALS_DIRECTORY}/key:certKey=${CREDENTIALS_DIRECTORY}/cert"
    told = resolve_within(text, {"CREDENTIALS_DIRECTORY": "/run/a:b"})
    listener = parse_listener(told, Path("/"))
    assert (str(listener.private_key), str(listener.certificate)) == (
        "/run/a:b/key",
        "/run/a:b/cert",
    )


def test_the_reference_counts_at_the_beginning_only() -> None:
    assert resolve("/x/${CREDENTIALS_DIRECTORY}", {}) == "/x/${CREDENTIALS_DIRECTORY}"
    assert resolve_within("tcp:1", {}) == "tcp:1"


# --- variables ------------------------------------------------------------------------------------


def test_a_credential_stands_in_for_a_variable(tmp_path: Path, credentials: Path) -> None:
    (credentials / "CUMULUSD_TOKEN_ANN").write_text(TOKEN + "\n")
    text = "tokens: [{name: ann, owner: ann, role: client}]"
    config = load_config(_written(tmp_path, text), {"CREDENTIALS_DIRECTORY": str(credentials)})
    by_variable = load_config(_written(tmp_path, text), {"CUMULUSD_TOKEN_ANN": TOKEN})
    assert config.tokens[0].token_sha256 == by_variable.tokens[0].token_sha256


def test_s3s_key_comes_from_credentials(tmp_path: Path, credentials: Path) -> None:
    (credentials / "CUMULUSD_S3_ACCESS_KEY").write_text("id\n")
    (credentials / "CUMULUSD_S3_SECRET_KEY").write_text("secret\n")
    config = load_config(
        _written(tmp_path, "s3: {bucket: abc}"), {"CREDENTIALS_DIRECTORY": str(credentials)}
    )
    assert config.s3 is not None
    assert (config.s3.access_key, config.s3.secret_key) == ("id", "secret")


def test_neither_variable_nor_credential(tmp_path: Path, credentials: Path) -> None:
    told = faults(
        tmp_path,
        "tokens: [{name: ann, owner: ann, role: client}]\ns3: {bucket: abc}\n",
        CREDENTIALS_DIRECTORY=str(credentials),
    )
    assert "CUMULUSD_TOKEN_ANN is not set, nor is there a credential of that name" in told
    assert "CUMULUSD_S3_ACCESS_KEY, with S3's key, is not set, nor is there a credential" in told


def test_the_environment_comes_first(credentials: Path) -> None:
    (credentials / "A").write_text("credential")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "A": "variable"}
    assert Secrets(environ)["A"] == "variable"
    assert Secrets({**environ, "A": ""})["A"] == "credential"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\xff\xfe", "is no text"), (b"x" * (MAX_SECRET_BYTES + 1), "bytes: no secret")],
    ids=["binary", "large"],
)
def test_a_credential_that_is_no_secret(
    tmp_path: Path, credentials: Path, content: bytes, why: str
) -> None:
    (credentials / "CUMULUSD_TOKEN_ANN").write_bytes(content)
    text = "tokens: [{name: ann, owner: ann, role: client}]"
    told = faults(tmp_path, text, CREDENTIALS_DIRECTORY=str(credentials))
    assert f"the credential CUMULUSD_TOKEN_ANN {'is over ' if 'bytes' in why else ''}" in told
    assert why in told


# --- sockets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("systemd:domain=INET:index=0", Inherited(which="0", domain="INET")),
        ("systemd:domain=INET6:name=cumulusd", Inherited(which="cumulusd", domain="INET6")),
        ("systemd:name=a.socket:domain=UNIX", Inherited(which="a.socket", domain="UNIX")),
    ],
)
def test_sockets_are_named(text: str, wanted: Inherited) -> None:
    assert parse_inherited(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "systemd:",
        "systemd:domain=INET",
        "systemd:index=0",
        "systemd:domain=IPX:index=0",
        "systemd:domain=INET:index=-1",
        "systemd:domain=INET:index=0:name=a",
        "systemd:domain=INET:name=0",
        "systemd:domain=INET:name=",
        "systemd:domain=INET:name=a b",
        "systemd:domain=INET:index=0:port=1",
    ],
)
def test_sockets_that_are_named_wrongly(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        parse_inherited(text)
    told = faults(tmp_path, f"listen: ['{text}']", CUMULUSD_TOKEN_ANN=TOKEN)
    assert "is no endpoint" in told


def test_a_socket_is_for_a_daemon_with_tokens(tmp_path: Path) -> None:
    listen = "listen: ['systemd:domain=INET:index=0']\n"
    told = faults(tmp_path, listen)
    assert "is listened on by systemd" in told and "configure tokens" in told
    tokens = "tokens: [{name: ann, owner: ann, role: client}]\n"
    config = load_config(_written(tmp_path, listen + tokens), {"CUMULUSD_TOKEN_ANN": TOKEN})
    # The socket itself is looked for at the start: a configuration is checked in a shell, too.
    assert config.listen == ("systemd:domain=INET:index=0",)
    (warning,) = warnings(config)
    assert "unless systemd listens on 127.0.0.1" in warning


def test_a_socket_that_speaks_tls() -> None:
    text = "ssl:systemd=cumulusd:privateKey=/k:certKey=/c"
    listener = parse_listener(text, Path("/"))
    assert (listener.inherited, listener.name) == ("cumulusd", "systemd:cumulusd")
    assert parse_listener(listener.description, Path("/")) == listener
    for wrong in (
        "ssl:443:systemd=cumulusd:privateKey=/k",
        "ssl:systemd=cumulusd:interface=::1:privateKey=/k",
        "ssl:systemd=a b:privateKey=/k",
        "ssl:systemd=:privateKey=/k",
    ):
        with pytest.raises(TlsUnusable):
            parse_listener(wrong, Path("/"))
