"""The version of this release: one for both distributions, defined in `bascule_client.version`."""

from __future__ import annotations

from bascule_client.version import VERSION as VERSION
