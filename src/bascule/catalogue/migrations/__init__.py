"""The way from every earlier schema of the catalogue to this one: forward only, all or nothing.

Imported only when a catalogue is made or is older than this release.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from bascule.catalogue import schema
from bascule.core import VERSION

FOLDER = Path(__file__).parent


def upgrade(connection: sa.Connection) -> None:
    """Run what is missing, inside the transaction that `connection` is in."""
    migrate(connection, schema.HEAD)
    connection.execute(
        sa.insert(schema.releases).values(
            revision=schema.HEAD, release=VERSION, at=datetime.now(UTC), floor=schema.FLOOR
        )
    )


def migrate(connection: sa.Connection, revision: str) -> None:
    """Run the migrations up to `revision` alone, and record no release."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
