from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import Conflict, Invalid, NotFound
from bascule.endpoints import Arm, Plan, Shadow
from bascule.serving.specs import (
    ModelSpec,
    check_absent,
    check_specs,
    default_of,
    left_out,
    loaded,
    swapped,
    unloaded,
    without,
)


def service(text: str, folder: str = "") -> ModelSpec:
    model, _, version = text.partition("/")
    return ModelSpec(model, version, Path(folder or "/bundles", text))


def served(*texts: str) -> tuple[ModelSpec, ...]:
    return tuple(map(service, texts))


def names(services):
    return [f"{one.model}/{one.version}" for one in services]


def test_what_is_loaded_stands_beside_the_others_and_changes_no_default():
    made = loaded(served("late/1", "early/1"), service("late/2"))

    assert names(made) == ["late/1", "early/1", "late/2"]
    assert default_of(made, "late") == service("late/1")


def test_a_new_default_stands_before_the_other_versions_and_nobody_goes():
    made = loaded(served("late/1", "early/1"), service("late/2"), default=True)

    assert names(made) == ["late/2", "late/1", "early/1"]


def test_the_default_moves_to_a_version_that_is_served_already():
    made = loaded(served("late/1", "early/1", "late/2"), service("late/2"), default=True)

    assert names(made) == ["late/2", "late/1", "early/1"]


@pytest.mark.parametrize("default", [True, False])
def test_loading_what_is_there_as_it_is_changes_nothing(default):
    before = served("late/1", "early/1")

    assert loaded(before, service("late/1"), default=default) == before


def test_the_same_version_from_another_folder_takes_its_place():
    moved = service("early/1", "/elsewhere")

    assert loaded(served("late/1", "early/1", "b/1"), moved) == (
        service("late/1"),
        moved,
        service("b/1"),
    )


def test_a_swap_replaces_the_default_and_leaves_the_other_versions():
    before = served("early/1", "late/2", "late/1")

    assert names(swapped(before, service("late/3"))) == ["early/1", "late/3", "late/1"]
    assert names(swapped(before, service("late/1"))) == ["early/1", "late/1"]
    assert swapped(before, service("late/2")) == before
    assert names(swapped(before, service("new/1"))) == [*names(before), "new/1"]


def test_a_version_is_unloaded_by_its_name_and_an_only_one_by_its_models():
    before = served("late/2", "late/1", "early/1")

    assert names(unloaded(before, "late", "1")) == ["late/2", "early/1"]
    assert names(unloaded(before, "early")) == ["late/2", "late/1"]
    assert unloaded(served("early/1"), "early", "1") == ()


def test_the_default_is_not_unloaded_while_another_would_answer_in_its_name():
    with pytest.raises(Conflict, match="late/2 is the default version of late"):
        unloaded(served("late/2", "late/1"), "late", "2")


@pytest.mark.parametrize(
    ("model", "version", "kind", "said"),
    [
        ("nobody", None, NotFound, "'nobody' is not served"),
        ("late", "9", NotFound, "late/9 is not served"),
        ("late", None, Conflict, "late is served in versions 2, 1"),
    ],
)
def test_what_cannot_be_unloaded_is_said(model, version, kind, said):
    with pytest.raises(kind, match=said):
        unloaded(served("late/2", "late/1"), model, version)


@pytest.mark.parametrize("text", ["a b/1", "a/../1", "/1", "a/"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(text):
    with pytest.raises(Invalid, match="is not allowed"):
        check_specs(served(text))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([loaded, swapped, unloaded]),
            st.sampled_from(["a/1", "a/2", "a/3", "b/1", "b/2"]),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_no_change_ever_serves_a_version_twice_or_loses_one_that_it_does_not_name(changes):
    services = ()
    for change, text, default in changes:
        before = services
        one = service(text)
        try:
            if change is loaded:
                services = loaded(services, one, default=default)
            elif change is swapped:
                services = swapped(services, one)
            else:
                services = unloaded(services, one.model, one.version)
        except (NotFound, Conflict):
            assert services == before
        assert len(set(names(services))) == len(services)
        assert {s for s in before if s.model != one.model} == {
            s for s in services if s.model != one.model
        }
        assert (one in services) or change is unloaded


def test_a_model_goes_with_every_version_that_it_has():
    before = served("late/1", "early/1", "late/2")

    assert names(without(before, "late")) == ["early/1"]
    with pytest.raises(NotFound, match="'gone' is not served"):
        without(before, "gone")


def test_a_name_that_is_taken_is_told_with_the_place_of_what_has_it():
    check_absent(served("late/1"), "early")
    with pytest.raises(Conflict, match="'late' is loaded, from /bundles/late/1"):
        check_absent(served("late/1"), "late")


def split(*arms: str, shadow: str = "", number: int = 3) -> Plan:
    """A plan of `late` with equal shares; the first arm is the current one."""
    share = 100.0 / len(arms)
    return Plan(
        "late", number,
        tuple(Arm("current" if not n else f"a{n}", arm, share) for n, arm in enumerate(arms)),
        shadow=Shadow(shadow, 10.0) if shadow else None,
    )  # fmt: skip


def of_plans(*texts: str) -> tuple[ModelSpec, ...]:
    return tuple(replace(one, is_planned=True) for one in served(*texts))


@pytest.mark.parametrize(
    ("plan", "rest"),
    [
        (split("late/1", "late/2"), {"late/1": 100.0}),
        (split("late/1", "late/2", "late/3"), {"late/1": 50.0, "late/3": 50.0}),
        (split("late/1", shadow="late/2"), {"late/1": 100.0}),
    ],
)
def test_a_version_of_a_plan_is_left_out_and_the_rest_answers_by_the_same_plan(plan, rest):
    other = Plan("early", 1, (Arm("current", "early/1", 100.0),))
    services = of_plans("late/1", "late/2", "late/3", "early/1")
    kept, (part, same) = left_out(services, (plan, other), "late/2")
    assert names(kept) == ["late/1", "late/3", "early/1"]
    assert {arm.version: arm.share_percent for arm in part.arms} == rest
    assert (part.number, part.shadow, same) == (3, None, other)


def test_the_current_version_and_what_is_served_for_itself_are_not_left_out():
    plan = split("late/1", "late/2")
    assert left_out(of_plans("late/1", "late/2"), (plan,), "late/1") is None
    services = (*of_plans("late/1"), *served("late/2"))
    assert left_out(services, (plan,), "late/2") is None
