"""Which daemon and key are spoken to, and the file that holds them."""

import os
import stat
from pathlib import Path

import pytest

from cumulus_client import _profiles
from cumulus_client._profiles import Profile, ProfileError, Profiles, settings

LAB = Profile(name="lab", server_url="http://lab:50051", api_key="k-lab")
HOME = Profile(name="home", server_url="http://home:50051")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose file has `lab` (the default, with a key) and `home`."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    held = Profiles(default="lab", profiles={"lab": LAB, "home": HOME})
    _profiles.save(_profiles.config_path(environ), held)
    return environ


@pytest.mark.parametrize(
    ("given", "variables", "url", "key"),
    [
        ({}, {}, "http://lab:50051", "k-lab"),
        ({}, {"CUMULUS_PROFILE": "home"}, "http://home:50051", None),
        ({}, {"CUMULUS_SERVER_URL": "http://env"}, "http://env:50051", None),
        ({}, {"CUMULUS_SERVER_URL": "http://lab"}, "http://lab:50051", "k-lab"),
        ({}, {"CUMULUS_API_KEY": "k-env"}, "http://lab:50051", "k-env"),
        ({"profile": "lab"}, {"CUMULUS_SERVER_URL": "http://env"}, "http://lab:50051", "k-lab"),
        ({"profile": "lab"}, {"CUMULUS_API_KEY": "k-env"}, "http://lab:50051", "k-lab"),
        ({"profile": "home"}, {"CUMULUS_API_KEY": "k-env"}, "http://home:50051", "k-env"),
        ({"profile": "lab"}, {"CUMULUS_PROFILE": "home"}, "http://lab:50051", "k-lab"),
        ({"server_url": "https://x"}, {"CUMULUS_SERVER_URL": "http://env"}, "https://x:443", None),
        ({"server_url": "http://lab:50051/"}, {}, "http://lab:50051", "k-lab"),
        ({"server_url": "http://x", "profile": "lab"}, {}, "http://x:50051", None),
        ({"api_key": "k"}, {"CUMULUS_API_KEY": "k-env"}, "http://lab:50051", "k"),
        (
            {},
            {"CUMULUS_SERVER_URL": "http://env", "CUMULUS_PROFILE": "home"},
            "http://env:50051",
            None,
        ),
    ],
)
def test_what_goes_before_what(
    environ: dict[str, str],
    given: dict[str, str],
    variables: dict[str, str],
    url: str,
    key: str | None,
) -> None:
    found = settings(**given, environ={**environ, **variables})
    assert (found.server_url, found.api_key) == (url, key)
    assert "k-lab" not in repr(found)


@pytest.mark.parametrize(
    ("given", "variables", "key", "name"),
    [
        ({}, {}, "k-work", "ann"),
        ({"api_key": "k"}, {}, "k", None),
        ({"api_key": "k", "api_key_name": "bob"}, {}, "k", "bob"),
        ({"api_key_name": "bob"}, {}, "k-work", "bob"),
        ({}, {"CUMULUS_API_KEY": "k-env"}, "k-env", None),
        ({}, {"CUMULUS_API_KEY": "k-env", "CUMULUS_API_KEY_NAME": "eve"}, "k-env", "eve"),
        ({"api_key": "k"}, {"CUMULUS_API_KEY_NAME": "eve"}, "k", None),
        ({}, {"CUMULUS_API_KEY_NAME": "eve"}, "k-work", "ann"),
        ({"profile": "work"}, {"CUMULUS_API_KEY": "k-env"}, "k-work", "ann"),
        ({"server_url": "http://elsewhere"}, {}, None, None),
    ],
)
def test_a_keys_name_is_that_of_where_it_was_found(
    tmp_path: Path,
    given: dict[str, str],
    variables: dict[str, str],
    key: str | None,
    name: str | None,
) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    work = Profile(name="work", server_url="http://w", api_key="k-work", api_key_name="ann")
    _profiles.save(_profiles.config_path(environ), Profiles(profiles={"work": work}))
    found = settings(**given, environ={**environ, **variables})
    assert (found.api_key, found.api_key_name) == (key, name)


def test_without_a_file_it_is_this_machine(tmp_path: Path) -> None:
    found = settings(environ={"HOME": str(tmp_path)})
    assert (found.server_url, found.api_key) == ("http://127.0.0.1:50051", None)
    assert found.origin == "the default"


def test_the_file_is_for_its_owner_alone(environ: dict[str, str], tmp_path: Path) -> None:
    path = _profiles.config_path(environ)
    assert path == tmp_path / "cumulus/config.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["config.toml"], "nothing half-written is left"
    path.chmod(0o640)
    with pytest.raises(ProfileError, match=r"mode 0640\); run: chmod 600 "):
        settings(environ=environ)
    whole = {"CUMULUS_SERVER_URL": "http://a", "CUMULUS_API_KEY": "k"}
    assert settings(environ={**environ, **whole}).api_key == "k", "the file doesn't matter then"
    _profiles.save(path, Profiles(default="home", profiles={"home": HOME}))
    path.chmod(0o644)
    assert settings(environ=environ).server_url == "http://home:50051", "no key, no secret"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "cumulus").mkdir()
    path = tmp_path / "cumulus/config.toml"
    path.symlink_to(tmp_path / "dotfiles/cumulus.toml")
    _profiles.save(path, Profiles(default="lab", profiles={"lab": LAB}))
    assert path.is_symlink()
    assert _profiles.load(path).profiles == {"lab": LAB}


@pytest.mark.parametrize("name", ["lab", "a b", 'quo"te', "ö.x", "back\\slash", "\x7f"])
def test_what_is_written_is_read(name: str) -> None:
    held = Profiles(
        default=name,
        profiles={name: Profile(name=name, server_url="http://h:1", api_key='k"\\\n\U0001f511')},
    )
    assert _profiles.parse(_profiles.render(held)) == held


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[profiles.a]\nserver_ulr = 'http://h'\n", r"'server_ulr'; did you mean 'server_url'"),
        ("[profiles.a]\napi_key = 'x'\n", r"\[profiles.a\] has no server_url"),
        ("[profiles.a]\nserver_url = 3\n", "must be a text in quotes, not 3"),
        ("[profiles.a]\nserver_url = 'nowhere'\n", r"\[profiles.a\]: server_url must look like"),
        ("default_profile = 'b'\n[profiles.a]\nserver_url = 'http://h'\n", "no such profile"),
        ("server = 1\n", "unknown key 'server'"),
        ("profiles = 1\n", "must be tables"),
        ("= 1\n", "line 1"),
        ("profiles.a = 1\n", "must be a table"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=words) as caught:
        _profiles.load(path)
    assert str(path) in str(caught.value)


def test_a_profile_that_is_not_there(environ: dict[str, str]) -> None:
    with pytest.raises(ProfileError, match="no profile 'lap'; did you mean 'lab'"):
        settings(profile="lap", environ=environ)
    with pytest.raises(ProfileError, match=r"\(CUMULUS_PROFILE\); these are: home, lab"):
        settings(environ={**environ, "CUMULUS_PROFILE": "zzz"})
    empty = {"XDG_CONFIG_HOME": environ["XDG_CONFIG_HOME"] + "/none"}
    with pytest.raises(ProfileError, match="cumulus login --profile new"):
        settings(profile="new", environ=empty)


def test_the_first_profile_is_the_default() -> None:
    held = Profiles(profiles={}).with_profile(LAB, make_default=False)
    assert held.default == "lab"
    assert held.with_profile(HOME, make_default=False).default == "lab"
    assert held.with_profile(HOME, make_default=True).default == "home"
