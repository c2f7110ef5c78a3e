from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bascule.bundle.disk.diff import versions_of
from bascule.bundle.disk.manifest import FileEntry, Manifest, OriginalEntry, ProgramEntry, Statement
from bascule.core.fields import DType, Field, Signature
from bascule.registry.differences import SECTIONS, Change, Facts, differences, side_by_side

ROW = Field("wind", DType.FP64)
PROVENANCE = {
    "git": {"commit": "aaa", "dirty": False},
    "train": {"rows": 100, "sha256": "sha256:1"},
    "test": None,
    "model_parameters": {"max_depth": 3},
    "parameters": {"season": "winter"},
    "metrics": {"auc": 0.8},
}


def facts(environment: str = "# python 3.11.7\nnumpy==2.0\n", **changed: Any) -> Facts:
    said = Statement("provenance", "sha256:", "2026-03-01T00:00:00+00:00", "ada",
                     {**PROVENANCE, **changed})  # fmt: skip
    manifest = Manifest(
        name="late",
        flavor="sklearn",
        task="classification",
        classes=(0, 1),
        signature=Signature((ROW,), (Field("label", DType.INT64),)),
        original=OriginalEntry("original/model.skops", "skops", {}, {}),
        programs=(ProgramEntry("onnx", "onnx", "programs/onnx.onnx", (ROW,), True, 1e-5),),
        serves="onnx",
        files={"programs/onnx.onnx": FileEntry("sha256:p", 10)},
    )
    return Facts(manifest, environment, [said])


def between(after: Facts) -> list[Change]:
    return differences(facts(), after)


def test_a_version_differs_in_nothing_from_itself():
    assert between(facts()) == []


@pytest.mark.parametrize(
    ("after", "change"),
    [
        (
            facts(train={"rows": 120, "sha256": "sha256:1"}),
            Change("data", "train.rows", 100, 120),
        ),
        (
            facts(git={"commit": "bbb", "dirty": False}),
            Change("code", "commit", "aaa", "bbb"),
        ),
        (facts(git=None), Change("code", "commit", "aaa", None)),
        (facts(model_parameters={"max_depth": 4}), Change("parameters", "max_depth", 3, 4)),
        (facts(parameters={}), Change("parameters", "season", "winter", None)),
        (facts(metrics={"auc": 0.9}), Change("metrics", "auc", 0.8, 0.9)),
        (
            facts("# python 3.11.7\nnumpy==2.1\n"),
            Change("environment", "numpy", "2.0", "2.1"),
        ),
        (
            facts("# python 3.12.0\nnumpy==2.0\n"),
            Change("environment", "python", "3.11.7", "3.12.0"),
        ),
    ],
    ids=lambda value: f"{value.section} {value.name}" if isinstance(value, Change) else "",
)
def test_each_thing_that_changed_is_told_in_its_section(after, change):
    assert change in between(after)
    assert {one.section for one in between(after)} == {change.section}


def test_a_whole_number_that_became_a_float_is_a_change():
    """They are equal in Python, and not the same setting to many a framework."""
    assert between(facts(model_parameters={"max_depth": 3.0})) == [
        Change("parameters", "max_depth", 3, 3.0)
    ]


def test_a_field_that_came_went_or_changed_its_type_is_named():
    old = facts()
    gust = Field("gust", DType.FP64, nullable=True)
    new = replace(
        old,
        manifest=replace(
            old.manifest,
            signature=Signature(
                (replace(ROW, dtype=DType.FP32), gust), old.manifest.signature.outputs
            ),
        ),
    )
    assert between(new) == [
        Change("signature", "input wind", "FP64", "FP32"),
        Change("signature", "order of inputs", ["wind"], ["wind", "gust"]),
        Change("signature", "input gust", None, "FP64, may be missing"),
    ]


def test_the_latest_figure_counts_wherever_it_was_stated():
    old, new = facts(), facts()
    result = {"criterion": "auc >= 0.7", "value": 0.85, "passed": True}
    later = Statement("gates", "sha256:", "2026-03-02T00:00:00+00:00", "ci", {"results": [result]})
    new = replace(new, statements=[*new.statements, later])

    assert differences(old, new) == [
        Change("metrics", "auc", 0.8, 0.85), Change("gates", "auc >= 0.7", None, "passed")
    ]  # fmt: skip


def said(kind, body):
    return Statement(kind, "sha256:", "2026-03-02T00:00:00+00:00", "ci", body)


def test_quality_verdicts_and_cost_stand_beside_each_other_with_what_is_the_same():
    def measured(accuracy, passed, us):
        result = {"criterion": "accuracy >= 0.9", "value": accuracy, "passed": passed}
        cost = {"latency_us": {"onnx": {"1": us, "512": 90.0}}, "peak_memory_bytes": None,
                "size_bytes": 10, "machine": {"cpu": "small"}}  # fmt: skip
        here = facts()
        return replace(here, statements=[
            *here.statements, said("quality", {"rows": 9, "overall": {"log_loss": 0.2}}),
            said("gates", {"results": [result]}), said("cost", cost),
        ])  # fmt: skip

    both = side_by_side(measured(0.8, False, 7.0), measured(0.95, True, 8.0))
    assert [one for one in both if one.section in ("metrics", "gates", "cost")] == [
        Change("metrics", "log_loss", 0.2, 0.2),
        Change("metrics", "auc", 0.8, 0.8),
        Change("metrics", "accuracy", 0.8, 0.95),
        Change("gates", "accuracy >= 0.9", "failed", "passed"),
        Change("cost", "onnx: 1 row, us", 7.0, 8.0),
        Change("cost", "onnx: 512 rows, us", 90.0, 90.0),
        Change("cost", "measured on", "small", "small"),
    ]
    assert {one.name for one in both if not one.is_same} == {
        "accuracy", "accuracy >= 0.9", "onnx: 1 row, us"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [(100, 120, "+20 (+20.0%)"), (0, 3, "+3"), (None, 3, "added"), ("a", None, "removed"),
     (False, True, "changed")],
)  # fmt: skip
def test_a_change_says_by_how_much(before, after, moved):
    assert Change("data", "x", before, after).moved == moved


def test_sections_come_in_their_order():
    other = facts(
        "numpy==3\n", train=None, git=None, model_parameters={}, parameters={}, metrics={}
    )
    sections = list(dict.fromkeys(one.section for one in between(other)))
    assert sections == [name for name in SECTIONS if name in sections]
    assert len(sections) == 5


def test_a_line_of_the_environment_without_its_version_is_passed_over():
    """Anybody may have written the file: nothing of it may end the comparison."""
    assert versions_of("numpy==\nscipy== \n==\nskops==0.13 ; x\n") == {"skops": "0.13"}
