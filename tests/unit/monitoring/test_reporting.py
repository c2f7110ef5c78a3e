"""The overview of a model on one screen, and the report as one page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from tests.production import Day, fill, packed

from bascule.documents import page
from bascule.monitoring.reporting import document_of, look_at


@pytest.fixture(scope="module")
def overview(tmp_path_factory):
    folder = tmp_path_factory.mktemp("production")
    bundle = packed(folder)
    days = [
        Day(back, wind=14 if back < 2 else 10, fresh=0.01, truths=0.5, errors=back % 2)
        for back in range(11, -1, -1)
        if back != 3
    ]
    fill(folder, bundle, "1", days)
    return look_at(folder, "late", lambda _: bundle, since=timedelta(days=10))


def test_one_screen_has_health_drift_truths_and_the_ledger(overview):
    lines = repr(overview).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[0] == "late"
    assert re.match(r"health +204 requests, 1\.96% errors, 0\.00% refused$", lines[1])
    assert re.match(r" +p50 [\d.]+ m?s, p99 [\d.]+ m?s; by day ", lines[2])
    assert any(line.startswith("drift        version 1: 2,000 rows on 10 days") for line in lines)
    assert any(re.match(r"  wind +[\d.]+ +1[34][\d.]* +2  [▁▂▃▄▅▆▇█]{10}$", line) for line in lines)
    truths = next(line for line in lines if line.startswith("performance"))
    assert re.match(r"performance  [\d,]+ truths of 2,000 predictions \([45]\d%\), median", truths)
    assert any(re.match(r" +version 1: accuracy 0\.[78]\d+ \(was 0\.8", line) for line in lines)
    assert "ledger       100.0% of the rows are kept, no gaps" in lines


def test_profiles_without_rows_have_drift_and_no_health(overview):
    empty = replace(overview.total, requests=0)
    lines = repr(replace(overview, total=empty, days=(), performance=None)).splitlines()
    assert lines[1] == "health       no requests in the ledger, profiles alone"
    assert lines[3].startswith("drift        version 1: 2,000 rows on 10 days")


def test_json_has_what_the_screen_has(overview):
    told = json.loads(json.dumps(overview.to_json(), default=str))
    assert (told["total"]["requests"], told["total"]["errors"]) == (204, 4)
    assert len(told["days"]) == 10
    assert told["alarm"] is True


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loaded, self.figures, self.open = [], 0, []

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.figures += tag == "figure"
        self.loaded += [told[name] for name in ("src", "srcset", "data") if name in told]
        if tag in ("link", "script", "iframe") or not told.get("href", "#").startswith("#"):
            self.loaded.append(tag)


def test_the_page_loads_nothing_and_shows_every_column(overview):
    text = page(document_of(overview))
    read = _Page()
    read.feed(text)
    assert read.loaded == []
    assert "url(" not in text
    inputs = ("wind", "distance", "carrier")
    attributions = [f"attribution.{name}" for name in inputs]
    columns = (*inputs, "label", "probabilities.ok", *attributions, "truth", "loss")
    assert read.figures == 6 + 2 * len(columns) - 1  # the loss has no distribution
    for name in ("requests", "errors", "p99 ms", "accuracy, version 1", "auc, version 1"):
        assert f"<b>{name}.</b>" in text
    for name in columns:
        assert f"<b>{name} by day.</b>" in text
    assert "silence: no row" in text
    assert "4 false alarms a year are acceptable, over 10 columns" in text
    assert len(text) < 5_000_000
