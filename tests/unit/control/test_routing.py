"""A router in front of servers is kept at the plan of its endpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.tree import DecisionTreeRegressor

import bascule
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops.routing import Routing
from bascule.endpoints import Arm, Endpoints, EndpointStore, Plan, PlanEvent
from bascule.registry import open_registry

NAME = "gb"


@dataclass
class Router:
    folder: Path
    target: str = "envoy"
    command: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """`gb/1` and `gb/2`."""
    folder = tmp_path_factory.mktemp("home")
    rows, made = np.arange(40.0).reshape(20, 2), open_registry(folder / "home")
    for depth in (1, 2):
        tree = DecisionTreeRegressor(max_depth=depth).fit(rows, rows.sum(axis=1))
        to = folder / f"{depth}.bundle"
        made.push(bascule.pack(tree, name=NAME, train=rows, to=to, measure=False).path, by="tester")
    return made


@pytest.fixture
def store(tmp_path):
    return EndpointStore(Catalogue(SqliteDatabase(tmp_path / "catalogue.db")))


@pytest.fixture
def endpoints(registry, store):
    made = Endpoints(store, lambda: registry)
    made.deploy(f"{NAME}/1", by="tester")
    return made


def apply(endpoints, number, *shares):
    arms = tuple(
        Arm(f"arm-{place}", f"{NAME}/{place + 1}", share) for place, share in enumerate(shares)
    )
    event = PlanEvent("changed", datetime.now(UTC), "tester", "", "a split")
    endpoints.apply(Plan(NAME, number, arms), event)


def weights(folder):
    routes = yaml.safe_load((folder / "routes.yaml").read_text())["resources"][0]
    (route,) = routes["virtual_hosts"][0]["routes"]
    return [one["weight"] for one in route["route"]["weighted_clusters"]["clusters"]]


def test_the_shares_of_the_files_are_those_of_the_newest_plan(endpoints, store, registry, tmp_path):
    routing = Routing({NAME: Router(tmp_path / "envoy")}, lambda: registry)
    routing.turn(store)
    assert weights(tmp_path / "envoy") == [100]
    apply(endpoints, 2, 95.0, 5.0)
    routing.turn(store)
    assert weights(tmp_path / "envoy") == [95, 5]
    assert [one.name for one in (tmp_path / "envoy").iterdir()] == ["routes.yaml"]


COUNT = "open('runs', 'a').write('x'); import sys; sys.exit(int(open('code').read()))"


def test_a_command_runs_once_for_each_plan_and_again_after_it_failed(
    endpoints, store, registry, tmp_path, caplog
):
    folder = tmp_path / "istio"
    folder.mkdir()
    (folder / "code").write_text("3")
    router = Router(folder, "istio", (sys.executable, "-c", COUNT))
    routing = Routing({NAME: router}, lambda: registry)
    for _ in range(2):
        routing.turn(store)
    assert (folder / "runs").read_text() == "xx"
    assert caplog.text.count("ended with 3") == 1, "said once"
    (folder / "code").write_text("0")
    for _ in range(3):
        routing.turn(store)
    assert (folder / "runs").read_text() == "xxx"
    assert {one.name for one in folder.iterdir()} == {
        "code", "destinationrule.yaml", "runs", "virtualservice.yaml",
    }  # fmt: skip


def test_a_router_that_fails_keeps_no_other_from_its_plan(endpoints, store, registry, tmp_path):
    endpoints.deploy(f"{NAME}/1", to="another", by="tester")
    (tmp_path / "file").write_text("")
    routers = {"another": Router(tmp_path / "file" / "folder"), NAME: Router(tmp_path / "envoy")}
    Routing(routers, lambda: registry).turn(store)
    assert weights(tmp_path / "envoy") == [100]


def test_an_endpoint_that_is_not_there_is_waited_for(endpoints, store, registry, tmp_path):
    routing = Routing({"later": Router(tmp_path / "envoy")}, lambda: registry)
    routing.turn(store)
    assert not (tmp_path / "envoy").exists()
    endpoints.deploy(f"{NAME}/1", to="later", by="tester")
    routing.turn(store)
    assert weights(tmp_path / "envoy") == [100]
