"""Which permissions a role has, and which roles a provider's claim gives."""

import pytest

from bascule.core import Invalid
from bascule.security import permits
from bascule.security.keys import GRANTABLE, ON_MODELS
from bascule.security.roles import (
    ADMINISTRATOR,
    ROLES,
    in_words,
    permissions_of_role,
    permissions_of_roles,
    roles_of_claim,
)
from bascule.security.sessions import local_path


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"device"}))
def test_a_role_on_one_model_opens_no_other_model(role):
    permissions = permissions_of_role(f"{role}:late")

    assert permits(permissions, "read", "late")
    assert not any(permits(permissions, action, "other") for action in GRANTABLE)


def test_an_operator_deploys_and_does_not_approve():
    operator, approver = permissions_of_role("operator:late"), permissions_of_role("approver:late")

    assert permits(operator, "deploy", "late")
    assert not permits(operator, "approve", "late")
    assert permits(approver, "approve", "late")
    assert not permits(approver, "deploy", "late")


def test_a_device_reports_and_reads_nothing():
    device = permissions_of_role("device")

    assert [action for action in GRANTABLE if permits(device, action, "")] == ["report"]


def test_a_viewer_changes_nothing():
    viewer = permissions_of_role("viewer:*")

    assert [one for one in GRANTABLE if permits(viewer, one, "late")] == ["read"]


def test_an_administrator_of_all_may_do_everything_and_one_of_a_model_makes_no_keys():
    assert all(permits(ADMINISTRATOR, action, "") for action in GRANTABLE)
    of_one = permissions_of_role("admin:late")
    assert {one for one in GRANTABLE if permits(of_one, one, "late")} == ON_MODELS


def test_a_role_without_a_model_is_on_every_model():
    assert permissions_of_role("viewer") == permissions_of_role("viewer:*")


def test_roles_add_up_and_each_permission_is_there_once():
    both = permissions_of_roles(["operator:late", "approver:late"])

    assert permits(both, "deploy", "late")
    assert permits(both, "approve", "late")
    assert len(both) == len(set(both))


@pytest.mark.parametrize("text", ["", "owner:late", "viewer:", "viewer:../x", "Viewer:*"])
def test_what_is_no_role_is_refused_with_the_roles_that_are(text):
    with pytest.raises(Invalid) as raised:
        permissions_of_role(text)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        (["viewer:*", "staff", "operator:late"], ["viewer:*", "operator:late"]),
        ("viewer:* staff", ["viewer:*"]),
        (["viewer", "viewer"], ["viewer"]),
        (None, []),
        ({"viewer": True}, []),
        ([7, None, ["admin"]], []),
    ],
)
def test_values_of_a_claim_that_are_roles_count_and_others_give_nothing(claim, roles):
    assert roles_of_claim(claim, {}) == roles


def test_with_a_mapping_only_mapped_values_count():
    mapping = {"ml-team": ("viewer:*", "operator:late")}

    assert roles_of_claim(["ml-team", "admin"], mapping) == ["viewer:*", "operator:late"]
    assert roles_of_claim(["admin"], mapping) == []


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["admin"], "admin:*"),
        (
            ["operator:late", "approver:late", "reviewer:late"],
            "operator:late, approver:late, reviewer:late",
        ),
        (["operator:late"], "operator:late"),
        (["viewer:*", "approver:late"], "approver:late, read:*"),
        (["viewer:late"], "read:late"),
    ],
)
def test_permissions_are_told_by_the_roles_that_they_make_up(roles, words):
    told = in_words(permissions_of_roles(roles))

    assert sorted(told.split(", ")) == sorted(words.split(", "))


@pytest.mark.parametrize("path", ["/", "/models/late/2?with=1#card", "/history?by=ada%20b"])
def test_a_path_of_this_site_is_returned_to(path):
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example",
        "/\n/evil.example", "/\t/evil.example", "javascript:alert(1)", "models", " /models",
        "/é", "///evil.example",
    ],
)  # fmt: skip
def test_what_a_browser_may_read_as_another_site_is_not_returned_to(path):
    assert local_path(path) == "/"
