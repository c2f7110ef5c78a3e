"""The search: what is within a budget, which rows judge, and when nothing is chosen."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from sklearn.linear_model import LogisticRegression
from tests.tiers import first_of

from bascule.core import Invalid, Refused, Unavailable, Unconvertible
from bascule.kinds.optimising import OPTIMISE
from bascule.optimising import (
    Candidate,
    Device,
    criteria_of,
    draw,
    front_of,
    optimise,
    read_device,
)
from bascule.packing import pack, rebuild

MEASURE = (sys.executable, "-m", "bascule.edge", "measure", "-")
SLOWER_WITH_SIZE = """
import json, sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    kilobytes = sum(file.size for file in archive if file.name == "programs/onnx.onnx") / 1e3
names = ("p50_ms", "p95_ms", "p99_ms", "memory_mb")
print(json.dumps({**dict.fromkeys(names, kilobytes), "n": 1}))
"""
"""A device whose latency in ms is the size of the program in kB."""


@pytest.fixture(scope="module")
def optimised(boosted, tmp_path_factory):
    place = tmp_path_factory.mktemp("optimised") / "small.bundle"
    device = Device("camera", ("accuracy >= parent - 0.06",), measure=MEASURE)
    return optimise(boosted, reference="gb/1", to=place, device=device, trials=3, seed=1)


def test_the_chosen_candidate_is_the_last_that_the_gate_rows_confirmed(optimised):
    confirmed = [own for own in optimised.candidates if own.confirmed]
    assert optimised.chosen in confirmed
    passed = [own for own in confirmed if "is not" not in own.confirmed]
    assert min(own.size_mb for own in passed) == optimised.chosen.size_mb
    assert "on 600 rows" in optimised.chosen.confirmed
    assert optimised.chosen.size_mb < optimised.parent.size_mb


def test_a_chosen_bundle_names_its_parent_and_is_rebuilt_to_the_same_digest(optimised, boosted):
    (known,) = optimised.bundle.statements("provenance")
    (source,) = known.body["lineage"]
    assert source == {"kind": "bundle", "parent": "gb/1", "digest": boosted.digest}
    assert optimised.bundle.task == "classification"
    assert rebuild(optimised.bundle.path).same


def test_the_front_is_measured_by_the_device_and_the_rest_estimated_from_the_parent(optimised):
    facts = json.loads(json.dumps(optimised.to_json()))
    assert facts["parent"]["on_device"]["n"] >= 20
    asked = [own for own in facts["candidates"] if own["confirmed"]]
    assert asked
    for own in facts["candidates"]:
        assert own["latency"] == ("measured" if own in asked else "estimated")
        assert (own["on_device"] is None) == (own not in asked)
    assert "ms measured" in facts["chart"]


def test_what_the_device_finds_too_slow_is_left_out_and_smaller_ones_are_still_asked(
    boosted, tmp_path
):
    budgets = ("accuracy >= parent - 0.2", "latency_p50 <= 7 ms")
    device = Device("camera", budgets, measure=(sys.executable, "-c", SLOWER_WITH_SIZE))
    result = optimise(boosted, reference="gb/1", to=tmp_path / "small", device=device, trials=4)
    slow = [own for own in result.candidates if own.on_device and own.latency_ms > 7]
    assert slow
    assert all("is not <= 7" in own.problem for own in slow)
    assert result.chosen.latency_ms <= 7


@pytest.mark.parametrize(
    ("command", "reason"),
    first_of(
        [
            (("no-such-command",), "No such file"),
            (
                (sys.executable, "-c", "import sys; sys.exit('error: no route')"),
                "with 1: error: no rou",
            ),
            (("echo", "{}"), "p50_ms"),
        ]
    ),
)
def test_a_command_that_measures_nothing_ends_the_search_before_it_begins(
    boosted, tmp_path, command, reason
):
    told = []
    device = Device("camera", measure=command)
    with pytest.raises(Unavailable, match=reason) as problem:
        optimise(boosted, reference="gb/1", to=tmp_path, device=device, tell=told.append)
    assert "leave out `measure`" in problem.value.hint
    assert not told


def test_callers_of_the_api_run_no_commands_by_a_device():
    plan = {"model": "late/4", "device": {"measure": ["ssh", "camera"]}}
    with pytest.raises(Refused, match="not run for callers"):
        OPTIMISE.confine(OPTIMISE.parse(plan), ("/data",), "/")
    OPTIMISE.confine(OPTIMISE.parse({"model": "late/4"}), ("/data",), "/")


@pytest.mark.parametrize("plan", [{}, {"model": "late/4", "trials": 0}, {"model": "a", "x": 1}])
def test_a_plan_that_is_none_is_refused(plan):
    with pytest.raises(Invalid, match="no search"):
        OPTIMISE.parse(plan)


def test_a_limit_of_latency_on_a_slower_device_is_divided_for_this_machine():
    (limit, *_), _ = criteria_of("regression", Device("d", ("latency_p50 <= 8 ms",), 4.0))
    assert (limit.metric, limit.limit) == ("latency_p50", 2.0)


def test_without_a_budget_the_first_metric_of_the_task_may_lose_a_hundredth():
    _, compared = criteria_of("regression", Device())
    assert str(compared) == "r2 >= parent - 0.01"


@pytest.mark.parametrize("budgets", [("rmse <= parent + 1", "r2 >= parent - 0.1"), ("size < ",)])
def test_a_budget_that_compares_twice_or_cannot_be_read_is_refused(budgets):
    with pytest.raises(Invalid):
        criteria_of("regression", Device("d", budgets))


def test_a_device_is_read_from_its_file_or_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "rpi4.toml").write_text('budgets = ["size <= 1 MB"]\n')
    assert read_device("rpi4") == Device("rpi4", ("size <= 1 MB",))
    (tmp_path / "bad.toml").write_text("latency_factor = nan\n")
    for place in ("bad.toml", "missing"):
        with pytest.raises(Invalid):
            read_device(place)


def test_the_front_has_what_no_other_candidate_beats():
    small = Candidate({"way": "a"}, 1.0, 1.0, 1.0, -0.02)
    good = Candidate({"way": "b"}, 2.0, 1.0, 1.0, 0.0)
    beaten = replace(good, size_mb=3.0)
    assert front_of([small, beaten, good]) == [good, small]
    assert "a: 1 MB" in draw([small, beaten, good], 0.01, "accuracy")


def test_a_model_without_trees_or_large_weights_is_refused(tmp_path, iris):
    X, y = iris
    linear = pack(
        LogisticRegression(max_iter=500).fit(X, y), name="lin", train=(X, y), test=(X, y),
        to=tmp_path / "lin.bundle", measure=False, explain=False,
    )  # fmt: skip
    with pytest.raises(Unconvertible, match="neither a sum of trees nor"):
        optimise(linear, reference="lin/1", to=tmp_path / "small")
    assert not (tmp_path / "small").exists()
