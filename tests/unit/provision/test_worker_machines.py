"""On which machines worker.sh works, and what it says on others and to wrong words."""

import re
from collections.abc import Callable

import pytest

from tests.unit.provision.bare import SCRIPT, Bare
from tests.unit.provision.fake_servers import TOKEN, error

URL = "https://daemon.example:50051"


@pytest.mark.parametrize(
    "name, version",
    [
        ("debian", "13"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("debian", "12"), ("ubuntu", "22.04"), ("ubuntu", "24.04"))
        ),
    ],
)
def test_each_release_is_set_up(bare: Bare, name: str, version: str) -> None:
    bare.release(name, version)
    done = bare.join()
    assert done.returncode == 0, done.stderr
    installed = (bare.fake / "installed").read_text().split()
    assert ("docker-cli" in installed) == (version == "13")


def _release(name: str, version: str) -> Callable[[Bare], None]:
    return lambda bare: bare.release(name, version)


def _file(name: str, text: str = "") -> Callable[[Bare], None]:
    def write(bare: Bare) -> None:
        bare.write(name, text)

    return write


def _all(*changes: Callable[[Bare], None]) -> Callable[[Bare], None]:
    def change(bare: Bare) -> None:
        for one in changes:
            one(bare)

    return change


_DOCKERD = _file("fake/bin/dockerd", "#!/bin/sh\n")


def _engine(**values: object) -> Callable[[Bare], None]:
    def change(bare: Bare) -> None:
        (bare.fake / "bin/dockerd").chmod(0o755)
        for name, value in values.items():
            setattr(bare.engine, name, value)

    return change


def _answer(path: str, status: int, value: object) -> Callable[[Bare], None]:
    def change(bare: Bare) -> None:
        bare.orchestrator.answers[path] = (status, value)

    return change


def _plan(**values: object) -> Callable[[Bare], None]:
    return lambda bare: bare.orchestrator.plan.update(values)


#: What is so, and what is said of it.
REFUSED: dict[str, tuple[Callable[[Bare], None], tuple[str, ...]]] = {
    "not root": (lambda bare: bare.user(1000), ("needs root", "somebody")),
    "another release": (_release("debian", "11"), ("Debian 11", "Debian 12 or 13")),
    "no release": (lambda bare: (bare.root / "etc/os-release").unlink(), ("no /etc/os-release",)),
    "architecture": (_file("fake/architecture", "armhf"), ("no images are made for armhf",)),
    "vast": (
        _all(
            _file("fake/container", "docker"),
            _file("proc/1/environ", "container=docker\0VAST_CONTAINERLABEL=C.123\0"),
        ),
        ("container instance of Vast.ai (C.123)", "VM instance"),
    ),
    "container": (
        _all(_file(".dockerenv"), _file("fake/unshare-fails")),
        ("container (docker) that can't run Docker", "in a VM"),
    ),
    "unknown token": (
        _answer("/provision/join", 401, error("the token is not known")),
        ("doesn't take this machine", "the token is not known", "provision-token create"),
    ),
    "used token": (
        _answer("/provision/join", 409, error("bound to another machine")),
        ("bound to another machine", "a token of its own"),
    ),
    "no daemon of ours": (
        _answer("/provision/join", 404, b"<html>"),
        ("no answer of a Cumulus daemon", "HTTP 404"),
    ),
    "root as worker_root": (_plan(worker_root="/var"), ("can't be used", "no folder of its own")),
    "a folder of the system's, written otherwise": (
        _plan(worker_root="//etc"),
        ("can't be used", "'//etc'"),
    ),
    "a folder by a dot": (_plan(worker_root="/./etc"), ("can't be used", "no folder of its own")),
    "a size that is no number": (
        _plan(images=[{"name": "x", "id": "sha256:" + "a" * 64, "size_bytes": " 1_0 "}]),
        ("can't be used", "size_bytes"),
    ),
    "a source with words": (
        _plan(chronos={"source": "https://h/c.git\n0", "sha256": None}),
        ("can't be used", "chronos.source"),
    ),
    "a source that is an option": (
        _plan(chronos={"source": "pypi:--index-url==1", "sha256": None}),
        ("can't be used", "chronos.source"),
    ),
    "words in an answer": (
        _plan(images=[{"name": "x; reboot", "id": "sha256:" + "a" * 64, "size_bytes": 1}]),
        ("can't be used", "x; reboot"),
    ),
    "no manager": (
        _plan(swarm={"join_token": None, "manager_addresses": ["127.0.0.1:1"], "swarm_id": "s"}),
        ("manager is not reached", "127.0.0.1:1", "open port 2377/tcp"),
    ),
    "old engine": (
        _all(_DOCKERD, _engine(version={"Version": "19.03", "ApiVersion": "1.40"})),
        ("too old: 19.03", "20.10 or newer"),
    ),
    "rootless engine": (
        _all(_DOCKERD, _engine(security_options=["name=rootless"])),
        ("is rootless",),
    ),
    "another Swarm": (
        _all(_DOCKERD, _engine(swarm="active", managers=["10.1.1.1:2377"])),
        ("a node of another Swarm", "10.1.1.1:2377", "docker swarm leave"),
    ),
    "old agent": (
        lambda bare: setattr(bare.engine, "devices", "No module named cumulusd.agent.show_devices"),
        ("the devices can't be looked at", "No module named"),
    ),
    "no CPUs counted": (
        _plan(agent_options={"count_cpu_devices": False}),
        ("doesn't count CPUs", "platform.swarm.count_cpu_devices"),
    ),
    "never ready": (
        lambda bare: bare.orchestrator.answers.update({"/provision/status": None}),
        ("doesn't say how the worker does",),
    ),
    "token of a node that left": (
        lambda bare: bare.orchestrator.plan["swarm"].update(join_token=None),
        ("was used to join the Swarm already", "provision-token create"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_a_worker_is_told_why(bare: Bare, what: str) -> None:
    change, words = REFUSED[what]
    change(bare)
    done = bare.join(*(("--cpu-opencl",) if "CPU" in what else ()))
    assert done.returncode == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert TOKEN not in done.stderr
    assert len(bare.engine.joins) == (1 if what == "never ready" else 0)


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown": (("--bogus",), "unknown option --bogus"),
    "no value": (("--name",), "--name needs a value"),
    "empty value": (("--peer", ""), "--peer needs a value"),
    "no daemon": ((), "--orchestrator https://host:port"),
    "no scheme": (("--orchestrator", "daemon:50051"), "not 'daemon:50051'"),
    "a path": (("--orchestrator", f"{URL}/x"), "takes https://host:port"),
    "a command": (("--orchestrator", "https://$(reboot)"), "takes https://host:port"),
    "no token": (("--orchestrator", URL), "provisioning token is missing"),
    "another token": (("--orchestrator", URL, "--token", "cut_" + "x" * 40), "begin with cpt_"),
    "plain": (
        ("--orchestrator", "http://10.0.0.1:50051", "--token", TOKEN),
        "whoever is on the way could take the token",
    ),
    "no token file": (("--token-file", "/nowhere"), "/nowhere can't be read"),
    "force alone": (("--force",), "go with --uninstall"),
    **{
        word: (("--orchestrator", URL, "--token", TOKEN, word, value), said)
        for word, value, said in (
            ("--fingerprint", "sha256:" + "0" * 64, "takes sha256//"),
            ("--ca-file", "/nowhere", "/nowhere can't be read"),
            ("--name", "a b", "takes a host name"),
            ("--peer", "10.0.0.0/33", "takes an IPv4 network"),
            ("--advertise-addr", "10.0.0.1 x", "takes an address"),
            ("--chronos-source", "/nowhere", "there is no /nowhere"),
            ("--chronos-source", "pypi:chronos-gpu", "pypi:NAME==VERSION"),
            ("--chronos-source", "pypi:-r==1", "pypi:NAME==VERSION"),
            ("--chronos-sha256", "abc", "64 hexadecimal digits"),
            ("--registry-mirror", "mirror", "takes a URL"),
            ("--remote-api", "/nowhere", "never served without TLS"),
        )
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_words_change_nothing(bare: Bare, what: str) -> None:
    words, said = WRONG[what]
    before = bare.files()
    done = bare.run_bare(*words)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert bare.files() == before and bare.calls == []


def test_help_names_every_option(bare: Bare) -> None:
    done = bare.run_bare("--help")
    assert done.returncode == 0
    text = SCRIPT.read_text()
    known = set(re.findall(r"^ +(--[a-z-]+)\) ", text, re.MULTILINE))
    assert known >= {"--orchestrator", "--uninstall", "--cpu-opencl"}
    assert known <= set(re.findall(r"--[a-z0-9-]+", done.stdout))


def test_a_token_comes_from_a_file_or_the_environment(bare: Bare) -> None:
    token = bare.write("token", TOKEN + "\n")
    words = ("--orchestrator", bare.orchestrator.url, "--dry-run")
    assert bare.run(*words, "--token-file", str(token)).returncode == 0
    assert bare.run(*words, CUMULUS_PROVISION_TOKEN=TOKEN).returncode == 0
    assert bare.run(*words).returncode == 2


def test_a_container_that_can_run_docker_is_tried(bare: Bare) -> None:
    bare.write("fake/container", "lxc")
    done = bare.join()
    assert done.returncode == 0 and "container (lxc) with the rights" in done.stderr


def test_what_the_daemon_fills_in_stands_there_once() -> None:
    text = SCRIPT.read_text()
    for name in ("ORCHESTRATOR_URL", "ORCHESTRATOR_FINGERPRINT"):
        assert text.count(f'\n{name}=""  # filled in by the daemon that serves this script\n') == 1
