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

_text = partial(sa.Column, type_=sa.Text, nullable=False)
_count = partial(sa.Column, type_=sa.BigInteger, nullable=False)
_moment = partial(sa.Column, type_=UtcTime)


def upgrade() -> None:
    op.create_table(
        "devices", _text("name", primary_key=True), *map(_text, ("group", "key")),
        _moment("enrolled_at", nullable=False), _text("enrolled_by"), _moment("revoked_at"),
        _count("sequence"), _moment("seen_at"), *map(_text, ("version", "digest")),
        _count("bytes_received"), _text("stuck_on"), _moment("stuck_since"), _text("stuck_reason"),
    )  # fmt: skip
    op.create_table(
        "device_reports",
        sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
        _count("sequence", primary_key=True, autoincrement=False),
        _moment("received_at", nullable=False),
        *map(_text, ("at", "event", "version", "digest", "reason")),
        *map(_count, ("requests", "errors")),
        sa.Column("sample", sa.JSON), sa.Column("dropped", sa.JSON),
    )  # fmt: skip
    op.create_table(
        "device_windows",
        *(_text(name, primary_key=True) for name in ("version", "group", "day")),
        _moment("changed_at", nullable=False), sa.Column("profile", sa.JSON, nullable=False),
    )  # fmt: skip
    op.create_table(
        "device_rollouts", _text("id", primary_key=True), _text("group"),
        sa.Column("plan", sa.JSON, nullable=False), sa.Column("state", sa.JSON, nullable=False),
        sa.Column("changes", sa.Integer, nullable=False), _moment("created_at", nullable=False),
        _text("created_by"), _moment("ended_at"),
    )  # fmt: skip
    op.create_index(op.f("ix_devices_group"), "devices", ["group"])
    op.create_index(op.f("ix_device_reports_received_at"), "device_reports", ["received_at"])
    op.create_index(op.f("ix_device_rollouts_group"), "device_rollouts", ["group"])
    # Each device has a key, and a new key asks for those of its name.
    op.create_index(op.f("ix_keys_name"), "keys", ["name"])
