from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.homes import runs_in
from typer.testing import CliRunner

from bascule.batch import Cancelled
from bascule.cli.commands import app
from bascule.core import Conflict, Invalid, NotFound

from .conftest import flights


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table_bundle: Path) -> Any:
    """`call("batch", "runs")`: the standard output of a command in a folder with `in.parquet`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.bundle").symlink_to(table_bundle)
    pq.write_table(flights(500), "in.parquet", row_group_size=100)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, list(words), catch_exceptions=True)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    return run


JOB = ("batch", "run", "m.bundle/", "--from", "in.parquet", "--to", "scored/")


def test_a_table_is_scored_and_its_run_is_listed(call):
    made = json.loads(call(*JOB, "--json"))
    assert (made["rows"], made["quarantined"], made["to"]) == (500, 0, "scored/")
    (listed,) = json.loads(call("batch", "runs", "--json"))
    assert (listed["run"], listed["state"], listed["rows"]) == (made["run"], "done", 500)
    assert made["run"][:12] in call("batch", "runs")
    assert "done" in call("batch", "show", made["run"][:6])
    assert "500 rows in" in call("batch", "logs", made["run"])
    assert "500 rows in scored/" in call(*JOB)


def test_a_dry_run_shows_the_plan(call):
    shown = json.loads(call(*JOB, "--dry-run", "--json"))
    assert (shown["rows"], len(shown["preview"])) == (500, 10)
    assert "500 rows of in.parquet" in call(*JOB, "--dry-run")
    assert json.loads(call("batch", "runs", "--json")) == []


def test_a_job_is_a_file_whose_fields_the_options_change(call):
    Path("JOB.toml").write_text('model = "m.bundle/"\nfrom = "in.parquet"\nto = "a/"\nlimit = 9\n')
    assert json.loads(call("batch", "run", "JOB.toml", "--json"))["rows"] == 9
    other = call("batch", "run", "JOB.toml", "--to", "b/", "--limit", "7", "--json")
    assert json.loads(other)["rows"] == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [("model = 1", "model"), ("models = 'a'", "models"), ("=", "no TOML"), ("", "model")],
)
def test_a_wrong_job_is_refused_by_its_field(call, text, said):
    Path("JOB.toml").write_text(text)
    with pytest.raises(Invalid, match=said):
        call("batch", "run", "JOB.toml")
    with pytest.raises(NotFound):
        call("batch", "run", "NONE.toml")


def test_a_missing_option_is_named(call):
    with pytest.raises(Invalid, match="--to is missing"):
        call("batch", "run", "m.bundle/", "--from", "in.parquet")


def test_a_run_is_cancelled_and_resumed(call, monkeypatch, tmp_path):
    from bascule.batch.scoring import Scorer

    score, home = Scorer.score, tmp_path / ".bascule"

    def cancelled(self: Scorer, *arguments: Any) -> Any:
        runs = runs_in(home)
        run = runs.list()[0].run
        if not runs.find(run).stop:
            runs.cancel(run)
            cancelled_at = runs.find(run).updated_at
            while runs.find(run).updated_at == cancelled_at:
                """The run has not heard of it."""
        return score(self, *arguments)

    Path("JOB.toml").write_text(
        'model = "m.bundle/"\nfrom = "in.parquet"\nto = "a/"\nchunk_rows = 100\nworkers = 1\n'
    )
    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", cancelled)
        with pytest.raises(Cancelled, match="was cancelled"):
            call("batch", "run", "JOB.toml")
    (status,) = runs_in(home).list()
    assert status.state == "cancelled"
    assert status.chunks_done < 5
    with pytest.raises(Conflict, match="is cancelled"):
        call("batch", "cancel", status.run)
    assert json.loads(call("batch", "resume", status.run, "--json"))["rows"] == 500


def test_a_run_whose_rows_changed_is_not_resumed(call):
    made = json.loads(call(*JOB, "--json"))
    pq.write_table(flights(400), "in.parquet")
    with pytest.raises(Conflict, match="cannot be resumed"):
        call("batch", "resume", made["run"])


def test_an_unknown_run_is_not_found(call):
    with pytest.raises(NotFound, match="no run"):
        call("batch", "show", "abc")


def test_a_schedule_is_added_listed_run_paused_and_removed(call):
    Path("JOB.toml").write_text('model = "m.bundle/"\nfrom = "in.parquet"\nto = "a/"\n')
    added = call("schedule", "add", "night", "--cron", "0 2 * * *", "--job", "JOB.toml")
    assert "runs first at" in added
    assert "night" in call("schedule", "list")
    assert json.loads(call("schedule", "run", "night", "--json"))["rows"] == 500
    call("schedule", "pause", "night")
    assert "paused" in call("schedule", "list")
    call("schedule", "resume", "night")
    call("schedule", "remove", "night")
    assert json.loads(call("schedule", "list", "--json")) == []
    with pytest.raises(Invalid, match="cron"):
        call("schedule", "add", "night", "--cron", "2 nights", "--job", "JOB.toml")


def test_options_of_csv_and_names_are_options_of_the_command(call):
    import pyarrow.csv as pacsv

    pacsv.write_csv(flights(20), "in.csv", pacsv.WriteOptions(delimiter=";"))
    made = call(
        "batch", "run", "m.bundle/", "--from", "in.csv", "--to", "out/", "--delimiter", ";",
        "--type", "id=text", "--prefix", "m_", "--partition-by", "carrier", "--json",
    )  # fmt: skip
    assert json.loads(made)["rows"] == 20
    (file, *_) = Path("out").glob("carrier=AA/*.parquet")
    schema = pq.read_schema(file)
    assert (str(schema.field("id").type), "m_label" in schema.names) == ("string", True)
