"""The leak fixture finds each kind of leak, names it, and lets clean tests pass."""

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[2] / "conftest.py"

TESTS = '''
import gc, os, socket, subprocess, sys, tempfile
import pytest, pytest_twisted
from twisted.internet import defer, protocol, reactor, task
from twisted.logger import Logger

KEPT = []

def test_clean_plain(tmp_path):
    (tmp_path / "file").write_text("x")

@pytest_twisted.ensureDeferred
async def test_clean_async():
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(protocol.Protocol),
                             interface="127.0.0.1")
    await task.deferLater(reactor, 0.01, lambda: None)
    await port.stopListening()
    subprocess.run([sys.executable, "-c", ""], check=True)

@pytest_twisted.ensureDeferred
async def test_clean_late_close():
    """Closing takes a turn of the reactor: that is no leak."""
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(protocol.Protocol),
                             interface="127.0.0.1")
    port.stopListening()

def test_clean_own_failure():
    try:
        raise ValueError("handled and logged by the code itself")
    except ValueError:
        Logger(namespace="cumulusd.something").failure("it failed")

def test_leak_deferred():
    defer.fail(ValueError("lost in a Deferred"))

def test_leak_deferred_cycle():
    deferred = defer.fail(ValueError("lost in a cycle"))
    deferred.itself = deferred

@pytest_twisted.ensureDeferred
async def test_leak_reactor_error():
    def bad():
        raise ValueError("lost in a timer")
    reactor.callLater(0, bad)
    await task.deferLater(reactor, 0.02, lambda: None)

def test_leak_call():
    reactor.callLater(60, lambda: None)

def test_leak_port():
    KEPT.append(reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1"))

def test_leak_socket():
    KEPT.append(socket.socket())

def test_leak_file(tmp_path):
    KEPT.append(os.open(tmp_path / "journal", os.O_CREAT | os.O_WRONLY))

def test_leak_process():
    KEPT.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(50)"]))

def test_leak_temporary():
    KEPT.append(tempfile.mkdtemp(prefix="cumulus-job-"))

@pytest.mark.leaks("delayed_calls", reason="shows the opt-out")
def test_clean_allowed():
    reactor.callLater(60, lambda: None)

@pytest.mark.leaks("delayed_calls", reason="covers calls only")
def test_leak_not_covered():
    KEPT.append(socket.socket())

@pytest.mark.leaks("delayed_calls")
def test_leak_marker_without_reason():
    pass

def test_clean_after_all():
    pass
'''


def test_each_kind_is_found_and_clean_tests_pass(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(test_inner=TESTS)
    done = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning", "-rA", timeout=90
    )
    errors = {
        "test_leak_deferred": "lost in a Deferred",
        "test_leak_deferred_cycle": "lost in a cycle",
        "test_leak_reactor_error": "lost in a timer",
        "test_leak_call": "the test left delayed_calls",
        "test_leak_port": "the test left descriptors",
        "test_leak_socket": "the test left descriptors",
        "test_leak_file": "/journal",
        "test_leak_process": "time.sleep(50)",
        "test_leak_temporary": "cumulus-job-",
        "test_leak_not_covered": "the test left descriptors",
        "test_leak_marker_without_reason": "give a reason",
    }
    output = done.stdout.str()
    for name, text in errors.items():
        assert f"ERROR test_inner.py::{name} " in output, name
        assert text in output, name
    clean = ("plain", "async", "late_close", "own_failure", "allowed", "after_all")
    for name in clean:
        assert f"PASSED test_inner.py::test_clean_{name}" in output, name
    # A leak is reported at the end of its test: the body passed, the tear-down erred. A bad marker
    # already stops the start.
    done.assert_outcomes(passed=len(clean) + len(errors) - 1, errors=len(errors))
    assert "ERROR test_inner.py::test_clean" not in output


def test_the_fixture_is_cheap(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(
        test_many="""
        import pytest, time
        import pydantic, autobahn.twisted.websocket, hypothesis  # the usual ballast

        @pytest.mark.parametrize("n", range(200))
        def test_nothing(n):
            pass

        def test_cost(no_leaks):
            import conftest
            from twisted.internet import reactor
            began = time.perf_counter()
            for _ in range(100):
                conftest.collect_garbage()
                leaks = conftest.Leaks(reactor, "/nowhere", conftest.LostErrors())
                conftest.collect_garbage()
                assert leaks.found() == {}
            cost_s = (time.perf_counter() - began) / 100
            assert cost_s < 0.02, cost_s  # under 5 ms on a quiet machine
            print(f"COST {cost_s * 1000:.2f} ms")
        """
    )
    done = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", "-rP", "-q", timeout=90
    )
    done.assert_outcomes(passed=201)
    done.stdout.fnmatch_lines(["*COST * ms*"])


def test_a_test_that_waits_for_ever_fails_alone(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(
        test_inner="""
        import time
        import pytest, pytest_twisted
        from twisted.internet import defer, reactor, task

        @pytest_twisted.ensureDeferred
        async def test_hangs():
            await defer.Deferred()

        def test_spins():
            ends = time.monotonic() + 30
            while time.monotonic() < ends:
                pass

        @pytest_twisted.ensureDeferred
        async def test_spins_async():
            time.sleep(30)

        @pytest_twisted.ensureDeferred
        async def test_after():
            await task.deferLater(reactor, 0.05, lambda: None)
        """
    )
    done = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-rA", "--timeout=1", "-W", "error", timeout=60
    )
    done.assert_outcomes(passed=1, failed=3)
    output = done.stdout.str()
    for name in ("hangs", "spins", "spins_async"):
        assert f"FAILED test_inner.py::test_{name} - Failed: Timeout" in output


def test_what_all_tests_share_may_take_its_own_time_to_go(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(
        test_inner="""
        import time
        import pytest

        @pytest.fixture(scope="session")
        def shared():
            yield
            time.sleep(1.5)

        @pytest.fixture
        def own():
            yield
            time.sleep(30)

        def test_own_things_are_bounded(shared, own):
            pass

        def test_last(shared):
            pass
        """
    )
    done = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-rA", "--timeout=1", "-W", "error", timeout=60
    )
    done.assert_outcomes(passed=2, errors=1)
    assert "ERROR test_inner.py::test_own_things_are_bounded - Failed: Timeout" in done.stdout.str()
