"""Dashboards and rules as files: well formed, complete in what they say, and right about when to alarm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from serve.metrics import Metrics, reference
from tests.deploy.chart import ROOT
from tests.deploy.prometheus import DASHBOARDS, INSTALL, RULES, dashboard_queries, find_binary, names_in, rule_queries


@pytest.fixture(scope="module")
def promtool() -> str:
    binary = find_binary("promtool")
    if binary is None:
        pytest.skip(f"no promtool here; install it with: {' '.join(INSTALL)}")
    return binary


def test_every_declared_metric_is_on_a_dashboard() -> None:
    shown = {name for _, query in dashboard_queries() for name in names_in(query)}
    for metric in Metrics().declared():
        if metric._name != "palate_info":
            assert any(name.startswith(metric._name) for name in shown), metric._name


def test_dashboards_are_laid_out() -> None:
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS) == 4
    for path in DASHBOARDS:
        tree = json.loads(path.read_text())
        places: set[tuple[int, int]] = set()
        for panel in tree["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & places, (path.stem, panel["title"])
            assert max(x for x, _ in cells) < 24
            places |= cells
        assert len({panel["id"] for panel in tree["panels"]}) == len(tree["panels"])
        assert all("$datasource" in panel["datasource"]["uid"] or "{datasource}" in panel["datasource"]["uid"]
                   for panel in tree["panels"] if panel["type"] != "row")  # fmt: skip


def test_rules_say_what_to_do() -> None:
    alerts = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) == len(rule_queries())
    for rule in alerts:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_prometheus_would_take_rules_and_configuration(promtool: str, tmp_path: Path) -> None:
    for kind, path in (("rules", RULES), ("config", ROOT / "deploy" / "prometheus" / "prometheus.yml")):
        done = subprocess.run([promtool, "check", kind, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    cases = tmp_path / "cases.yaml"
    cases.write_text((Path(__file__).parent / "rules_test.yaml").read_text().replace("RULES", str(RULES)))
    done = subprocess.run([promtool, "test", "rules", cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_reference_is_current() -> None:
    told = (ROOT / "docs" / "metrics.md").read_text()
    assert told == reference(), "run: palate metrics docs > docs/metrics.md"
