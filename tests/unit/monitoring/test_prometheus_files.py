"""The rules for Prometheus and the dashboard for Grafana, read by Prometheus' own tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml
from tests.metrics import every_metric
from tests.own_environments import python_of

from bascule.monitoring.alerts import shipped

RULES = shipped("rules.yml")
DASHBOARD = json.loads(shipped("dashboard.json"))
SERIES = 'bascule_requests_total{job="bascule",instance="one:8080",model="late",version="1",status='


def promtool(*words):
    found = shutil.which("promtool")
    assert found, "promtool is missing: apt-get install prometheus"
    done = subprocess.run([found, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def rules(tmp_path):
    file = tmp_path / "rules.yml"
    file.write_text(RULES)
    return file


def test_prometheus_takes_the_rules(rules):
    assert "SUCCESS" in promtool("check", "rules", rules)


def series(status, values):
    return {"series": f'{SERIES}"{status}"}}', "values": values}


def plain(name, values):
    return {"series": f'{name}{{job="bascule",instance="one:8080"}}', "values": values}


def shadow(*, dropped, compared):
    labels = '{job="bascule",endpoint="late",plan="2",arm="shadow",model="late",version="4"}'
    return [
        {"series": f"bascule_shadow_dropped_total{labels}", "values": f"0+{dropped}x60"},
        {"series": f"bascule_arm_requests_total{labels}", "values": f"0+{compared}x60"},
    ]


FEW = [series(200, "0+60x60"), series(500, "0+0x60")]
BUCKET = 'bascule_request_duration_seconds_bucket{job="bascule",model="late",version="1",le='
SLOWER = [
    series(200, "0+600x100"),
    {"series": f'{BUCKET}"0.01"}}', "values": "0+600x70 42000+0x30"},
    {"series": f'{BUCKET}"1"}}', "values": "0+600x100"},
    {"series": f'{BUCKET}"+Inf"}}', "values": "0+600x100"},
]


CASES = [
    ("BasculeErrors", FEW, 30, False),
    ("BasculeErrors", [series(200, "0+970x60"), series(500, "0+30x60")], 30, True),
    ("BasculeErrors", [series(200, "0+995x60"), series(500, "0+5x60")], 30, False),
    ("BasculeManyErrors", [series(200, "0+80x60"), series(503, "0+20x60")], 30, True),
    ("BasculeManyErrors", [series(200, "0+97x60"), series(500, "0+3x60")], 30, False),
    ("BasculeRefuses", [series(200, "0+90x60"), series(429, "0+10x60")], 30, True),
    ("BasculeSlow", SLOWER, 60, False),
    ("BasculeSlow", SLOWER, 90, True),
    ("BasculeSilent", [series(200, "0+60x1440 86400+0x60")], 1_480, True),
    ("BasculeSilent", [series(200, "0+60x1500")], 1_480, False),
    ("BasculeSilentWorkers", [plain("bascule_silent_workers_total", "0x9 1x20")], 12, True),
    ("BasculeControlRestarts", [plain("bascule_control_restarts_total", "0 3x20")], 12, True),
    ("BasculeControlRestarts", [plain("bascule_control_restarts_total", "0 1x20")], 12, False),
    ("BasculeStaleKeys", [plain("bascule_keys_age_seconds", "400x20")], 5, True),
    ("BasculeStaleKeys", [plain("bascule_keys_age_seconds", "200x20")], 5, False),
    ("BasculeLedgerDrops", [plain("bascule_ledger_dropped_total", "0x9 7x20")], 12, True),
    ("BasculeLedgerLags", [plain("bascule_ledger_lag_seconds", "301x20")], 10, True),
    ("BasculeLedgerLags", [plain("bascule_ledger_lag_seconds", "300x20")], 10, False),
    ("BasculeShadowDrops", shadow(dropped=20, compared=80), 40, True),
    ("BasculeShadowDrops", shadow(dropped=5, compared=95), 40, False),
    ("BasculeDown", [plain("up", "0x20")], 5, True),
    ("BasculeDown", [plain("up", "1x20")], 5, False),
]
"""The alert, the series, the minute of the look, and whether it fires then."""


def test_each_rule_fires_when_it_should_and_not_before(rules, tmp_path):
    tests = [
        {
            "name": f"{alert} at {minute} min, case {number}",
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > 0',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for number, (alert, given, minute, fires) in enumerate(CASES)
    ]
    file = tmp_path / "test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", file)


def expressions():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_prometheus_parses_every_query_of_the_dashboard(tmp_path):
    made = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(
            one.replace("$__rate_interval", "5m").replace("$model", ".*") for one in expressions()
        )
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    promtool("check", "rules", file)


def test_rules_and_dashboard_ask_for_metrics_that_a_server_has():
    text = every_metric()
    known = set(re.findall(r"^(bascule_\w+)", text, re.MULTILINE))
    asked = set(re.findall(r"\bbascule_\w+", "\n".join([RULES, *expressions()])))
    assert asked - known == set()
    labels = set(re.findall(r'(\w+)="', text)) | {"job", "instance"}
    groupings = " ".join(re.findall(r"by \(([^)]*)\)", "\n".join([RULES, *expressions()])))
    assert set(re.findall(r"\w+", groupings)) <= labels


GRAFANA = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()
read = Dashboard.from_json(json.load(sys.stdin))
print(JSONEncoder().encode(read))
"""


def is_kept(part, whole):
    if isinstance(part, dict):
        return all(name in whole and is_kept(part[name], whole[name]) for name in part)
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(is_kept, part, whole))
    return part == whole


@pytest.mark.slow
def test_grafanas_own_model_of_a_dashboard_reads_every_field():
    done = subprocess.run(
        [python_of("grafana"), "-c", GRAFANA], input=json.dumps(DASHBOARD), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert is_kept(DASHBOARD, json.loads(done.stdout))


def test_panels_of_the_dashboard_have_their_own_place_and_id():
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    ids = [one["id"] for one in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    sources = {one["datasource"]["uid"] for one in DASHBOARD["panels"]}
    assert sources == {"${source}"}
