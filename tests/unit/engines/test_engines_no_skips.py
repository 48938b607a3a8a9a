"""Where engines can be had, a skipped engine test fails the run."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TESTS = """
import pytest

@pytest.mark.engine
def test_skipped():
    pytest.skip("no mood")

@pytest.mark.engine
@pytest.mark.skipif(True, reason="not today")
def test_never():
    pass

@pytest.mark.engine
@pytest.mark.xfail(strict=True)
def test_expected():
    assert False

def test_other():
    pytest.skip("may be")
"""


@pytest.mark.parametrize("strict", [True, False])
def test_skips_of_engine_tests_are_errors_where_engines_can_be_had(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\nmarkers =\n    engine: real engines\n")
    pytester.makepyfile(TESTS)
    pytester.makeconftest(
        f"import tests.engine.plugin as plugin\nplugin.skips_are_errors = lambda: {strict}\n"
    )
    result = pytester.runpytest_subprocess(
        *("-p", "tests.engine.plugin", "-p", "no:cacheprovider", "-p", "no:pytest_twisted")
    )
    if strict:
        result.assert_outcomes(failed=1, errors=1, skipped=1, xfailed=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*an engine test was skipped*: *no mood*"])
    else:
        result.assert_outcomes(skipped=3, xfailed=1)
        assert result.ret == pytest.ExitCode.OK


def test_continuous_integration_counts_as_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engine import plugin

    monkeypatch.setattr(plugin, "engines_can_be_had", lambda: False)
    monkeypatch.delenv("CI", raising=False)
    assert not plugin.skips_are_errors()
    monkeypatch.setenv("CI", "true")
    assert plugin.skips_are_errors()
