"""Checks the rules of Prometheus, and compares them with their unit tests and their runbooks."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.required_programs import need

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
UNIT_TESTS = [ROOT / "tests" / "deploy" / name for name in ("alerts.yml", "denial_surge.yml")]

ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def promtool(*arguments: str | Path) -> str:
    need("promtool")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration_and_finds_no_lint_in_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", PROMETHEUS / "rules.yml")


def test_each_alert_fires_in_time_and_resolves() -> None:
    promtool("test", "rules", *UNIT_TESTS)


def test_each_alert_has_unit_tests_in_which_it_fires_and_in_which_it_does_not() -> None:
    cases = [
        case
        for file in UNIT_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) is fires} == set(ALERTS)


def test_operations_has_a_runbook_for_each_alert() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    parts = re.split(r"^### (.*)$", section, flags=re.MULTILINE)[1:]
    runbooks = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(runbooks) == list(ALERTS)
    for name, text in runbooks.items():
        assert re.findall(r"^- (\w[\w ]+):", text, re.MULTILINE) == ["Meaning", "Look at", "Do"], name


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_severity_a_summary_and_the_link_to_its_runbook(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
