"""Batch, Try it, Deploy and Score: what their forms do, with the work done in this process."""

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression
from tests.console_work import finished, looking, send, token_of

from bascule.app import open_catalogue, open_registry, open_rollouts
from bascule.batch import Job, Status, job_of
from bascule.bundle.disk import read_manifest
from bascule.bundle.extras import declared_extras
from bascule.console.pages.batch import OPTIONS, checks_of, job_of_form, progress_of, state_of
from bascule.console.pages.deploy import gates_of, refused_of, strategies_of, usual_of
from bascule.console.pages.try_it import Served, inputs_of, picture_of, row_of, said_of
from bascule.core import Dates, DType, Field, Invalid, Signature
from bascule.jobs import Jobs, Schedule, Schedules, Task
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def bundle(packed):
    X = np.arange(40.0).reshape(20, 2)
    return packed("rain", LinearRegression().fit(X, X[:, 0]), X, (X, X[:, 0]))


@pytest.fixture
def settings(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # jobs enter their folder; this is undone
    made = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    open_registry(made).push(bundle, by="ada")
    open_rollouts(made).deploy(RolloutRequest(version="rain/1", strategy="all"), by="ada")
    return made


@pytest.fixture
def pages(settings):
    with looking(settings) as client:
        yield client


def table(rows=30, **more):
    values = np.arange(rows * 2.0).reshape(rows, 2)
    return pa.table({"a": values[:, 0], "b": values[:, 1], **more})


# -- batch --


def test_a_run_is_planned_with_ten_rows_and_then_started_from_the_page(settings, pages, tmp_path):
    pq.write_table(table(), tmp_path / "rows.parquet")
    token = token_of(pages.get("/batch").text)
    form = {"csrf": token, "model": "rain/1", "from": "rows.parquet", "to": "out/", "mode": "error"}
    plan = pages.post("/batch/runs", data={**form, "act": "plan"}).text
    assert "30 rows in 1 chunks" in plan
    assert "Nothing was written" in plan
    assert not Path("out").exists()
    assert 'value="rows.parquet"' in plan, "what was typed in stays"
    begun = pages.post("/batch/runs", data={**form, "act": "start"})
    assert begun.status_code == 303
    finished(pages)
    page = pages.get(begun.headers["location"]).text
    assert ">done<" in page
    assert "<dd>30 of 30</dd>" in page
    assert pq.read_table(tmp_path / "out").num_rows == 30
    assert begun.headers["location"].rpartition("/")[2][:12] in pages.get("/batch").text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"from": ""}, "from is empty"),
        ({"from": "nowhere.parquet"}, "no table files"),
        ({"model": "snow"}, "snow"),
        ({"model": "/etc"}, "is a folder"),
        ({"limit": "many"}, "is no number"),
        ({"checks": "nonsense"}, None),
    ],
)
def test_a_job_that_cannot_be_is_refused_on_the_page_with_the_reason(
    settings, pages, tmp_path, change, said
):
    pq.write_table(table(), tmp_path / "rows.parquet")
    token = token_of(pages.get("/batch").text)
    form = {"csrf": token, "model": "rain/1", "from": "rows.parquet", "to": "o/", "act": "start"}
    answer = pages.post("/batch/runs", data={**form, **change})
    if said is None:  # what the run itself finds is in its status
        finished(pages)
        assert "is not known" in pages.get(answer.headers["location"]).text
        return
    assert answer.status_code == 422
    assert said in answer.text
    assert not Path("o").exists()


def test_rows_that_cannot_be_scored_are_shown_with_their_reasons(settings, pages, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n5,oops\n")
    token = token_of(pages.get("/batch").text)
    form = {"csrf": token, "model": "rain/1", "from": "rows.csv", "to": "out/", "act": "start",
            "max_quarantined": "1", "warnings": "rows >= 10"}  # fmt: skip
    begun = pages.post("/batch/runs", data=form)
    finished(pages)
    page = pages.get(begun.headers["location"]).text
    assert "could not be scored" in page or "rows &gt;= 10" in page
    assert "rows &gt;= 10 is not met" in page


def test_a_cancelled_or_failed_run_goes_on_from_its_page(settings, pages, tmp_path):
    pq.write_table(table(), tmp_path / "rows.parquet")
    token = token_of(pages.get("/batch").text)
    form = {"csrf": token, "model": "rain/1", "from": "rows.parquet", "to": "out/", "act": "start",
            "checks": "rows >= 100"}  # fmt: skip
    begun = pages.post("/batch/runs", data=form).headers["location"]
    finished(pages)
    page = pages.get(begun).text
    assert ">failed<" in page
    assert "rows &gt;= 100 is not met" in page
    assert "Go on" in page
    again = pages.post(f"{begun}/resume", data={"csrf": token})
    assert again.status_code == 303
    finished(pages)
    assert ">failed<" in pages.get(begun).text  # the check still fails
    refused = pages.post(f"{begun}/cancel", data={"csrf": token})
    assert "is failed" in pages.get(refused.headers["location"]).text


def test_a_schedule_is_paused_resumed_and_run_now(settings, pages, tmp_path):
    pq.write_table(table(), tmp_path / "rows.parquet")
    job = {"model": "rain/1", "from": "rows.parquet", "to": "nightly-{{ ds }}/"}
    schedules = Schedules(open_catalogue(settings))
    schedules.add(
        Schedule(name="nightly", cron="0 2 * * *", job=job, folder=str(tmp_path), created_at=NOW),
        by="ada",
    )
    page = pages.get("/batch").text
    assert "nightly" in page
    token = token_of(page)
    for command, is_paused in (("pause", True), ("resume", False)):
        form = {"csrf": token, "reason": "maintenance"}
        assert pages.post(f"/batch/schedules/nightly/{command}", data=form).status_code == 303
        assert schedules.get("nightly").schedule.is_paused is is_paused
    form = {"csrf": token, "due": "2026-03-02T02:00"}
    ran = pages.post("/batch/schedules/nightly/run", data=form)
    finished(pages)
    assert Path("nightly-2026-03-01").is_dir()
    assert ">done<" in pages.get(ran.headers["location"]).text
    unknown = pages.post("/batch/schedules/weekly/pause", data={"csrf": token})
    assert "no schedule" in pages.get(unknown.headers["location"]).text


def test_a_page_of_runs_has_the_latest_of_them(settings, pages):
    jobs = Jobs(open_catalogue(settings))
    kept = {"model": "rain/1", "source": "s", "sink": "t"}
    for number in range(60):
        claim = jobs.start(Task(kind="batch", input={"model": "rain/1"}))
        jobs.begin(claim, f"{number:016x}", progress=kept)
        jobs.end(claim, "done")
    page = pages.get("/batch?start=25").text
    assert "60 in this catalogue" in page
    assert f"{59 - 25:016x}"[:12] in page
    assert f"{59 - 24:016x}"[-12:] not in page
    assert 'href="/batch?start=0"' in page
    assert 'href="/batch?start=50"' in page


def test_the_progress_of_a_run_has_its_share_its_rate_and_the_time_that_is_left():
    status = Status(run="r", model="m", source="s", sink="t", rows=250, expected_rows=1_000,
                    seconds=5.0, started_at=NOW, updated_at=NOW)  # fmt: skip
    job = {"checks": ["rows >= 1"], "warnings": ["rows >= 9"]}
    assert progress_of(status) == (0.25, 50.0, 15.0)
    assert checks_of(status, job) == [("rows >= 1", "not judged"), ("rows >= 9", "not judged")]
    status.state, status.error = "failed", "a check stops the run: rows >= 1 is not met"
    status.findings = ["rows >= 9 is not met"]
    assert checks_of(status, job) == [("rows >= 1", "failed"), ("rows >= 9", "warning")]
    assert progress_of(status) == (0.25, 50.0, None)


@pytest.mark.parametrize(
    ("scheduled", "state"),
    [
        ({"is_under_way": True}, "running"),
        ({"outcome": {"error": "no rows"}}, "failed"),
        ({"outcome": {"rows": 5}}, "done"),
        ({}, "planned"),
    ],
)
def test_a_schedule_says_what_its_last_run_did(scheduled, state):
    from bascule.jobs import Scheduled

    plan = Schedule(name="n", cron="0 2 * * *", job={"model": "m"}, created_at=NOW)
    assert state_of(Scheduled(plan, **scheduled)) == state


def test_a_form_becomes_a_job_without_the_fields_that_are_empty():
    form = {"model": "a/1", "from": "x", "to": "y/", "confidence": "0.9", "limit": "", "mode": "",
            "columns": "prediction, interval",
            "checks": "rows >= 1\n\nunique(id) >= 1\n"}  # fmt: skip
    assert job_of_form(form) == {
        "model": "a/1", "from": "x", "to": "y/", "parameters": {"confidence": 0.9},
        "columns": ["prediction", "interval"], "checks": ["rows >= 1", "unique(id) >= 1"],
    }  # fmt: skip


def test_every_field_of_a_job_is_on_the_page():
    left_to_files = {"names", "chunk_rows", "with_time", "on"}
    of_extras = {"parameters", "confidence"}
    shown = {"model", "from", "to", "mode", *(one.name for one in OPTIONS)}
    fields = {one.encode_name for one in msgspec.structs.fields(Job)}
    assert fields - left_to_files - of_extras == shown
    form = {"model": "a/1", "from": "x", "to": "y/", "partition_by": "day, country", "retries": "2",
            "types": "id=text\nday = date32", "delimiter": ";"}  # fmt: skip
    job = job_of(job_of_form(form))
    assert (job.partition_by, job.retries, job.delimiter) == (("day", "country"), 2, ";")
    assert job.types == {"id": "text", "day": "date32"}


# -- try it --

TABLE = Signature(
    (
        Field("age", DType.INT64, bounds=(0, 120)),
        Field("wind", DType.FP64, nullable=True),
        Field("carrier", DType.BYTES, categories=("AA", "BB")),
        Field("is_new", DType.BOOL),
    ),
    (Field("y", DType.FP64),),
)


def test_the_form_has_a_field_for_each_column_with_the_example_filled_in():
    example = {
        "age": np.array([41]), "wind": np.array([np.nan]),
        "carrier": np.array(["BB"], object), "is_new": np.array([True]),
    }  # fmt: skip
    age, wind, carrier, is_new = inputs_of(TABLE, example, 0, None)
    assert (age.kind, age.value, age.note) == ("number", "41", "0 to 120")
    assert (wind.value, wind.note) == ("", "may be empty")
    assert (carrier.kind, carrier.value, carrier.choices) == ("choice", "BB", ["AA", "BB"])
    assert (is_new.kind, is_new.value, is_new.choices) == ("choice", "true", ["true", "false"])
    assert (age.step, age.bounds, wind.step) == ("1", (0, 120), "any")


@pytest.mark.parametrize(
    ("dates", "value", "kind", "shown", "sent"),
    [
        (Dates.DAY, "2024-03-01", "date", "2024-03-01", "2024-03-01"),
        (Dates.LOCAL, "2024-03-01T12:30:00", "datetime-local", "2024-03-01T12:30:00",
         "2024-03-01T12:30:00"),
        (Dates.INSTANT, "2024-03-01T12:30:00Z", "datetime-local", "2024-03-01T12:30:00",
         "2024-03-01T12:30:00Z"),
        (Dates.INSTANT, "2024-03-01T12:30:00.123456Z", "text", "2024-03-01T12:30:00.123456",
         "2024-03-01T12:30:00.123456Z"),
    ],
)  # fmt: skip
def test_a_date_has_the_control_of_its_kind_and_is_sent_as_it_came(dates, value, kind, shown, sent):
    signature = Signature((Field("at", DType.BYTES, dates=dates),), TABLE.outputs)
    (one,) = inputs_of(signature, {"at": np.array([value], object)}, 0, None)
    assert (one.kind, one.value) == (kind, shown)
    assert row_of(signature, {"in.at": one.value})[0]["at"].tolist() == [sent]


def test_a_single_float_is_shown_with_its_own_digits_and_known_texts_are_suggested():
    signature = Signature((Field("x", DType.FP32), Field("who", DType.BYTES)), TABLE.outputs)
    example = {"x": np.array([0.1], np.float32), "who": np.array(["a" * 61], object)}
    number, long = inputs_of(signature, example, 0, None, {"who": ("ada", "bob")})
    assert (number.value, long.kind) == ("0.1", "area")
    short = inputs_of(signature, None, 0, None, {"who": ("ada", "bob")})[1]
    assert (short.kind, short.choices) == ("text", ("ada", "bob"))


def test_a_form_becomes_the_columns_that_the_client_sends():
    form = {"in.age": "7", "in.wind": "", "in.carrier": "AA", "in.is_new": "false"}
    columns, problems = row_of(TABLE, form)
    assert problems == {}
    assert columns["age"].tolist() == [7]
    assert np.isnan(columns["wind"][0])
    assert columns["carrier"].tolist() == ["AA"]
    assert columns["is_new"].tolist() == [False]


@pytest.mark.parametrize("value", ["", "x", "1.5", "9" * 30])
def test_each_value_that_is_no_number_is_named_by_its_field(value):
    numbers = Signature((TABLE.inputs[0], Field("rain", DType.INT64)), TABLE.outputs)
    _, problems = row_of(numbers, {"in.age": value, "in.rain": value})
    assert list(problems) == ["age", "rain"]


def test_a_row_may_be_sent_as_json_whatever_the_columns_are():
    row = '{"age": 7, "wind": null, "carrier": "AA", "is_new": true}'
    columns, _ = row_of(TABLE, {"as": "json", "row": row, "in.age": "x"})
    assert columns["age"].tolist() == [7]
    assert np.isnan(columns["wind"][0])
    assert columns["carrier"].tolist() == ["AA"]


def test_a_picture_becomes_the_numbers_that_the_model_takes():
    image = Signature((Field("image", DType.FP32, (3, 2, 2)),), TABLE.outputs)
    example = {"image": np.full((1, 3, 2, 2), 0.5, np.float32)}
    picture = picture_of(Served("a", "a/1", image, example, (), {}))
    assert (picture.size, picture.divisor) == ((2, 2, 3), 255)
    pixels = base64.b64encode(bytes(range(12))).decode()
    row = json.dumps({"image": {"pixels": pixels, "divisor": 255}})
    found = row_of(image, {"row": row})[0]["image"]
    assert found.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(found[0, :, 0, 1] * 255, [3, 4, 5], rtol=1e-6)
    for wrong in (
        {"pixels": "AAAA", "divisor": 1},
        {"pixels": 7, "divisor": 1},
        {"pixels": pixels},
    ):
        with pytest.raises(Invalid):
            row_of(image, {"row": json.dumps({"image": wrong})})
    assert picture_of(Served("a", "a/1", TABLE, None, (), {})) is None


def test_an_answer_is_a_sentence_with_its_probability_and_its_set():
    columns = {
        "label": np.array(["yes"], object), "probabilities_yes": np.array([0.75]),
        "probabilities_no": np.array([0.25]), "prediction_set_yes": np.array([True]),
        "prediction_set_no": np.array([True]),
    }  # fmt: skip
    answer = SimpleNamespace(columns=lambda: columns, requests=(), version="1")
    said = said_of(answer, 0.001, declared_extras(), {"confidence": 0.9})
    assert said["sentences"] == [
        "yes, with a probability of 75 %", "With a confidence of 90 %, the truth is yes or no.",
    ]  # fmt: skip
    numbers = {"y": np.array([1.5]), "lower": np.array([1.0]), "upper": np.array([2.0])}
    answer = SimpleNamespace(columns=lambda: numbers, requests=(), version="1")
    said = said_of(answer, 0.001, declared_extras())
    assert said["sentences"] == ["1.5", "The truth is between 1 and 2."]


def test_a_model_with_too_many_columns_takes_a_row_as_json():
    wide = Signature((Field("x", DType.FP32, (1_000,)),), (Field("y", DType.FP64),))
    assert inputs_of(wide, {"x": np.zeros((1, 1_000), np.float32)}, 0, None) == []
    assert row_of(wide, {"row": json.dumps({"x": [0.0] * 1_000})})[0]["x"].shape == (1, 1_000)
    for wrong in ("[", "[]", "{}", '{"x": "a"}', "[" * 10_000):
        with pytest.raises(Invalid):
            row_of(wide, {"row": wrong})


def test_the_page_has_snippets_that_ask_this_model(pages):
    page = pages.get("/try/rain").text
    assert "curl -sS" in page
    assert "/v2/models/rain/infer" in page
    assert 'name="in.input[0]"' in page
    assert "rain/1 answers" in page
    assert 'href="/try/rain"' in pages.get("/try").text
    assert pages.get("/try/snow").status_code == 404


def test_without_a_server_the_answer_is_an_error_with_the_next_step(pages, monkeypatch):
    from bascule.console.pages import try_it

    monkeypatch.setattr(try_it, "_TIMEOUT_S", 1.0)
    pages.app.state.control.server.address = ("127.0.0.1", 1)
    token = token_of(pages.get("/try/rain").text)
    form = {"csrf": token, "in.input[0]": "1", "in.input[1]": "2"}
    answer = pages.post("/try/rain", data=form)
    assert answer.status_code == 422
    assert 'class="flash bad"' in answer.text
    assert 'value="1"' in answer.text
    answer = pages.post("/try/rain", data={**form, "in.input[1]": "two"})
    assert answer.status_code == 422
    assert re.search(r'aria-describedby="in-2-problem">.*id="in-2-problem"', answer.text)


# -- deploy --


def test_a_version_shows_its_gates_and_what_each_strategy_costs_before_it_is_deployed(
    settings, pages, packed, monkeypatch
):
    monkeypatch.setattr("bascule.release.rollouts.asking._FORECAST_REQUESTS", 4_000)
    X = np.arange(40.0).reshape(20, 2)
    open_registry(settings).push(
        packed("rain", LinearRegression(positive=True).fit(X, X[:, 0]), X), by="ada"
    )
    first = pages.get("/deploy?version=rain/2").text
    assert "simulating the strategies" in first.lower()
    finished(pages)
    page = pages.get("/deploy?version=rain/2").text
    assert "now: rain/1" in page
    assert "Deploy as canary" in page
    assert "answers of the candidate before harm of 5 % is found" in page
    assert "is found after about" in page
    assert "Would deploy rain/2 to rain (all)" in page
    assert "deployed rain/2" not in page, "nothing is deployed yet"
    form = {"csrf": token_of(page), "version": "rain/2", "endpoint": "rain", "strategy": "canary",
            "guards": "", "reason": "fewer misses"}  # fmt: skip
    done = pages.post("/deploy", data=form)
    assert done.headers["location"] == "/endpoints/rain"
    (rollout,) = open_rollouts(settings).rollouts("rain")
    assert rollout.rollout.candidate == "rain/2"
    assert rollout.reason == "fewer misses"
    again = pages.post("/deploy", data=form)
    assert "rollout" in pages.get(again.headers["location"]).text


def test_a_bundle_that_is_sent_becomes_a_version_like_one_that_is_pushed(settings, pages, tmp_path):
    registry = open_registry(settings)
    archive = tmp_path / "rain.tar"
    registry.export(registry.resolve("rain/1"), archive)
    token = token_of(pages.get("/deploy").text)
    sent = send(pages, "/deploy/files", "rain.tar", archive.read_bytes(), token).json()
    answer = pages.post("/deploy/models", data={"csrf": token, "file": sent["id"], "model": "rain"})
    finished(pages)
    part = pages.get("/deploy/working?" + answer.headers["location"].partition("?")[2])
    assert part.headers["hx-redirect"] == "/deploy?version=rain%2F1", part.text
    assert len(registry.versions("rain")) == 1, "the same bundle is one version"


def test_a_model_that_is_sent_is_packed_and_meets_the_gates_of_the_settings(
    bundle, tmp_path, monkeypatch
):
    import skops.io

    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        tmp_path, {"BASCULE_HOME": str(tmp_path / "home"), "BASCULE_GATES__CRITERIA": '["r2 >= 2"]'}
    )
    X = np.arange(60.0).reshape(30, 2)
    y = X[:, 0] * 2
    skops.io.dump(LinearRegression().fit(X, y), tmp_path / "m.skops")
    pa.csv.write_csv(pa.table({"a": X[:, 0], "b": X[:, 1], "y": y}), tmp_path / "rows.csv")
    with looking(settings) as pages:
        token = token_of(pages.get("/deploy").text)
        ids = {
            name: send(pages, "/deploy/files", file, (tmp_path / file).read_bytes(), token).json()[
                "id"
            ]
            for name, file in (("file", "m.skops"), ("train", "rows.csv"), ("test", "rows.csv"))
        }
        form = {"csrf": token, "model": "double", "target": "y", **ids}
        answer = pages.post("/deploy/models", data=form)
        finished(pages)
        part = pages.get("/deploy/working?" + answer.headers["location"].partition("?")[2])
        assert part.headers["hx-redirect"] == "/deploy?version=double%2F1", part.text
        page = pages.get("/deploy?version=double/1").text
        assert "r2 &gt;= 2" in page
        assert ">failed<" in page
        finished(pages)
        page = pages.get("/deploy?version=double/1").text
        assert "Not possible" in page, "the same gates as anywhere"


def test_the_criteria_of_a_check_have_those_that_failed_first():
    body = {"results": [
        {"criterion": "a", "value": 1.0, "passed": True, "reason": ""},
        {"criterion": "b", "value": None, "passed": False, "reason": "no rows"},
    ]}  # fmt: skip
    assert [criterion for criterion, *_ in gates_of(body)] == ["b", "a"]
    assert gates_of({}) == []


def test_the_cost_of_a_strategy_is_the_most_that_any_guard_lets_through():
    line = {"guard": "g", "harm": 0.05, "sentence": "s", "requests": 10, "power": 1.0}
    made = {"strategies": [
        {"strategy": "canary", "sentence": "begins",
         "forecasts": [{**line, "exposed": 7}, {**line, "exposed": 30}, {**line, "harm": 0.01,
                                                                         "exposed": 900}]},
        {"strategy": "shadow", "sentence": "", "forecasts": [{**line, "exposed": None}]},
        {"strategy": "ab", "problem": "no outcomes", "hint": "add some"},
    ]}  # fmt: skip
    canary, shadow = strategies_of(made)
    assert canary["exposed"] == 30
    assert shadow["exposed"] is None


def test_strategies_that_are_not_possible_are_told_together_by_their_reason():
    first = {"problem": "nothing to compare with", "hint": "bascule deploy late/1 --strategy all"}
    made = {"strategies": [
        {"strategy": "all", "sentence": "would deploy late/1 to late (all)"},
        {"strategy": "canary", **first}, {"strategy": "shadow", **first},
        {"strategy": "ab", "problem": "no outcomes", "hint": "add some"},
    ]}  # fmt: skip
    (only,) = strategies_of(made)
    assert only["sentence"] == "Would deploy late/1 to late (all)"
    assert refused_of(made) == [
        (["Canary", "Shadow"], "nothing to compare with", ""),
        (["A/B test"], "no outcomes", "add some"),
    ]


def test_the_usual_strategy_is_a_canary_where_it_is_possible():
    assert usual_of([{"strategy": "all"}, {"strategy": "canary"}]) == "canary"
    assert usual_of([{"strategy": "all"}]) == "all"
    assert usual_of([]) == ""


# -- score a file --


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_is_scored_after_a_look_at_ten_rows_and_downloaded(pages, form):
    token = token_of(pages.get("/score").text)
    content = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n + 1) for n in range(40))
    sent = send(pages, "/score/files", "days.csv", content, token)
    assert sent.status_code == 200
    chosen = {"csrf": token, "file": sent.json()["id"], "model": "rain/1", "form": form}
    look = pages.post("/score", data={**chosen, "act": "preview"})
    finished(pages)
    page = pages.get(look.headers["location"].partition("#")[0]).text
    assert "The first rows, scored" in page
    assert page.count("<tr>") == 11
    everything = pages.post("/score", data={**chosen, "act": "score"})
    finished(pages)
    page = pages.get(everything.headers["location"].partition("#")[0]).text
    assert "Download the scored file" in page
    answer = pages.get(f"/score/result?file={chosen['file']}&form={form}")
    assert f"days-scored.{form}" in answer.headers["content-disposition"]
    read = pa.BufferReader(answer.content)
    made = pa.csv.read_csv(read) if form == "csv" else pq.read_table(read)
    assert made.num_rows == 40
    assert {"a", "b", "prediction_id"} <= set(made.column_names)


def test_a_table_without_the_columns_of_the_model_is_refused_with_the_column(pages, table_bundle,
                                                                             settings):  # fmt: skip
    open_registry(settings).push(table_bundle, by="ada")
    name = read_manifest(table_bundle).name
    token = token_of(pages.get("/score").text)
    sent = send(pages, "/score/files", "x.csv", b"q\n1\n", token).json()
    form = {"csrf": token, "file": sent["id"], "model": name, "act": "preview"}
    look = pages.post("/score", data=form)
    finished(pages)
    assert "has no column" in pages.get(look.headers["location"].partition("#")[0]).text


def test_without_a_file_the_page_says_what_to_do(pages):
    token = token_of(pages.get("/score").text)
    answer = pages.post("/score", data={"csrf": token, "file": "", "model": "rain/1"})
    assert answer.status_code == 400
    assert "no file was sent" in answer.text


def test_a_download_is_for_the_person_that_sent_the_file(pages):
    token = token_of(pages.get("/score").text)
    sent = send(pages, "/score/files", "x.csv", b"a,b\n1,2\n", token).json()
    sessions = pages.app.state.console.sessions
    plain = sessions.find
    sessions.find = lambda request: SimpleNamespace(
        **{name: getattr(plain(request), name) for name in ("csrf", "check", "allows", "rights")},
        subject="eve", is_signed_in=False, check_form=plain(request).check_form,
    )  # fmt: skip
    assert pages.get(f"/score/result?file={sent['id']}").status_code == 404
    assert pages.get(f"/score?file={sent['id']}").status_code == 404
