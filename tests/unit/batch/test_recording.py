"""A run is seen by monitoring as a server's answers are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.chat_models import REQUESTS, chat_bundle
from tests.privacy_home import found_in

from bascule.app import batch_model
from bascule.batch import MonitoringRules, job_of, run_job
from bascule.core import Refused
from bascule.monitoring import Ledger, measure_production_drift
from bascule.monitoring.ledger import Scribe
from bascule.monitoring.profiles import read_windows
from bascule.settings import load_settings

from .conftest import flights, with_values

RULES = MonitoringRules(is_recorded=True, version="1")


@pytest.fixture
def run(bundle, tmp_path):
    """`run(table, rules=..., record=...)`: a run of its own source and sink, in one home."""
    count = iter(range(100))

    def score(table: pa.Table, rules: MonitoringRules = RULES, **options: Any) -> Any:
        number = next(count)
        pq.write_table(table, source := tmp_path / f"{number}.parquet", row_group_size=500)
        content = {"model": "table", "from": str(source), "to": f"{tmp_path}/{number}/"}
        job = job_of({**content, "chunk_rows": 500, **options})
        once = run_job(job, bundle, tmp_path / "home", monitoring=rules)
        assert run_job(job, bundle, tmp_path / "home", monitoring=rules).rows == once.rows
        return once

    return score


def test_a_run_is_in_the_profiles_of_its_day_once(run, bundle, tmp_path):
    run(flights(2_000))
    (window,) = read_windows(tmp_path / "home", bundle.name)
    assert (window.version, window.rows, window.profiled_rows) == ("1", 2_000, 2_000)
    wind = window.inputs.columns["wind"]
    assert wind.rows == 2_000
    assert set(bundle.baseline.answers.columns) <= set(window.outputs.columns)


def test_a_second_run_of_other_rows_adds_to_the_window(run, bundle, tmp_path):
    run(flights(1_000))
    run(flights(700, start=1_000))
    (window,) = read_windows(tmp_path / "home", bundle.name)
    assert window.rows == 1_700


def test_drift_of_production_sees_what_a_batch_run_scored(run, bundle, tmp_path):
    table = flights(3_000)
    shifted = table.set_column(
        table.schema.get_field_index("gust"), "gust", pa.array(np.full(3_000, 9.0))
    )
    run(shifted)
    found = measure_production_drift(tmp_path / "home", bundle.name, lambda _: bundle)
    (report,) = found.versions
    assert "gust" in {alarm.name for window in report.windows for alarm in window.alarms}


def test_rows_are_in_the_ledger_only_when_asked(run, bundle, tmp_path):
    run(flights(600))
    ledger = Ledger(tmp_path / "home")
    assert ledger.query("SELECT * FROM predictions").num_rows == 0
    made = run(flights(400, start=600), record="rows")
    found = ledger.query("SELECT * FROM predictions", model=bundle.name)
    assert (found.num_rows, set(found["protocol"].to_pylist())) == (400, {"batch"})
    written = pq.read_table(made.manifest.sink, columns=["prediction_id"])
    ids = {f"{one['id']}#{one['row']}" for one in found.select(["id", "row"]).to_pylist()}
    assert ids == set(written["prediction_id"].to_pylist())


def test_private_fields_are_in_no_profile_and_hashed_in_rows(run, bundle, tmp_path):
    rules = MonitoringRules(
        is_recorded=True, version="1", private={"carrier": "hash", "airport": "omit"}
    )
    run(flights(600), rules)
    (window,) = read_windows(tmp_path / "home", bundle.name)
    assert not {"carrier", "airport", "carrier.hash"} & set(window.inputs.columns)
    run(flights(100, start=600), rules, record="rows")
    found = Ledger(tmp_path / "home").query("SELECT * FROM predictions", model=bundle.name)
    assert "input.carrier.hash" in found.column_names
    assert not {"input.carrier", "input.airport"} & set(found.column_names)


@pytest.mark.slow
def test_generated_texts_are_hashed_in_rows_as_servers_hash_them(tmp_path):
    (tmp_path / "home").mkdir()
    made = chat_bundle(tmp_path / "chat", "chat", {"hello": "My name is Lovelace"})
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    bundle, _, rules = batch_model(settings, made.path)
    pq.write_table(pa.table({"request": REQUESTS}), source := tmp_path / "asked.parquet")
    content = {"model": "chat", "from": str(source), "to": f"{tmp_path}/to/", "record": "rows"}
    rules = replace(rules, is_recorded=True)
    run_job(job_of(content), bundle, tmp_path / "home", monitoring=rules)
    rows = Ledger(tmp_path / "home").query("SELECT * FROM predictions", model="chat")
    assert rows.num_rows == len(REQUESTS)
    assert {"input.request.hash", "output.text.hash"} <= set(rows.column_names)
    assert found_in(tmp_path / "home", "Lovelace") == []


def test_rows_that_cannot_be_scored_are_left_out(run, bundle, tmp_path):
    run(with_values(flights(600), "airport", {5: "XXX", 7: "XXX"}))
    (window,) = read_windows(tmp_path / "home", bundle.name)
    assert (window.rows, window.profiled_rows) == (598, 598)


@pytest.mark.parametrize(
    ("rules", "record"),
    [(RULES, "off"), (MonitoringRules(), "profile"), (MonitoringRules(), "rows")],
)
def test_nothing_is_recorded_where_the_job_or_the_settings_say_so(run, tmp_path, rules, record):
    run(flights(600), rules, record=record)
    assert not (tmp_path / "home" / "ledger").exists()


def test_a_server_that_writes_the_ledger_takes_the_run_in(run, bundle, tmp_path):
    (tmp_path / "home").mkdir()
    scribe = Scribe(tmp_path / "home")
    run(flights(600))
    assert read_windows(tmp_path / "home", bundle.name) == []
    while scribe.turn(everything=True):
        pass
    scribe.close()
    (window,) = read_windows(tmp_path / "home", bundle.name)
    assert window.rows == 600


def test_a_check_of_drift_names_the_columns(run, tmp_path):
    table = flights(3_000)
    shifted = table.set_column(
        table.schema.get_field_index("gust"), "gust", pa.array(np.full(3_000, 9.0))
    )
    with pytest.raises(Refused, match=r"drift <= 0 is not met: it is \d+ \(.*gust"):
        run(shifted, checks=["drift <= 0"])


def test_a_check_of_drift_has_the_false_alarms_of_its_budget(run):
    """With almost no budget, chance differences raise no alarm."""
    rules = MonitoringRules(false_alarms_a_year=1e-6)
    table = with_values(flights(3_000), "wind", dict.fromkeys(range(0, 3_000, 10)))
    run(table, rules, checks=["drift <= 0", "answer_drift <= 0"])


def test_the_rows_written_are_checked_too(run):
    run(flights(600), checks=["scored >= 600"])
    with pytest.raises(Refused, match="scored >= 601 is not met: it is 600"):
        run(flights(600, start=600), checks=["scored >= 601"])
