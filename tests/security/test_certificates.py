"""When a certificate's end is warned of, and that a bad file takes nothing from the good ones."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from cumulusd.certificates import DAY_S, Certificates
from cumulusd.cli_config import check_config
from cumulusd.tls import TlsUnusable, parse_listener
from tests.security.authority import Authority


async def at_once(function: Callable[[], Any]) -> Any:
    return function()


@pytest.mark.parametrize(("days", "word"), [(90, None), (13.5, "expires in 13.5"), (-2, "expired")])
def test_its_end_is_told_at_the_start_and_daily(
    authority: Authority, days: float, word: str | None
) -> None:
    certificate, key = authority.issue("one", days=days)
    listener = parse_listener(f"ssl:1:privateKey={key}:certKey={certificate}", Path("/"))
    clock, began = Clock(), time.time()
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if "certificate" in str(event.get("told")):
            seen.append(event)

    certificates = Certificates(
        [listener],
        clock=clock,
        wall_clock=lambda: began + clock.seconds(),
        run_in_thread=at_once,
    )
    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    try:
        certificates.start()
        assert len(seen) == (word is not None)
        assert all(str(word) in formatEvent(one) for one in seen)
        clock.advance(DAY_S)
        assert len(seen) == 2 * (word is not None)
        clock.advance(DAY_S * 100)
        assert "has expired" in formatEvent(seen[-1])
        certificates.stop()
        assert not clock.getDelayedCalls()
    finally:
        globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_reload_tells_of_its_end_only_when_it_is_another(authority: Authority) -> None:
    certificate, key = authority.issue("one", days=5)
    listener = parse_listener(f"ssl:1:privateKey={key}:certKey={certificate}", Path("/"))
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if "expires in" in str(event.get("told")):
            seen.append(event)

    certificates = Certificates(
        [listener], clock=Clock(), wall_clock=time.time, run_in_thread=at_once
    )
    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    try:
        certificates.start()
        for _ in range(3):
            await Deferred.fromCoroutine(certificates.reload())
        assert len(seen) == 1
        renewed, its_key = authority.issue("one", days=6)
        assert (renewed, its_key) == (certificate, key), "it takes the place of the first"
        await Deferred.fromCoroutine(certificates.reload())
        assert len(seen) == 2 and "expires in 6.0" in formatEvent(seen[-1])
    finally:
        certificates.stop()
        globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def test_check_config_warns_of_its_end(
    authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for days, word in ((90, ""), (7, "expires in 7.0 days: renew it"), (-2, "expired 2 days ago")):
        certificate, key = authority.issue("one", days=days)
        file = tmp_path / "c.yaml"
        file.write_text(
            f"listen: ['ssl:1:privateKey={key}:certKey={certificate}:interface=127.0.0.1']\n"
        )
        assert check_config(str(file)) == 0
        told = capsys.readouterr()
        assert ": ok" in told.out
        assert word in told.err and told.err.count("warning") == (word != ""), told.err


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_one_bad_file_takes_nothing_from_the_others(authority: Authority) -> None:
    pairs = [authority.issue("one", days=50), authority.issue("two", days=50)]
    listeners = [
        parse_listener(f"ssl:{port}:privateKey={key}:certKey={certificate}", Path("/"))
        for port, (certificate, key) in enumerate(pairs, 1)
    ]
    certificates = Certificates(
        listeners, clock=Clock(), wall_clock=time.time, run_in_thread=at_once
    )
    before = dict(certificates.expires_at())
    authority.issue("two", days=80)
    pairs[0][1].write_text("nothing")
    with pytest.raises(TlsUnusable, match=r"\*:1 keeps its certificate: .*no private key"):
        await Deferred.fromCoroutine(certificates.reload())
    after = certificates.expires_at()
    assert after["*:1"] == before["*:1"]
    assert after["*:2"] - before["*:2"] == pytest.approx(30 * DAY_S, abs=60)
