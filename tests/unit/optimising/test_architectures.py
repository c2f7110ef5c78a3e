"""Architectures are drawn from a pipeline's ranges, trained once, judged as smaller graphs are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tiers import first_of
from tests.unit.optimising.conftest import rows

from bascule.app import open_registry
from bascule.bundle import load
from bascule.core import Invalid, NotFound, Refused
from bascule.jobs import Task, Unrecorded
from bascule.kinds import KINDS
from bascule.settings import Settings
from bascule.training import Architectures, prepare, read_pipeline

CODE = """
from sklearn.ensemble import GradientBoostingClassifier

def boosting(X, y, trees=60, depth=3):
    with open("fits.txt", "a") as file:
        print(trees, depth, file=file)
    if depth == 5:
        raise ValueError("too deep")
    return GradientBoostingClassifier(n_estimators=trees, max_depth=depth, random_state=0).fit(X, y)

def network(X, y, width=96, layers=2):
    import torch
    from networks import Layers
    torch.manual_seed(0)
    x, truth = torch.tensor(X.to_numpy()).float(), torch.tensor(y.to_numpy())
    model = Layers(x.shape[1], width, layers)
    steps = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(model.steps(x), truth).backward()
        steps.step()
    return model
"""
NETWORKS = """
from torch import nn

class Layers(nn.Module):
    def __init__(self, inputs, width, layers):
        super().__init__()
        steps = [nn.Linear(inputs, width), nn.ReLU()]
        for _ in range(layers - 1):
            steps += [nn.Linear(width, width), nn.ReLU()]
        self.steps = nn.Sequential(*steps, nn.Linear(width, 2))

    def forward(self, x):
        shares = self.steps(x).softmax(1)
        return {"label": shares.argmax(1), "probabilities": shares}
"""
TOML = """
[pipeline.late]
data = "rows.parquet"
target = "late"
fit = "code_of_late.py:boosting"
held_out = 1000
criteria = ["size <= 1 MB"]

[pipeline.late.search]
trees = ["log", 10, 40]
depth = [2, 5]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("code_of_late.py").write_text(CODE)
    Path("networks.py").write_text(NETWORKS)
    Path("pipeline.toml").write_text(TOML)
    X, y = rows(2_000, 0)
    columns = {f"x{place}": X[:, place] for place in range(6)}
    pq.write_table(pa.table({**columns, "late": y}), "rows.parquet")
    return Settings(home=tmp_path / "home")


def pipeline():
    return read_pipeline(Path("pipeline.toml"))


def run(home, kind, **content):
    task = Task(
        kind=kind, input=KINDS[kind].parse(content), title=kind, by="me", folder=str(Path.cwd())
    )
    return KINDS[kind].run(home, task, Unrecorded())


def search(home, margin=0.06):
    run(home, "train")
    device = {"budgets": [f"accuracy >= parent - {margin}"]}
    return run(home, "optimise", model="late/1", train="pipeline.toml", trials=5, device=device)


def test_an_architecture_is_packed_with_the_feature_store_of_its_pipeline(home, monkeypatch):
    monkeypatch.setattr("bascule.packing.pack", lambda _model, **options: options)
    declared = msgspec.structs.replace(pipeline(), features="store#flights")
    architectures = Architectures(replace(prepare(pipeline()), pipeline=declared))
    options = architectures.pack({"trees": 10, "depth": 2}, Path("bundle"), parameters={})
    assert options["features"] == "store#flights"
    assert options["parameters"] == {"trees": 10, "depth": 2}


@pytest.mark.slow  # packs seven models
def test_the_chosen_architecture_is_a_smaller_version_with_its_parameters_and_parent(home):
    result = search(home)
    assert result["version"] == "late/2"
    (chosen,) = [own for own in result["candidates"] if own["is_chosen"]]
    assert chosen["size_mb"] < result["parent"]["size_mb"]
    registry = open_registry(home)
    bundle = load(registry.path("late/2"))
    body = bundle.statements("provenance")[0].body
    origin = {"kind": "bundle", "parent": "late/1", "digest": registry.resolve("late/1").digest}
    assert origin in body["lineage"]
    assert chosen["settings"].items() <= body["parameters"].items()
    assert len(bundle.test_data()[1]) == 1000
    assert "size <= 1 MB" in str(registry.statements("late/2", "gates")[0].body)


def test_what_is_packed_in_the_end_was_fitted_when_it_was_judged(home):
    architectures, plain = (
        Architectures(prepare(pipeline())),
        dict.fromkeys(("measure", "explain", "baseline"), False),
    )
    for folder in ("draft", "final"):
        bundle = architectures.pack({"trees": 10, "depth": 2}, Path(folder), **plain)
    assert Path("fits.txt").read_text() == "10 2\n"
    assert bundle.digest == load(Path("draft")).digest
    assert len(architectures.held_out()[1]) == len(bundle.test_data()[1]) == 1000


@pytest.mark.slow  # packs seven models
def test_each_architecture_is_fitted_once_and_a_failed_fit_costs_no_more_than_itself(home):
    result = search(home)
    fits = Path("fits.txt").read_text().splitlines()
    assert len(fits) == len(set(fits)) == 1 + len(result["candidates"])
    for own in result["candidates"]:
        assert ("too deep" in own["problem"]) == (own["settings"]["depth"] == 5)


@pytest.mark.slow  # packs networks
def test_a_network_of_torch_is_searched_by_its_width_and_depth(home):
    ranges = 'width = ["log", 8, 64]\nlayers = [1, 2]\n'
    text = TOML.replace("boosting", "network").partition("trees")[0] + ranges
    Path("pipeline.toml").write_text(text)
    result = search(home)
    (chosen,) = [own for own in result["candidates"] if own["is_chosen"]]
    assert result["parent"]["size_mb"] > 2 * chosen["size_mb"]
    assert load(open_registry(home).path("late/2")).predict({"x": rows(5, 2)[0]})["label"].size == 5


def test_what_is_searched_is_no_part_of_a_training_run(home):
    key = prepare(pipeline()).key
    Path("pipeline.toml").write_text(TOML.replace("[2, 5]", "[2, 4]"))
    assert prepare(pipeline()).key == key
    Path("pipeline.toml").write_text(TOML.replace("held_out = 1000", "held_out = 999"))
    assert prepare(pipeline()).key != key


@pytest.mark.parametrize(
    ("written", "drawn"),
    first_of(
        [
            ("[2, 5]", {2, 3, 4, 5}),
            ("[2, 4, 8]", {2, 4, 8}),
            ('["log", 1, 4]', {1, 2, 3, 4}),
            ('["relu", "tanh"]', {"relu", "tanh"}),
            ("[true, false]", {True, False}),
            ('[8, "auto"]', {8, "auto"}),
        ],
        3,
    ),
)
def test_a_list_is_a_range_or_choices(home, written, drawn):
    Path("pipeline.toml").write_text(TOML.replace("[2, 5]", written))
    architectures = Architectures(prepare(pipeline()))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [architectures.suggest(study.ask())["depth"] for _ in range(60)]
    assert set(values) == drawn
    assert {type(own) for own in values} == {type(own) for own in drawn}


def test_a_range_of_floats_is_drawn_in_three_digits(home):
    Path("pipeline.toml").write_text(TOML.replace("[2, 5]", '["log", 0.001, 1.0]'))
    architectures = Architectures(prepare(pipeline()))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [architectures.suggest(study.ask())["depth"] for _ in range(60)]
    assert all(0.001 <= own <= 1 and own == float(f"{own:.3g}") for own in values)
    assert sum(own < 0.03 for own in values) > 20


@pytest.mark.parametrize(
    "written",
    ["[5, 2]", "[2, 2]", "[3]", "[]", '["log", 0, 4]', '["log", 2]', '["log", 1, "a"]', "[1, inf]",
     "[nan, 2]", '["log", "a", "b"]', "{a = 1}"],
)  # fmt: skip
def test_a_list_that_is_neither_is_refused_with_its_name(home, written):
    Path("pipeline.toml").write_text(TOML.replace("[2, 5]", written))
    with pytest.raises(Invalid, match=r"pipeline late.*search"):
        pipeline()


@pytest.mark.slow  # packs a model
def test_a_search_without_ranges_or_pipeline_is_refused(home):
    run(home, "train")
    Path("pipeline.toml").write_text(TOML.partition("[pipeline.late.search]")[0])
    with pytest.raises(Invalid, match="pipeline late has nothing to search"):
        run(home, "optimise", model="late/1", train="pipeline.toml")
    Path("pipeline.toml").write_text(TOML.replace("late", "early"))
    with pytest.raises(NotFound, match="no pipeline 'late'"):
        run(home, "optimise", model="late/1", train="pipeline.toml")


def test_callers_of_the_api_train_no_architectures():
    kind = KINDS["optimise"]
    with pytest.raises(Refused, match="code of a pipeline is not run for callers"):
        kind.confine(kind.parse({"model": "late/4", "train": "/data/p.toml"}), ("/data",), "/")
