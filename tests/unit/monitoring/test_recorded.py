"""Finding recorded predictions without reading the whole ledger."""

from datetime import UTC, datetime

import duckdb
import pytest
from tests.ledger_rows import parquet_files, segments, take_in

from bascule.monitoring import Ledger, find_prediction, latest_predictions
from bascule.monitoring.ledger.compaction import Compaction
from bascule.monitoring.recorded import days_with

NOON = datetime(2026, 11, 3, 12, 30, tzinfo=UTC)
ROWS = {"2026-11-01": 30, "2026-11-02": 20, "2026-11-03": 10}


@pytest.mark.parametrize(
    ("needed", "first"),
    [(20, "2026-11-02"), (21, "2026-11-01"), (50, "2026-11-01"), (51, "2026-10-01")],
)
def test_of_the_last_day_no_row_is_counted_on_and_of_earlier_days_all(needed, first):
    assert days_with(ROWS, "2026-10-01", "2026-11-03", needed) == (first, "2026-11-03")


def test_no_day_before_the_first_is_read():
    assert days_with(ROWS, "2026-11-02", "2026-11-03", 1_000) == ("2026-11-02", "2026-11-03")


@pytest.fixture
def home(tmp_path):
    """Three days of `gb` with 30 rows each, in two segments a day."""
    for day in ROWS:
        segments(tmp_path, 2, 15, day=day)
    return tmp_path


def page(home, limit, version=""):
    since = datetime(2026, 1, 1, tzinfo=UTC)
    return latest_predictions(
        Ledger(home), "gb", since=since, until=NOON, version=version, limit=limit
    )


def test_a_page_is_filled_from_the_newest_days_and_others_are_not_opened(home):
    (home / "ledger/gb/1/2026-11-01").rename(home / "away")
    found = page(home, 30)
    assert [f"{one['time']:%d}" for one in found] == ["03"] * 30


def test_a_page_that_the_newest_days_do_not_fill_reaches_further_back(home):
    assert len(page(home, 90)) == 90
    assert page(home, 5, version="2") == []


def test_an_id_is_found_in_every_segment_and_in_a_merged_one(home):
    ids = [f"{home.name}-2026-11-0{day}-1-14" for day in (1, 2, 3)]
    before = [find_prediction(Ledger(home), one) for one in ids]
    take_in(home, Compaction())
    assert len(parquet_files(home)) == 3
    assert [find_prediction(Ledger(home), one) for one in ids] == before
    assert [one.inputs for one in before] == [[{"x": 14.0}]] * 3


def test_merged_segments_have_a_filter_of_their_ids(home):
    take_in(home, Compaction())
    for file in parquet_files(home):
        found = duckdb.sql(
            "SELECT path_in_schema FROM parquet_metadata($file) WHERE bloom_filter_offset > 0",
            params={"file": str(home / "ledger" / file)},
        )
        assert found.fetchall() == [("id",)]
