"""Deletion by a condition, with and without a scribe, whole or not at all."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from tests.ledger_rows import Answers, counts, ids, killed_at, segments, spool, take_in

from bascule.core import Invalid, NotFound, TimedOut
from bascule.monitoring.ledger import (
    Deletions,
    Ledger,
    OutcomeInput,
    Outcomes,
    OutcomeSpool,
    Scribe,
    delete,
    deletion,
    matching,
    read_outcomes,
    scribe as scribing,
)
from bascule.monitoring.ledger.deletion import requested
from bascule.monitoring.ledger.forgetting import without_values
from bascule.monitoring.ledger.manifest import read_manifest


def know(home, *names):
    Outcomes(home).add("gb", pa.table({"id": list(names), "truth": [1] * len(names)}))


def test_rows_of_segments_and_of_the_spool_are_gone_with_their_outcomes(tmp_path):
    spool(tmp_path, Answers(["a", "b"], caller="alice"), Answers(["c"], caller="bob"))
    take_in(tmp_path)
    spool(tmp_path, Answers(["d"], caller="alice"), Answers(["e"], caller="bob"))
    know(tmp_path, "a", "c", "d")
    know(tmp_path, "a")
    Outcomes(tmp_path).add_rows("strict", [("c", 0.9, None)], of_judge=True)
    found = matching(Ledger(tmp_path), "gb", "caller = 'alice'")
    assert (found.rows, found.requests, found.outcomes) == (3, 3, 3)
    done = delete(tmp_path, "gb", "caller = 'alice'")
    assert (done.rows, done.outcomes) == (3, 3)
    assert ids(tmp_path) == ["c", "e"]
    history = Ledger(tmp_path).query("select id from outcome_history")["id"].to_pylist()
    assert sorted(history) == ["c", "c"]
    Outcomes(tmp_path).add_rows("strict", [("e", 0.9, None)], of_judge=True)
    assert delete(tmp_path, "gb", "id = 'e'").outcomes == 1  # the verdict of a judge
    assert b"alice" not in b"".join(f.read_bytes() for f in tmp_path.rglob("*.parquet"))


def test_other_models_and_other_rows_stay(tmp_path):
    spool(tmp_path, Answers(["a"]), Answers(["a"], model="other"))
    delete(tmp_path, "gb", "id = 'a'")
    assert Ledger(tmp_path).query("select model from predictions")["model"].to_pylist() == ["other"]


def test_a_condition_asks_the_fields_and_the_outcomes(tmp_path):
    spool(tmp_path, Answers(["a", "b", "c"]))
    know(tmp_path, "c")
    where = '"input.x" = 1 or id in (select id from outcomes)'
    delete(tmp_path, "gb", where)
    assert ids(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "where",
    [
        "1=1; drop view predictions", "1=1) or (1=1", "id, 1", "", "select 1",
        "speling = 1", "id = 'a' group by 1", "exists(select * from read_csv('/etc/passwd'))",
    ],
)  # fmt: skip
def test_what_is_not_one_condition_is_refused_before_anything_is_asked_for(tmp_path, where):
    spool(tmp_path, Answers(["a"]))
    with pytest.raises(Invalid, match="the condition is refused"):
        matching(Ledger(tmp_path), "gb", where)
    with pytest.raises(Invalid, match="the condition is refused"):
        delete(tmp_path, "gb", where)
    assert ids(tmp_path) == ["a"]
    assert requested(tmp_path) == []


def test_a_model_without_answers_is_said(tmp_path):
    with pytest.raises(NotFound, match="no answers of 'gb'"):
        matching(Ledger(tmp_path), "gb", "true")
    assert delete(tmp_path, "gb", "true").rows == 0


def test_the_scribe_of_a_server_carries_it_out(tmp_path):
    spool(tmp_path, Answers(["a", "b"]))
    stopping = threading.Event()
    scribe = Scribe(tmp_path, chores=[Deletions()])
    running = threading.Thread(target=scribe.run, args=(stopping, 0.01))
    running.start()
    try:
        assert delete(tmp_path, "gb", "id = 'a'").rows == 1
    finally:
        stopping.set()
        running.join()
        scribe.close()
    assert ids(tmp_path) == ["b"]


def test_a_deletion_that_no_scribe_takes_up_stays_asked_for(tmp_path):
    spool(tmp_path, Answers(["a", "b"]))
    busy = Scribe(tmp_path)
    with pytest.raises(TimedOut, match="not carried out the deletion in 0 s"):
        delete(tmp_path, "gb", "id = 'a'", within_s=0)
    busy.close()
    assert ids(tmp_path) == ["a", "b"]
    take_in(tmp_path, Deletions())
    assert ids(tmp_path) == ["b"]
    assert requested(tmp_path) == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [(deletion, "write_merged"), (scribing, "commit"), (Scribe, "_leave")],
    ids=["outcomes", "commit", "after"],
)
def test_killed_at_a_step_the_next_scribe_completes_it(tmp_path, owner, name):
    spool(tmp_path, Answers(["a", "b"]))
    know(tmp_path, "a", "b")
    with killed_at(owner, name):
        delete(tmp_path, "gb", "id = 'a'")
    take_in(tmp_path, Deletions())
    assert ids(tmp_path) == ["b"]
    assert Ledger(tmp_path).query("select id from outcomes")["id"].to_pylist() == ["b"]
    assert requested(tmp_path) == []


def test_a_file_without_rows_left_is_removed(tmp_path):
    segments(tmp_path, 2, 3)
    know(tmp_path, f"{tmp_path.name}-2026-11-01-0-0")
    assert delete(tmp_path, "gb", "id like '%2026-11-01-0-%'").rows == 3
    assert counts(tmp_path) == (3, 3)
    assert len(read_manifest(tmp_path).segments) == 1
    assert list(tmp_path.rglob("outcomes/*/*.parquet")) == []


def test_an_outcome_in_a_file_that_is_being_written_is_overwritten(tmp_path):
    spool(tmp_path, Answers(["a", "b"]))
    writing = OutcomeSpool(tmp_path)
    lines, _ = read_outcomes([OutcomeInput("a", 1, None), OutcomeInput("b", 2, None)])
    writing.append("gb", [lines])
    assert delete(tmp_path, "gb", "id = 'a'").outcomes == 1
    writing.append("gb", [read_outcomes([OutcomeInput("c", 3, None)])[0]])
    writing.close()
    for _ in range(2):
        found = Ledger(tmp_path).query("select id from outcomes order by id")["id"].to_pylist()
        assert found == ["b", "c"]
        Outcomes(tmp_path).fold()


def test_answers_that_came_after_a_deletion_was_asked_for_stay(tmp_path):
    spool(tmp_path, Answers(["a"]))
    busy = Scribe(tmp_path)
    with pytest.raises(TimedOut):
        delete(tmp_path, "gb", "true", within_s=0)
    busy.close()
    spool(tmp_path, Answers(["later"]))
    take_in(tmp_path, Deletions())
    assert ids(tmp_path) == ["later"]


@pytest.mark.parametrize(
    ("where", "plain"),
    [
        ("id = 'al''ice' and x > 3", "id = ? and x > ?"),
        ("caller='é' -- 'secret'", "caller=?"),
        ('id = $$abc$$ or "input.x" in (1, 2)', 'id = ? or "input.x" in (? , ? )'),
    ],
)
def test_the_history_has_a_condition_without_its_values(where, plain):
    assert without_values(where).replace(" ", "") == plain.replace(" ", "")
