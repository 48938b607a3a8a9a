"""Provisioning tokens: each opens the pool once, to one node, and is never kept itself."""

import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest

from cumulusd.cli import main
from cumulusd.errors import (
    Conflict,
    InternalError,
    NotAuthenticated,
    NotFound,
    TooMany,
    Unavailable,
)
from cumulusd.exits import EXIT_CONFIG, EXIT_UNAVAILABLE
from cumulusd.identity import hash_token
from cumulusd.provisioning import FILE, MAX_TOKENS, Provisioning
from cumulusd.state_file import StateFile


class Moment:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
def tokens(tmp_path: Path, moment: Moment) -> Provisioning:
    return Provisioning(tmp_path, moment)


def test_one_node_redeems_it_and_may_repeat(tokens: Provisioning, moment: Moment) -> None:
    secret, made = tokens.create(lifetime_s=60, note="rack 3")
    assert len(secret) > 40 and made.state(moment.now) == "open"
    assert tokens.check(secret, "n1").node_id is None, "checking uses nothing up"
    used = tokens.redeem(secret, "n1")
    assert (used.node_id, used.redeemed_at, used.note) == ("n1", moment.now, "rack 3")
    moment.now += 3600  # the answer was lost, and the node asks again, late
    assert tokens.redeem(secret, "n1") == used == tokens.check(secret, "n1")
    for ask in (tokens.check, tokens.redeem):
        with pytest.raises(Conflict, match="another node"):
            ask(secret, "n2")


def test_what_opens_nothing(tokens: Provisioning, moment: Moment) -> None:
    secret, made = tokens.create(lifetime_s=60)
    for wrong in ("", "cpt_x", secret[:-1], made.sha256, secret + " "):
        with pytest.raises(NotAuthenticated):
            tokens.redeem(wrong, "n1")
    moment.now += 60
    with pytest.raises(NotAuthenticated, match="expired"):
        tokens.redeem(secret, "n1")


def test_a_revoked_token_opens_nothing(tokens: Provisioning) -> None:
    secret, made = tokens.create(lifetime_s=60)
    tokens.revoke(made.token_id)
    with pytest.raises(NotAuthenticated):
        tokens.redeem(secret, "n1")
    with pytest.raises(NotFound):
        tokens.revoke(made.token_id)


def test_only_hashes_are_kept_and_for_the_daemon_only(tokens: Provisioning, tmp_path: Path) -> None:
    secret, _ = tokens.create(lifetime_s=60)
    for path in tmp_path.iterdir():
        assert secret not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_they_outlive_the_process(tmp_path: Path, moment: Moment) -> None:
    secret, _ = Provisioning(tmp_path, moment).create(lifetime_s=60)
    Provisioning(tmp_path, moment).redeem(secret, "n1")
    assert [one.node_id for one in Provisioning(tmp_path, moment).tokens()] == ["n1"]


def test_their_number_is_bounded_and_old_ones_are_forgotten(
    tokens: Provisioning, tmp_path: Path, moment: Moment
) -> None:
    tokens.create(lifetime_s=60)
    (entry,) = StateFile(tmp_path / FILE, version=2, what="x").load()["tokens"]
    many = {"tokens": [{**entry, "token_id": str(n)} for n in range(MAX_TOKENS)]}
    StateFile(tmp_path / FILE, version=2, what="x").save(many)
    with pytest.raises(TooMany):
        tokens.create(lifetime_s=60)
    moment.now += 31 * 24 * 3600
    tokens.create(lifetime_s=60)
    assert len(tokens.tokens()) == 1


def _race(folder: str, secret: str, node_id: str, start: object, won: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        Provisioning(Path(folder), lambda: 1_000_000.0).redeem(secret, node_id)
    except Conflict:
        return
    won.put(node_id)  # type: ignore[attr-defined]


def test_of_many_at_once_one_gets_it(tokens: Provisioning, tmp_path: Path) -> None:
    secret, _ = tokens.create(lifetime_s=60)
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.Queue()
    racing = [
        context.Process(target=_race, args=(str(tmp_path), secret, f"n{n}", start, won))
        for n in range(6)
    ]
    for one in racing:
        one.start()
    start.set()
    for one in racing:
        one.join(20)
        assert one.exitcode == 0
        one.close()
    assert won.get(timeout=5) == tokens.tokens()[0].node_id
    assert won.empty()
    won.close()
    won.join_thread()


def test_a_lock_that_is_never_let_go_ends_the_wait(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "x.json", version=1, what="x")
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with file.locked():
            inside.set()
            done.wait(10)

    holding = threading.Thread(target=hold)
    holding.start()
    inside.wait(10)
    with pytest.raises(Unavailable, match="another process"), file.locked(timeout_s=0.1):
        pass
    done.set()
    holding.join()
    with file.locked(timeout_s=0.1):
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', '{"version": 9}', '{"version": 1, "tokens": [{"a": 1}]}']
)
def test_a_damaged_file_is_told_and_never_overwritten(
    tokens: Provisioning, tmp_path: Path, text: str
) -> None:
    (tmp_path / FILE).write_text(text)
    for use in (tokens.tokens, lambda: tokens.create(lifetime_s=1)):
        with pytest.raises(InternalError, match=r"provisioning\.json"):
            use()
    assert (tmp_path / FILE).read_text() == text


def test_what_is_written_by_root_is_the_daemons(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(tmp_path, 1234, 1234)
    tokens = Provisioning(tmp_path, lambda: 1.0)
    tokens.create(lifetime_s=1)
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {1234}


def test_who_guesses_waits_for_no_lock(tokens: Provisioning, tmp_path: Path) -> None:
    """Else guesses without end would hold the daemon's threads, each for as long as it waits."""
    tokens.create(lifetime_s=60)
    with StateFile(tmp_path / FILE, version=2, what="x").locked():
        with pytest.raises(NotAuthenticated):
            tokens.bind("cpt_guessed", "machine-1", "gpu-1")
        with pytest.raises(NotAuthenticated):
            tokens.redeem("cpt_guessed", "n1")


def test_a_token_is_one_machines(tokens: Provisioning, moment: Moment) -> None:
    secret, made = tokens.create(lifetime_s=60)
    bound = tokens.bind(secret, "machine-1", "gpu-1")
    assert (bound.machine_id, bound.hostname, bound.bound_at) == ("machine-1", "gpu-1", moment.now)
    assert bound.state(moment.now) == "bound"
    assert tokens.bind(secret, "machine-1", "renamed") == bound
    with pytest.raises(Conflict, match="another machine"):
        tokens.bind(secret, "machine-2", "gpu-1")
    moment.now += 60  # it took too long: only a redeemed one goes on
    with pytest.raises(NotAuthenticated):
        tokens.bind(secret, "machine-1", "gpu-1")
    moment.now -= 1
    tokens.redeem(secret, "n1")
    moment.now += 3600
    assert tokens.bind(secret, "machine-1", "gpu-1").node_id == "n1"
    tokens.leaving(made.token_id)
    assert tokens.tokens()[0].state(moment.now) == "left"
    with pytest.raises(Conflict, match="has left"):
        tokens.redeem(secret, "n1")
    assert tokens.redeemed_by(secret, "n1").leaving_at == moment.now


def test_a_workers_node_is_taken_by_no_other_machine(tokens: Provisioning) -> None:
    """Else its token would make somebody else's worker leave."""
    mine, made = tokens.create(lifetime_s=60)
    tokens.bind(mine, "machine-1", "gpu-1")
    tokens.redeem(mine, "n1")
    unbound, stolen = (tokens.create(lifetime_s=60)[0] for _ in range(2))
    tokens.bind(stolen, "machine-2", "gpu-1")
    for secret in (unbound, stolen):
        for ask in (tokens.check, tokens.redeem):
            with pytest.raises(Conflict, match="another token") as caught:
                ask(secret, "n1")
            assert f"revoke {made.token_id}" in str(caught.value.hint)
        with pytest.raises(Conflict):
            tokens.redeemed_by(secret, "n1")
    again = tokens.create(lifetime_s=60)[0]
    tokens.bind(again, "machine-1", "gpu-1")
    assert tokens.redeem(again, "n1").node_id == "n1", "the machine itself, by a new token"
    tokens.redeem(stolen, "n2")


def test_the_join_token_is_due_for_all_who_know_it_and_are_none_of_ours(
    tokens: Provisioning, tmp_path: Path, moment: Moment
) -> None:
    def bound(lifetime_s: float) -> str:
        secret, made = tokens.create(lifetime_s=lifetime_s)
        tokens.bind(secret, f"machine-{made.token_id}", "gpu")
        return made.token_id

    unused = tokens.create(lifetime_s=60)[1].token_id
    waiting, revoked, late = bound(3600), bound(3600), bound(60)
    assert tokens.rotation_due() == [], "a machine that is on its way needs it still"
    tokens.revoke(unused)
    tokens.revoke(revoked)
    assert tokens.rotation_due() == [revoked], "nobody was told by the other"
    moment.now += 61
    tokens = Provisioning(tmp_path, moment)
    assert tokens.rotation_due() == [late, revoked]
    tokens.create(lifetime_s=60)
    tokens.rotated(late, revoked)
    assert tokens.rotation_due() == []
    tokens.revoke(late)
    assert tokens.rotation_due() == [], "it has been changed since"
    tokens.revoke(waiting)
    assert tokens.rotation_due() == [waiting]


def test_a_workers_token_is_kept_for_as_long_as_it_is_one(
    tokens: Provisioning, moment: Moment
) -> None:
    secret, made = tokens.create(lifetime_s=60)
    tokens.redeem(secret, "n1")
    moment.now += 365 * 24 * 3600
    tokens.create(lifetime_s=60)
    assert made.token_id in [one.token_id for one in tokens.tokens()]
    tokens.leaving(made.token_id)
    moment.now += 31 * 24 * 3600
    tokens.create(lifetime_s=60)
    assert made.token_id not in [one.token_id for one in tokens.tokens()]


def test_a_file_of_before_is_read(tokens: Provisioning, tmp_path: Path) -> None:
    """Format 1, as it was written before machines joined by tokens."""
    secret = "cpt_of-before"
    old = {
        "token_id": "aa",
        "sha256": hash_token(secret),
        "note": "rack 3",
        "created_at": 1.0,
        "expires_at": 2.0,
        "node_id": "n1",
        "redeemed_at": 1.5,
    }
    StateFile(tmp_path / FILE, version=1, what="x").save({"tokens": [old]})
    assert tokens.check(secret, "n1").note == "rack 3"
    tokens.rotated("aa")
    assert StateFile(tmp_path / FILE, version=2, what="x").load()["tokens"][0]["rotated_at"]
    with pytest.raises(NotFound):
        tokens.ready("bb")


# -- the command


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text("state_dir: state\n")
    return str(path)


def run(*arguments: str) -> int:
    return main(["provision-token", *arguments])


def test_the_command(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("create", "--config", config, "--note", "rack 3", "--hours", "2") == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    assert shown.out == f"{secret}\n" and secret.startswith("cpt_")
    (made,) = Provisioning(tmp_path / "state", lambda: 0.0).tokens()
    assert made.expires_at - made.created_at == 7200
    assert run("list", "--config", config) == 0
    listed = capsys.readouterr().out
    assert made.token_id in listed and "open" in listed and "rack 3" in listed
    assert secret not in listed
    assert run("revoke", made.token_id, "--config", config) == 0
    assert run("list", "--config", config) == 0
    assert capsys.readouterr().out == ""
    assert run("revoke", made.token_id, "--config", config) == EXIT_UNAVAILABLE
    assert "no provisioning token" in capsys.readouterr().err


@pytest.fixture
def swarm_config(tmp_path: Path) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(
        "state_dir: state\nallow_plain_tokens: true\nlisten: [tcp:50051]\njobs: {image: job}\n"
        "platform: {type: swarm, swarm: {agent_image: agent, advertise_url: ws://10.0.0.1:50051}}\n"
        "tokens: [{name: me, owner: me, role: client, token_sha256: " + "ab" * 32 + "}]\n"
    )
    return str(path)


def test_the_command_for_the_machine_is_shown(
    swarm_config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("create", "--config", swarm_config) == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    assert shown.out == f"{secret}\n"
    command = (
        "curl -fsSL http://10.0.0.1:50051/provision/worker.sh | bash -s -- "
        f"--orchestrator http://10.0.0.1:50051 --token {secret}"
    )
    assert command in shown.err


def test_a_local_daemon_says_that_nothing_can_join(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("create", "--config", config) == 0
    shown = capsys.readouterr()
    assert "platform is local" in shown.err and "curl" not in shown.err


def test_the_commands_faults(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for hours in ("0", "-1", "nan", "99999999", "x"):
        with pytest.raises(SystemExit):
            run("create", "--config", config, "--hours", hours)
    assert run("create", "--config", str(tmp_path / "none.yaml")) == EXIT_CONFIG
    (tmp_path / "state").write_text("in the way")
    assert run("create", "--config", config) == EXIT_CONFIG  # state_dir is there and no folder
    assert "no folder" in capsys.readouterr().err
