"""In a real browser, a table becomes a version: sent, a column picked, searched, shown."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.browsers import served, visiting
from tests.consoles import CountedServer, control

from bascule.kinds.child import runner_of
from bascule.settings import load_settings

pytestmark = pytest.mark.slow


def test_a_table_becomes_a_version_in_the_console(chromium, tmp_path):
    wind = np.random.default_rng(0).normal(size=300)
    rows = pd.DataFrame({"wind": wind, "month": np.arange(300) % 12, "late": wind > 0})
    rows.to_csv(tmp_path / "days.csv", index=False)
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    app = control(settings, CountedServer(settings), jobs=runner_of(settings))
    with served(app) as address, visiting(chromium) as visit:
        page = visit.open(f"{address}/training")
        page.get_by_role("link", name="Search a model of a table").click()
        page.get_by_label("Rows: .csv or .parquet").set_input_files(tmp_path / "days.csv")
        page.get_by_role("button", name="Show its columns").click()
        page.get_by_label("Column to predict").select_option("late")
        page.get_by_label("Budget").fill("30s")
        page.get_by_label("Limits, one a line").fill("size <= 2 MB")
        visit.check()
        _look(page, "form")
        page.get_by_role("button", name="Search", exact=True).click()
        page.get_by_role("link", name="Show late/1").wait_for(timeout=300_000)
        assert page.get_by_text("chosen").count() == 1
        visit.check()
        assert not visit.is_wider_than_screen()
        _look(page, "result")
        page.get_by_role("link", name="Deploy", exact=True).last.click()
        page.get_by_text("Deploy late/1").first.wait_for()


def _look(page, name):
    if folder := os.environ.get("BASCULE_SHOTS"):
        page.screenshot(path=Path(folder) / f"search-{name}.png", full_page=True)
