"""Empty catalogues, made by the statements of one real migration: Alembic takes 0.1 s for each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest


def scripts_of(kind: str, said: list[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    """What a cursor is given: PostgreSQL takes statements without parameters in one round trip."""
    scripts: list[tuple[Any, ...]] = []
    for has_parameters, group in groupby(said, lambda one: bool(one[1])):
        if has_parameters:
            scripts += group
        elif kind == "postgresql":
            scripts.append((";\n".join(statement for statement, _ in group),))
        else:
            scripts += ((statement,) for statement, _ in group)
    return scripts


@pytest.fixture(scope="session", autouse=True)
def migrations_of_empty_catalogues() -> Iterator[None]:
    """Records what the first migration of an empty database says to it, and says it to the next.

    Once for each kind of database; catalogues of earlier schemas are really migrated.
    """
    from sqlalchemy import event, inspect

    from bascule.catalogue import migrations

    real, recorded = migrations.upgrade, {}

    def upgrade(connection: Any) -> None:
        kind = connection.dialect.name
        if inspect(connection).has_table("alembic_version"):
            real(connection)
        elif kind in recorded:
            cursor = connection.connection.cursor()
            for script, *parameters in recorded[kind]:
                cursor.execute(script, *parameters)
            cursor.close()
        else:
            said: list[tuple[str, Any]] = []

            def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any):
                if not statement.lstrip().startswith(("PRAGMA", "SELECT")):
                    said.append((statement, parameters))

            event.listen(connection, "before_cursor_execute", hear)
            real(connection)
            event.remove(connection, "before_cursor_execute", hear)
            recorded[kind] = scripts_of(kind, said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "upgrade", upgrade)
        yield
