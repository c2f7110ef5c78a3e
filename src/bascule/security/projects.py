"""Projects: names for groups of models, in permissions (`deploy:project=fraud`) and in usage. Pure.

Keys and sessions are kept with the name of the project. Its models, which settings say, are put in
its place when keys and sessions are read to decide; a project that is gone allows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bascule.core import Invalid
from bascule.security.keys import Permission, matches

Projects = Mapping[str, Sequence[str]]
"""By name, the names and the prefixes (`fraud-*`) of models and endpoints."""


def projects_of(model: str, projects: Projects) -> list[str]:
    """The projects that a model is in."""
    return [name for name, of in projects.items() if any(matches(each, model) for each in of)]


def in_force(permissions: Iterable[Permission], projects: Projects) -> tuple[Permission, ...]:
    """The permissions with the models of each project in its place."""
    found: list[Permission] = []
    for one in permissions:
        models = projects.get(one.project, ()) if one.project else (one.model,)
        found += [Permission(one.action, each) for each in models]
    return tuple(found)


def check_projects(permissions: Iterable[Permission], projects: Projects) -> None:
    """Raise `Invalid` where a permission names a project that is not there."""
    for permission in permissions:
        if permission.project:
            check_project(permission.project, projects)


def check_project(name: str, projects: Projects) -> None:
    """Raise `Invalid` where there is no such project."""
    if name not in projects:
        raise Invalid(
            f"there is no project {name!r}",
            hint=f"the section [projects] of bascule.toml has {', '.join(projects) or 'none'}",
        )
