"""`bascule drift`, `monitor` and `report` on what the ledger has, and the same from Python."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pytest
from tests.production import Day, fill, packed

import bascule
from bascule.core import NotFound


@pytest.fixture(scope="module")
def production(tmp_path_factory):
    """A folder in which `late/1` is registered and has answered for 10 days."""
    folder = tmp_path_factory.mktemp("production")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bundle = packed(folder)
        bascule.push(bundle)
        days = [Day(back, wind=14 if back == 1 else 10, fresh=0.01) for back in range(9, 0, -1)]
        fill(folder / ".bascule", bundle, "1", days)
    return folder


@pytest.fixture
def run(production, monkeypatch, command):
    monkeypatch.chdir(production)
    return command


def test_drift_without_a_table_looks_at_production(run):
    code, out, _ = run("drift", "late")
    assert code == 1
    assert out.startswith("late/1: ")
    assert "1,800 rows in 9 windows, 10 columns" in out
    code, out, _ = run("drift", "late", "--since=24h", "--json")
    (version,) = json.loads(out)["versions"]
    assert len(version["windows"]) == 1
    code, out, _ = run("drift", "late", "--effect=loss=0.5", "--effect=wind=9", "--json")
    assert {c["alarm"] for w in json.loads(out)["versions"][0]["windows"] for c in w["columns"]
            if c["column"] in ("wind", "loss")} == {False}  # fmt: skip


def test_monitor_shows_one_screen_and_is_1_on_an_alarm(run):
    code, out, _ = run("monitor", "late")
    assert code == 1
    assert out.startswith("late  ")
    code, out, _ = run("monitor", "late", "--json")
    assert json.loads(out)["total"]["requests"] == 140


def test_the_registry_that_an_option_names_is_asked(
    production, run, tmp_path, monkeypatch, postgresql_url
):
    shutil.copytree(production / ".bascule" / "ledger", tmp_path / "ledger")
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path))
    assert run("monitor", "late")[0] not in (0, 1)
    assert run("--store", postgresql_url, "push", production / "late.bundle")[0] == 0
    for words in (("monitor", "late"), ("drift", "late")):
        assert run("--store", postgresql_url, *words)[0] == 1


def test_report_writes_a_page(run, tmp_path):
    code, out, _ = run("report", "late", "--out", tmp_path / "report.html")
    assert (code, out.split(":")[0]) == (0, str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["monitor", "other"], "no model 'other'"),
        (["monitor", "late", "--since=soon"], "--since 'soon' is not a length of time"),
        (["report", "late", "--out=/none/report.html"], "/none/report.html cannot be written"),
        (["drift", "late", "--effect=none=1"], "the baseline has no column 'none'"),
        (["drift", "late", "--budget=0"], "budget: 0 alarms a year is not > 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(run, words, said):
    code, out, err = run(*words)
    assert code > 1
    assert said in err + out
    assert "Traceback" not in err


def test_the_same_from_python(run):
    found = bascule.drift("late")
    assert found.is_alarm
    assert "<table>" in found._repr_html_()
    assert repr(bascule.monitor("late", since=timedelta(days=3))).startswith("late  ")
    assert bascule.report("late", "page.html").model == "late"


def test_a_folder_means_the_one_version_that_its_digest_gives(run, production):
    with pytest.raises(NotFound, match="no model 'other'"):
        bascule.drift("other")
    found = bascule.drift(bascule.load(production / "late.bundle"))
    assert found.versions == ()
    assert found.notes == ("version 1 is not compared: its bundle is not at hand",)
