"""Files of outcomes: merged without a loss or a double at any kill, and kept as long as answers."""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.ledger_rows import Answers, spool, take_in

from bascule.monitoring.ledger import (
    Ledger,
    OutcomeInput,
    Outcomes,
    OutcomeSpool,
    OutcomeUpkeep,
    Retention,
    delete,
    outcomes as outcomes_module,
    read_outcomes,
)
from bascule.monitoring.ledger.outcome_upkeep import LINGER_S, merge
from bascule.monitoring.ledger.scribe import FOR_EVER

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SQL = "select id, row, truth, received_at, position from outcome_history order by all"


@pytest.fixture
def clock(monkeypatch):
    """Says when outcomes are received."""
    now = [NOW - timedelta(days=1)]
    monkeypatch.setattr(
        outcomes_module.time, "time_ns", lambda: int(now[0].timestamp() * 1e6) * 1000
    )
    return now


def add(home, *ids, truth=1):
    Outcomes(home).add("gb", pa.table({"id": list(ids), "truth": [truth] * len(ids)}))


def files(home):
    return sorted(home.glob("outcomes/gb/[0-9]*"))


def history(home):
    return Ledger(home).query(SQL).to_pylist()


def tend(home, now=NOW, retention=FOR_EVER):
    OutcomeUpkeep().tend(home, retention, now)


def make_old(home):
    for file in files(home):
        os.utime(file, (0, 0))


def test_small_files_of_a_finished_day_become_one_with_the_same_rows(tmp_path, clock):
    for number in range(5):
        add(tmp_path, f"a{number}", "same", truth=number)
    before = history(tmp_path)
    tend(tmp_path)
    assert history(tmp_path) == before
    assert len(before) == 10
    make_old(tmp_path)
    tend(tmp_path)
    assert [file.name.endswith(".merged.parquet") for file in files(tmp_path)] == [True]
    assert history(tmp_path) == before
    newest = Ledger(tmp_path).query("select truth from outcomes where id = 'same'").to_pylist()
    assert newest == [{"truth": "4"}]


@pytest.mark.parametrize(("count", "left"), [(15, 15), (16, 1)])
def test_files_of_today_are_merged_once_there_are_sixteen(tmp_path, clock, count, left):
    clock[0] = NOW
    for number in range(count):
        add(tmp_path, f"a{number}")
    tend(tmp_path)
    assert len(Outcomes(tmp_path).stored()[0]) == left


def test_files_that_a_query_may_read_stay_for_a_while(tmp_path, clock):
    add(tmp_path, "a")
    add(tmp_path, "b")
    tend(tmp_path)
    assert len(files(tmp_path)) == 3
    (merged,) = Outcomes(tmp_path).stored()[0]
    age_s = datetime.now().timestamp() - LINGER_S
    os.utime(merged, (age_s, age_s))
    tend(tmp_path)
    assert files(tmp_path) == [merged]


@pytest.mark.parametrize("step", ["rename", "unlink", "second unlink"])
def test_killed_at_a_step_each_truth_is_there_once(tmp_path, clock, monkeypatch, step):
    for number in range(3):
        add(tmp_path, f"a{number}")
    before = history(tmp_path)
    calls = {"rename": 0, "unlink": 0}

    def dying(name, at, act):
        def call(path, *args, **kwargs):
            if path.name.startswith((".", "1")) and path.suffix != ".json":
                calls[name] += 1
                if calls[name] >= at:
                    raise KeyboardInterrupt
            return act(path, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "rename", dying("rename", 1, Path.rename))
        with pytest.raises(KeyboardInterrupt) if step == "rename" else nullcontext():
            tend(tmp_path)
    if step != "rename":
        make_old(tmp_path)
        with monkeypatch.context() as patch:
            at = 1 if step == "unlink" else 2
            patch.setattr(Path, "unlink", dying("unlink", at, Path.unlink))
            with pytest.raises(KeyboardInterrupt):
                Outcomes(tmp_path).forget_merged()
    assert history(tmp_path) == before
    tend(tmp_path)
    make_old(tmp_path)
    tend(tmp_path)
    assert history(tmp_path) == before
    assert len(files(tmp_path)) == 1


def test_a_file_of_lines_that_is_folded_and_merged_while_a_fold_dies_counts_once(tmp_path):
    writing = OutcomeSpool(tmp_path)
    writing.append("gb", [read_outcomes([OutcomeInput("a", 1, None)])[0]])
    writing.close()
    (lines,) = tmp_path.glob("outcomes/gb/*.jsonl")
    data = lines.read_bytes()
    Outcomes(tmp_path).fold()
    add(tmp_path, "b")
    before = history(tmp_path)
    merge(Outcomes(tmp_path), Outcomes(tmp_path).stored()[0])
    lines.write_bytes(data)  # as a fold leaves it that was killed before it removed the lines
    Outcomes(tmp_path).forget_merged()
    assert history(tmp_path) == before
    lines.write_bytes(data)
    Outcomes(tmp_path).fold()
    assert history(tmp_path) == before
    assert not lines.exists()


@pytest.mark.parametrize(("days", "count"), [(30, 2), (29, 1)])
def test_outcomes_are_kept_for_the_days_of_the_retention(tmp_path, clock, days, count):
    clock[0] = NOW - timedelta(days=30)
    add(tmp_path, "old")
    clock[0] = NOW
    add(tmp_path, "new")
    tend(tmp_path, retention=Retention(FOR_EVER.max_bytes, days))
    assert len(history(tmp_path)) == count


def test_the_oldest_outcomes_make_room(tmp_path, clock):
    for days in (3, 2, 1):
        clock[0] = NOW - timedelta(days=days)
        add(tmp_path, f"{days} days ago")
    size = sum(file.stat().st_size for file in files(tmp_path))
    tend(tmp_path, retention=Retention(size, 365))
    assert len(history(tmp_path)) == 3
    tend(tmp_path, retention=Retention(size - 1, 365))
    assert [row["id"] for row in history(tmp_path)] == ["1 days ago", "2 days ago"]


def test_a_deletion_reaches_a_merged_file_and_what_it_replaces(tmp_path, clock):
    spool(tmp_path, Answers(["a", "b"]))
    add(tmp_path, "a")
    add(tmp_path, "b")
    tend(tmp_path)
    assert delete(tmp_path, "gb", "id in ('a', 'b')").outcomes == 2
    assert history(tmp_path) == []
    make_old(tmp_path)
    tend(tmp_path)
    assert history(tmp_path) == []
    assert len(files(tmp_path)) == 1


def test_a_damaged_file_is_left_alone_and_the_others_are_merged(tmp_path, clock, caplog):
    for day in (3, 2):
        clock[0] = NOW - timedelta(days=day)
        add(tmp_path, f"a{day}")
        add(tmp_path, f"b{day}")
    files(tmp_path)[0].write_bytes(b"PAR1")
    upkeep = OutcomeUpkeep()
    for _ in range(2):
        upkeep.tend(tmp_path, FOR_EVER, NOW)
    assert len(Outcomes(tmp_path).stored()[0]) == 3
    assert caplog.text.count("are not merged") == 1


def test_a_scribe_does_the_upkeep_between_its_turns(tmp_path, clock):
    clock[0] = datetime.now(UTC) - timedelta(days=2)
    add(tmp_path, "a")
    add(tmp_path, "b")
    take_in(tmp_path, OutcomeUpkeep())
    assert len(Outcomes(tmp_path).stored()[0]) == 1
