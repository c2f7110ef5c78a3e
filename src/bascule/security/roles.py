"""Roles of people: names for groups of permissions. Pure.

A role is on one model or endpoint, `operator:late`, on those of a prefix, `operator:team-*`, or of
a project, `operator:project=fraud`, or on all of them, `viewer:*`. Nothing but the permissions of a
role decides what it allows, so a role and a key with the same permissions open the same routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bascule.core import Invalid
from bascule.security.keys import ANY, GRANTABLE, ON_MODELS, Action, Permission, check_models

ROLES: Mapping[str, tuple[Action, ...]] = {
    "viewer": ("read",),
    "operator": ("read", "infer", "test", "download", "write", "manage", "deploy", "outcome"),
    "approver": ("read", "approve"),
    "reviewer": ("read", "review"),
    "device": ("report",),
    "admin": tuple(action for action in GRANTABLE if action in ON_MODELS),
}
"""The actions of each role on its model. `admin:*` adds the actions that are on no model: `metrics`
and `keys`. An operator deploys and does not approve: four eyes take two people."""


def permissions_of_role(text: str) -> tuple[Permission, ...]:
    """The permissions of `operator:late` or `viewer:*`; a role alone is on every model.

    Raises:
        Invalid: There is no such role, or the model has no possible name.
    """
    role, colon, model = text.partition(":")
    if role not in ROLES:
        raise Invalid(
            f"role {text!r}: {role!r} is no role",
            hint=f"roles are {', '.join(ROLES)}; write for example operator:late or viewer:*",
        )
    model = model if colon else ANY
    check_models(model)
    on_models = tuple(Permission(action, model) for action in ROLES[role])
    if role != "admin" or model != ANY:
        return on_models
    return on_models + tuple(Permission(a) for a in GRANTABLE if a not in ON_MODELS)


def permissions_of_roles(texts: Iterable[str]) -> tuple[Permission, ...]:
    """The permissions of several roles, each once; raises `Invalid`."""
    return tuple(dict.fromkeys(one for text in texts for one in permissions_of_role(text)))


def in_words(permissions: Iterable[Permission]) -> str:
    """Permissions in few words: the roles that they make up, then those that are left."""
    every = list(dict.fromkeys(permissions))
    said, told = [], set[Permission]()
    for role in ("admin", "operator", "approver", "reviewer"):
        for model in dict.fromkeys(one.model for one in every):
            whole = set(permissions_of_role(f"{role}:{model}"))
            if whole <= set(every) and not whole <= told:
                said.append(f"{role}:{model}")
                told |= whole
    return ", ".join([*said, *(str(one) for one in every if one not in told)])


ADMINISTRATOR = permissions_of_role("admin")


def roles_of_claim(claim: Any, mapping: Mapping[str, Iterable[str]]) -> list[str]:
    """The roles that a provider's claim names.

    Args:
        claim: A text, a list of texts, or None where the provider sent no such claim. What is of
            another type names nothing.
        mapping: Roles by value of the claim. Empty: values that are roles themselves count.

    An unknown value gives no role and is no error: providers send all groups of a person.
    """
    values = claim.split() if isinstance(claim, str) else claim
    if not isinstance(values, list):
        return []
    named = [one for one in values if isinstance(one, str)]
    if mapping:
        return list(dict.fromkeys(role for one in named for role in mapping.get(one, ())))
    return list(dict.fromkeys(one for one in named if _is_role(one)))


def _is_role(text: str) -> bool:
    try:
        permissions_of_role(text)
    except Invalid:
        return False
    return True
