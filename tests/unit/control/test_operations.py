"""Every declared operation is served, has a right, and its answers come back as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from tests.controls import control_app

import bascule
from bascule.control.api.conventions import Page
from bascule.control.api.rights import OPERATIONS, RIGHTS
from bascule.control.api.routes.alerts import AlertView
from bascule.control.api.routes.batch import ScheduleView
from bascule.control.api.views import KeyView, ModelView, NewKeyView
from bascule.endpoints import (
    Arm,
    BreakerRule,
    Endpoint,
    Plan,
    Shadow,
    StoredEndpoint,
    StoredPlan,
)
from bascule.jobs import Schedule, Scheduled
from bascule.monitoring.alerts import Alert, Finding
from bascule.operations import Listing
from bascule.registry import Alias, Model, Version
from bascule.release.rollouts import Guard, parse_guard
from bascule.security import OPEN_ACTIONS, Key, Permission
from bascule.security.keys import GRANTABLE

SOURCE = Path(bascule.__file__).parent
NOW = datetime(2026, 12, 1, 8, 30, tzinfo=UTC)
PLAN = Plan(
    "late", 3, (Arm("current", "late/2", 75.0), Arm("candidate", "late/3", 25.0)),
    shadow=Shadow("late/1", 5.0), breaker=BreakerRule(3),
)  # fmt: skip
KEY = Key("k1", "web", "", (Permission.parse("infer:late"),), NOW, "ada")
VERSION = Version("late", 1, "sha256:1", NOW, "ada", "passed")
FINDING = Finding("drift", "shift", "late", "warning", "it has moved", 0.5, 0.4, NOW)
SAMPLES = {
    Plan: PLAN,
    Guard: parse_guard("errors +1 pp"),
    Key: KEY,
    tuple[Key, str]: (KEY, "bsc_x"),
    Model: Model("late", 1, VERSION, {"best": Alias("late", "best", 1, NOW)}),
    Alert: Alert(FINDING, "firing", NOW),
    Scheduled: Scheduled(
        Schedule(name="nightly", cron="0 1 * * *", job={"model": "late/1"}, created_at=NOW), NOW
    ),
}
VIEWS = {
    AlertView: AlertView.of,
    KeyView: lambda key: KeyView.of(key, NOW),
    NewKeyView: lambda made: NewKeyView(**KeyView.of(made[0], NOW).model_dump(), token=made[1]),
    ModelView: ModelView.of,
    ScheduleView: ScheduleView.of,
}
PLAIN = {
    str: "text", int: 3, float: 0.5, bool: True, datetime: NOW, date: NOW.date(),
    Any: {"a": 1}, object: "text", NoneType: None,
}  # fmt: skip


def sample(kind: Any) -> Any:
    """A value of a type, with something in each of its fields."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in SAMPLES:
        return SAMPLES[kind]
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Annotated:
        return sample(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return sample(arguments[0])
    if origin is tuple:
        return (sample(arguments[0]),)
    if origin in (list, Sequence):
        return [sample(arguments[0])]
    if origin in (dict, Mapping):
        return {"a": sample(arguments[1])}
    hints = get_type_hints(kind)
    if is_dataclass(kind):
        return kind(**{one.name: sample(hints[one.name]) for one in fields(kind) if one.init})
    return kind(**{name: sample(hints[name]) for name in kind.__struct_fields__})


@pytest.fixture(scope="module")
def answers():
    """By operation: what its handler says that it returns."""

    def nothing(*_):
        raise AssertionError("describing opens nothing")

    app = control_app(SimpleNamespace(), nothing, nothing)
    return {
        f"{method} {route.path}": get_type_hints(route.endpoint, include_extras=True)["return"]
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


def test_what_is_declared_is_what_is_served(answers):
    assert sorted(answers) == sorted(OPERATIONS) == sorted(RIGHTS)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_has_a_right_on_a_name_of_its_path(name):
    operation = OPERATIONS[name]
    assert operation.action in (None, *GRANTABLE, *OPEN_ACTIONS)
    assert operation.model in ("", "*") or operation.model in operation.path
    assert operation.method != "GET" or not (operation.history or operation.keeps_answers)


def test_an_event_that_an_operation_names_is_one_that_a_room_records():
    written = "".join(
        path.read_text() for path in SOURCE.rglob("*.py") if path.name != "operations.py"
    )
    named = {one.history for one in OPERATIONS.values() if one.history}
    assert {kind for kind in named if f'"{kind}"' not in written} == set()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_answer_comes_back_as_it_was(name, answers):
    operation, answer = OPERATIONS[name], answers[name]
    if isinstance(operation, Listing):
        (shown,) = answer.__pydantic_generic_metadata__["args"]
        assert issubclass(answer, Page)
    else:
        shown = answer
    if operation.gives is bytes:
        assert issubclass(shown, Response)
        return
    value = sample(operation.gives)
    made = VIEWS[shown](value) if shown in VIEWS else value
    if get_origin(shown) is not Annotated and shown not in VIEWS:
        assert shown == operation.gives, "the answer is the declared one"
    content = json.loads(TypeAdapter(shown).dump_json(made))
    assert operation.read(content) == value


@pytest.mark.parametrize(
    "room",
    ["batch", "configuring", "control", "endpoints", "jobs", "monitoring.alerts",
     "monitoring.ledger", "registry", "release.rollouts"],
)  # fmt: skip
def test_declarations_load_no_database_and_no_server(room):
    code = (
        f"import sys, bascule.{room}.operations; "
        "print({'fastapi', 'pydantic', 'sqlalchemy', 'pyarrow', 'duckdb'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_an_answer_of_another_form_is_the_failure_of_the_server():
    from bascule.core import ModelFailed

    with pytest.raises(ModelFailed, match=r"GET /api/v1/keys/\{key\}"):
        OPERATIONS["GET /api/v1/keys/{key}"].read({"id": "k1"})
    with pytest.raises(ModelFailed, match="Expected `object`"):
        OPERATIONS["GET /api/v1/jobs/{job}"].read([])
    assert msgspec.convert({"log": "x"}, OPERATIONS["GET /api/v1/jobs/{job}/log"].gives).log == "x"


def test_what_an_alias_deploys_with_is_not_in_the_answer():
    stored = StoredEndpoint("late", "late@best", StoredPlan(PLAN, NOW, "ada"), {"alpha": 0.1})
    page = Page[Endpoint].model_validate(Page(items=[stored], next=None), from_attributes=True)
    content = page.model_dump(mode="json")
    assert set(content["items"][0]) == {"name", "follows", "current"}
