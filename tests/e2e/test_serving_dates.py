"""Dates, and booleans that may be missing: packed, in the hand, over each protocol, in batch."""

from __future__ import annotations

import sys
from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tests.homes import jobs_in

import bascule
from bascule.batch import job_of, recorded_run, run_job
from bascule.core.errors import Invalid

FEATURES = """
import numpy as np
import pandas as pd


def parts(table):
    born = pd.to_datetime(table["born"])
    return np.column_stack([
        table["when"].dt.hour.fillna(-1), table["tokyo"].dt.hour, born.dt.day_of_week,
        pd.to_datetime(table["written"], format="%d.%m.%Y").dt.day, table["size"],
        table["rain"].astype("Float64").fillna(0.5),
    ]).astype(float)
"""


def rows(count: int) -> pd.DataFrame:
    random = np.random.default_rng(count)
    when = pd.Series(
        pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 10**8, count), "s")
    )
    return pd.DataFrame({
        "when": when.where(when.index != 3).astype("datetime64[ns]"),
        "tokyo": when.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        "born": [moment.date() for moment in when],
        "written": when.dt.strftime("%d.%m.%Y"),
        "size": random.normal(size=count),
        "rain": pd.array(random.choice([True, False, None], count), "boolean"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    """A bundle, and the model that it was made of."""
    home = tmp_path_factory.mktemp("dates")
    (home / "own_dates.py").write_text(FEATURES)
    sys.path.insert(0, str(home))
    import own_dates

    table = rows(60)
    model = make_pipeline(FunctionTransformer(own_dates.parts), Ridge())
    model.fit(table, table["tokyo"].dt.hour + table["size"] + table["rain"].fillna(False) * 9)
    bundle = bascule.pack(
        model, name="dated", train=table, to=home / "dated.bundle", code=home / "own_dates.py",
        measure=False,
    )  # fmt: skip
    yield bundle, model
    sys.path.remove(str(home))


def test_a_table_with_dates_is_answered_as_the_model_does_from_any_container(dated):
    bundle, model = dated
    table = rows(40)
    expected = model.predict(table)
    texts = table.assign(
        when=[None if moment is pd.NaT else moment.isoformat(" ") for moment in table["when"]],
        tokyo=[moment.isoformat() for moment in table["tokyo"]],
        rain=table["rain"].astype(object).where(table["rain"].notna(), None),
    )
    for form in (table, pl.from_pandas(table), pa.Table.from_pandas(table), texts):
        np.testing.assert_allclose(bundle.predict(form)["prediction"], expected, rtol=1e-9)


def test_a_text_that_code_parses_is_open_to_texts_that_training_never_held(dated):
    bundle, _ = dated
    written = next(field for field in bundle.signature.inputs if field.name == "written")
    assert written.categories is None


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [
        ("when", "2024-03-01T12:00:00Z", "without an offset"),
        ("tokyo", "2024-03-01T12:00:00", "with its offset"),
        ("born", "2024-03-01T12:00:00", "a day"),
        ("born", "01.03.2024", "a day"),
    ],
)
def test_a_date_in_another_form_is_refused_and_the_right_form_is_shown(dated, column, value, hint):
    bundle, _ = dated
    texts = {
        "when": ["2024-03-01"], "tokyo": ["2024-03-01T12:00:00Z"], "born": ["2024-03-01"],
        "written": ["01.03.2024"], "size": [0.5], "rain": [None],
    }  # fmt: skip
    assert np.isfinite(bundle.predict(texts)["prediction"]).all()
    texts[column] = [value]
    with pytest.raises(Invalid, match=f"'{column}' holds '{value}' in row 0") as refused:
        bundle.predict(texts)
    assert hint in refused.value.hint


def test_dates_go_over_the_protocols_as_texts(dated, serve, connect):
    bundle, model = dated
    server = serve(bundle.path)
    table = rows(5)
    expected = model.predict(table)
    with bascule.Client(f"http://127.0.0.1:{server.port}") as client:
        answer = client.predict(table)
    np.testing.assert_allclose(answer["prediction"], expected, rtol=1e-9)
    texts = table.assign(
        when=[None if moment is pd.NaT else moment.isoformat() for moment in table["when"]],
        tokyo=[moment.isoformat() for moment in table["tokyo"]],
        born=table["born"].astype(str),
        rain=table["rain"].astype(object).where(table["rain"].notna(), None),
    )
    with connect(server.port) as raw:
        metadata = raw.request("GET", "/v2/models/dated").answer().json
        dates = [(one.get("parameters") or {}).get("dates") for one in metadata["inputs"]]
        assert dates == ["local", "instant", "day", None, None, None]
        assert metadata["inputs"][-1]["parameters"]["booleans"] is True
        body = {"dataframe_records": texts.to_dict("records")}
        answer = raw.request("POST", "/invocations", body, "Content-Type: application/json\r\n")
        np.testing.assert_allclose(answer.answer().json["predictions"], expected, rtol=1e-9)
        answer = raw.request(
            "POST", "/invocations", texts.to_csv(index=False).encode(), "Content-Type: text/csv\r\n"
        )
        np.testing.assert_allclose(answer.answer().json["predictions"], expected, rtol=1e-9)
        body["dataframe_records"][2]["tokyo"] = "2024-13-01T00:00:00Z"
        answer = raw.request("POST", "/invocations", body, "Content-Type: application/json\r\n")
        refused = answer.answer()
        assert refused.status == 400
        assert "2024-13-01T00:00:00Z" in refused.json["error"]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_batch_reads_dates_of_a_file(dated, tmp_path, form):
    bundle, model = dated
    table = rows(50)
    arrow = pa.Table.from_pandas(table.assign(id=np.arange(50)), preserve_index=False)
    if form == "parquet":
        pq.write_table(arrow, tmp_path / "in.parquet")
    else:
        pacsv.write_csv(arrow, tmp_path / "in.csv")
    job = job_of({
        "model": "dated", "from": str(tmp_path / f"in.{form}"), "to": str(tmp_path / "out"),
        "keep": ["id"],
    })  # fmt: skip
    with recorded_run(jobs_in(tmp_path / "home"), job, by="ada") as live:
        run_job(job, bundle, tmp_path / "home", live=live)
    scored = pq.read_table(tmp_path / "out").sort_by("id")
    np.testing.assert_allclose(scored["prediction"], model.predict(table), rtol=1e-9)


def test_moments_beyond_nanoseconds_are_handed_over_whole(dated):
    """pandas' nanoseconds end in 2262; a contract may end in 9999."""
    bundle, _ = dated
    answer = bundle.predict(
        rows(2).assign(when=["9999-12-31T23:00:00", datetime(2024, 3, 1).isoformat()])
    )
    assert np.isfinite(answer["prediction"]).all()


def test_later_dates_are_no_drift(dated):
    """Each day has dates that training never held, and that is no news."""
    bundle, _ = dated
    later = pd.concat([rows(60)] * 5, ignore_index=True)
    later["when"] += pd.Timedelta(days=900)
    later["tokyo"] += pd.Timedelta(days=900)
    printed = str(bascule.drift(bundle, later))
    assert "size" in printed
    assert not [name for name in ("when", "tokyo", "born") if name in printed]
