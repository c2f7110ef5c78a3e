"""Devices, their reports, and rollouts over them."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

from bascule.catalogue.schema import UtcTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_text = partial(sa.Column, type_=sa.Text(), nullable=False)
_count = partial(sa.Column, type_=sa.BigInteger(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("name", sa.Text, primary_key=True),
        _text("group"),
        _text("key"),
        sa.Column("enrolled_at", UtcTime, nullable=False),
        _text("enrolled_by"),
        sa.Column("revoked_at", UtcTime),
        _count("sequence"),
        sa.Column("seen_at", UtcTime),
        *map(_text, ("version", "digest")),
        _count("bytes_received"),
        _text("stuck_on"),
        sa.Column("stuck_since", UtcTime),
        _text("stuck_reason"),
    )
    op.create_index(op.f("ix_devices_group"), "devices", ["group"])
    op.create_table(
        "device_reports",
        sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("received_at", UtcTime, nullable=False),
        *map(_text, ("at", "event", "version", "digest", "reason")),
        *map(_count, ("requests", "errors")),
    )
    op.create_index(op.f("ix_device_reports_received_at"), "device_reports", ["received_at"])
    op.create_table(
        "device_rollouts",
        sa.Column("id", sa.Text, primary_key=True),
        _text("group"),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("changes", sa.Integer, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        *map(_text, ("created_by", "reason")),
        sa.Column("ended_at", UtcTime),
    )
    op.create_index(op.f("ix_device_rollouts_group"), "device_rollouts", ["group"])
