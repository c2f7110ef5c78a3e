"""Sums of trees are made smaller in their graph: what stays the same, and what changes little."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from sklearn.ensemble import RandomForestClassifier
from tests.tiers import first_of

from bascule.bundle import for_program, take
from bascule.bundle.programs import open_kind
from bascule.optimising import graph_of
from bascule.optimising.trees import make
from bascule.packing import pack

WHOLE = {"trees": 1.0, "error": 0.0}


def answers(bundle, **changed):
    """What a smaller graph answers to the held-out rows, and how many bytes it has."""
    entry, graph = graph_of(bundle)
    columns, _ = bundle.test_data()
    data = make(graph, {**WHOLE, **changed}, entry, take(columns, slice(600)))
    program = open_kind(entry, data, outputs=bundle.signature.outputs)
    return program.run(for_program(columns, program.inputs)), len(data)


def test_all_trees_in_floats_answer_as_the_parent_does(boosted):
    same, _ = answers(boosted)
    parent = boosted.predict(boosted.test_data()[0])
    assert (same["label"] == parent["label"]).all()
    assert np.abs(same["probabilities"] - parent["probabilities"]).max() < 1e-5


def test_half_of_the_trees_fitted_again_are_nearer_than_the_first_half(boosted):
    parent = boosted.predict(boosted.test_data()[0])["probabilities"]
    half, _ = answers(boosted, trees=0.5)
    assert np.abs(half["probabilities"] - parent).mean() < 0.02


def test_more_pruning_gives_fewer_bytes_and_larger_differences(boosted):
    parent = boosted.predict(boosted.test_data()[0])["probabilities"]
    pruned = [answers(boosted, error=error) for error in (0.0, 1e-5, 1e-4)]
    sizes = [size for _, size in pruned]
    away = [float(np.abs(out["probabilities"] - parent).mean()) for out, _ in pruned]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    assert away == sorted(away)


def test_the_operator_keeps_a_test_in_each_tree_that_is_pruned_to_its_root(boosted):
    _, size = answers(boosted, error=1.0)
    _, whole = answers(boosted)
    assert size < 0.4 * whole


def test_a_smaller_graph_can_be_made_smaller_again(boosted):
    entry, graph = graph_of(boosted)
    columns, _ = boosted.test_data()
    once = make(graph, {**WHOLE, "trees": 0.5}, entry, columns)
    twice = make(onnx.load_from_string(once), {**WHOLE, "trees": 0.5}, entry, columns)
    assert len(twice) < 0.7 * len(once)
    program = open_kind(entry, twice, outputs=boosted.signature.outputs)
    parent = boosted.predict(columns)["label"]
    assert (program.run(for_program(columns, program.inputs))["label"] == parent).mean() > 0.9


@pytest.mark.parametrize("share", first_of([0.1, 0.5]))
def test_fewer_trees_of_a_forest_give_probabilities_that_add_up_to_one(tmp_path, share):
    """Its leaves are means over all trees, so a part of them alone would add up to less."""
    random = np.random.default_rng(0)
    X = random.standard_normal((900, 4))
    X[::7, 2] = np.nan
    y = np.digitize(X[:, 0] + np.nan_to_num(X[:, 2]), [-0.5, 0.5])
    model = RandomForestClassifier(20, max_depth=6, random_state=0).fit(X[:400], y[:400])
    forest = pack(
        model, name="rf", train=(X[:400], y[:400]), test=(X[400:], y[400:]), measure=False,
        explain=False, to=tmp_path / "rf.bundle",
    )  # fmt: skip
    fewer, _ = answers(forest, trees=share)
    assert np.abs(fewer["probabilities"].sum(1) - 1).max() < 1e-5
    assert fewer["probabilities"].min() >= 0
    assert (fewer["label"] == forest.predict(X[400:])["label"]).mean() > 0.9
