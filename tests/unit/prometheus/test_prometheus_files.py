"""The alert rules, the dashboard and the example of a configuration: valid by promtool, and of
metrics that there are. docs/operations.md has a line for each metric and each alert."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from all_metrics import daemons_own, faults

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "etc/prometheus/alerts.yml"
DASHBOARD = json.loads((ROOT / "etc/grafana/cumulus.json").read_text())
TESTS = Path(__file__).with_name("alerts_test.yml")
PAGE = (ROOT / "docs/operations.md").read_text()
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}
TARGETS = [
    (panel["title"], target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


def promtool(*arguments: str) -> str:
    path = shutil.which("promtool")
    assert path is not None, "script/setup installs it (package prometheus)"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(ALERTS))


def test_prometheus_takes_the_example(tmp_path: Path) -> None:
    example = (ROOT / "etc/prometheus/prometheus.yml").read_text()
    token = tmp_path / "cumulus.token"
    token.write_text("x")
    assert example.count("/etc/prometheus/cumulus.token") == 2
    (tmp_path / "prometheus.yml").write_text(
        example.replace("/etc/prometheus/cumulus.token", str(token))
    )
    shutil.copy(ALERTS, tmp_path)
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_each_alert_fires_for_what_it_is_for_and_is_silent_before() -> None:
    """When this fails: promtool says which of alerts_test.yml's expectations was not met."""
    promtool("test", "rules", str(TESTS))
    cases = [
        case
        for group in yaml.safe_load(TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(RULES)


def test_a_rule_that_never_fires_would_be_found(tmp_path: Path) -> None:
    dead = ALERTS.read_text().replace("cumulus_reload_ok == 0", "cumulus_reload_ok == 7")
    (tmp_path / "alerts.yml").write_text(dead)
    (tmp_path / "alerts_test.yml").write_text(
        TESTS.read_text().replace("../../../etc/prometheus/alerts.yml", "alerts.yml")
    )
    with pytest.raises(AssertionError, match="CumulusReloadFailed"):
        promtool("test", "rules", str(tmp_path / "alerts_test.yml"))


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_asks_for_what_there_is(alert: str) -> None:
    rule = RULES[alert]
    assert faults(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    "expression",
    [
        "cumulus_jobz > 0",
        'cumulus_jobs{stat="running"}',
        'cumulus_workers{state=~"down|upside"}',
        "sum by (worker) (cumulus_jobs)",
        "cumulus_jobs_ended",
        "cumulus_job_run_seconds",
    ],
)
def test_what_there_is_not_would_be_found(expression: str) -> None:
    assert faults(expression)


def test_the_dashboard_asks_for_what_there_is() -> None:
    assert len(TARGETS) > 40
    wrong = {title: faults(expression) for title, expression in TARGETS}
    assert {title: each for title, each in wrong.items() if each} == {}


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"panel_{number}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$instance", ".*"),
        }
        for number, (_, expression) in enumerate(TARGETS)
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_the_panels_of_the_dashboard_have_their_places() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


def table(section: str) -> list[list[str]]:
    """Cells of the section's tables, without their heads."""
    body = re.split(r"^#{2,3} ", PAGE.split(f"## {section}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    lines = [line for line in body.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if not row[0].startswith(("metric", "alert"))]


def test_every_metric_is_in_the_operations_page_and_no_other() -> None:
    """Each line: name, type, labels, meaning."""
    rows = table("Metrics")
    assert all(len(row) == 4 and row[3] for row in rows)
    told: dict[str, Any] = {
        row[0].strip("`"): (row[1], frozenset(re.findall(r"`([a-z_]+)`", row[2]))) for row in rows
    }
    assert len(told) == len(rows)
    there = {
        name: (known.type, known.labels)
        for name, known in daemons_own().items()
        if not name.startswith("cumulusd_process_")
    }
    assert told == there


def test_every_alert_is_in_the_operations_page_and_no_other() -> None:
    """Each line: alert, meaning, what to do."""
    rows = table("Alerts")
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)
    assert [row[0].strip("`") for row in rows] == list(RULES)
