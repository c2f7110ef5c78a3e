"""Permissions on prefixes and on projects: what they cover, and what is refused."""

import pytest

from bascule.core import Invalid
from bascule.security import (
    Permission,
    check_projects,
    in_force,
    in_words,
    permissions_of_role,
    permits,
    projects_of,
)

PROJECTS = {"fraud": ["fraud-*", "chargeback"], "none": []}


@pytest.mark.parametrize("model", ["team-a", "team-b.2"])
def test_a_prefix_covers_the_models_that_begin_so(model):
    assert Permission.parse("infer:team-*").covers("read", model)


@pytest.mark.parametrize("model", ["team", "my-team-a", "*", "Team-a"])
def test_a_prefix_covers_no_other_model_and_not_all_of_them(model):
    assert not Permission.parse("infer:team-*").covers("infer", model)


def test_a_prefix_has_the_right_to_a_longer_one_and_not_to_a_shorter_one():
    assert Permission.parse("read:team-*").covers("read", "team-a*")
    assert not Permission.parse("read:team-a*").covers("read", "team-*")


@pytest.mark.parametrize("text", ["-*", "te*am", "*team", "**", "project=", "project=a/b", "a=b"])
def test_what_is_neither_a_name_nor_a_prefix_nor_a_project_is_refused(text):
    with pytest.raises(Invalid):
        Permission.parse(f"read:{text}")


def test_a_project_allows_its_models_once_they_are_in_its_place_and_nothing_before():
    permission = Permission.parse("deploy:project=fraud")
    assert str(permission) == "deploy:project=fraud"
    assert not permission.covers("deploy", "fraud-cards")
    assert not permission.covers("read", "")
    allowed = in_force([permission], PROJECTS)
    assert permits(allowed, "deploy", "fraud-cards")
    assert permits(allowed, "read", "chargeback")
    assert not permits(allowed, "deploy", "chargeback-2")
    assert not permits(allowed, "deploy", "*")
    assert in_force([permission], {}) == ()


def test_a_role_is_on_a_project_and_reads_so():
    role = permissions_of_role("operator:project=fraud")
    assert in_words(role) == "operator:project=fraud"
    assert permits(in_force(role, PROJECTS), "deploy", "fraud-web")
    check_projects(role, PROJECTS)
    with pytest.raises(Invalid, match="no project 'frau'"):
        check_projects(permissions_of_role("viewer:project=frau"), PROJECTS)


def test_a_model_is_in_each_project_that_names_it():
    assert projects_of("fraud-a", {**PROJECTS, "web": ["fraud-a"]}) == ["fraud", "web"]
    assert projects_of("late", PROJECTS) == []
