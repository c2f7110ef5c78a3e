"""The tables of devices, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

_text = partial(sa.Column, type_=sa.Text, nullable=False)
_count = partial(sa.Column, type_=sa.BigInteger, nullable=False)
_moment = partial(sa.Column, type_=UtcTime, nullable=False)

devices = sa.Table(
    "devices",
    metadata,
    _text("name", primary_key=True),
    _text("group", index=True),
    _text("key"),
    _moment("enrolled_at"),
    _text("enrolled_by"),
    sa.Column("revoked_at", UtcTime),
    # The highest number of a report that is here.
    _count("sequence"),
    sa.Column("seen_at", UtcTime),
    *map(_text, ("version", "digest")),
    _count("bytes_received"),
    _text("stuck_on"),
    sa.Column("stuck_since", UtcTime),
    _text("stuck_reason"),
)

reports = sa.Table(
    "device_reports",
    metadata,
    sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
    _count("sequence", primary_key=True, autoincrement=False),
    _moment("received_at", index=True),
    # `at` is by the device's clock, which may be wrong: no decision reads it.
    *map(_text, ("at", "event", "version", "digest", "reason")),
    *map(_count, ("requests", "errors")),
    # Rows with what they were answered, and how much was dropped before: by kind.
    sa.Column("sample", sa.JSON(none_as_null=True)),
    sa.Column("dropped", sa.JSON(none_as_null=True)),
)

windows = sa.Table(
    "device_windows",
    metadata,
    *(_text(name, primary_key=True) for name in ("version", "group", "day")),
    _moment("changed_at"),
    sa.Column("profile", sa.JSON, nullable=False),
)

rollouts = sa.Table(
    "device_rollouts",
    metadata,
    _text("id", primary_key=True),
    _text("group", index=True),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    # How often the state has changed: a change from an older state is refused.
    sa.Column("changes", sa.Integer, nullable=False),
    _moment("created_at"),
    _text("created_by"),
    # When the channel had its last word; null while the controller must still look.
    sa.Column("ended_at", UtcTime),
)
