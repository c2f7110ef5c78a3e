"""The tables of devices, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("group", sa.Text, nullable=False, index=True),
    # The id of its key.
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("enrolled_at", UtcTime, nullable=False),
    sa.Column("enrolled_by", sa.Text, nullable=False),
    sa.Column("revoked_at", UtcTime),
    # The highest number of a report that is here.
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("seen_at", UtcTime),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("bytes_received", sa.BigInteger, nullable=False),
    # The version that it refused or left, until it installs another.
    sa.Column("stuck_on", sa.Text, nullable=False),
    sa.Column("stuck_since", UtcTime),
    sa.Column("stuck_reason", sa.Text, nullable=False),
)

reports = sa.Table(
    "device_reports",
    metadata,
    sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("received_at", UtcTime, nullable=False, index=True),
    # By the device's clock, which may be wrong: no decision reads it.
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("errors", sa.BigInteger, nullable=False),
)

rollouts = sa.Table(
    "device_rollouts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("group", sa.Text, nullable=False, index=True),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    # How often the state has changed: a change from an older state is refused.
    sa.Column("changes", sa.Integer, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    # When the channel had its last word; null while the controller must still look.
    sa.Column("ended_at", UtcTime),
)
