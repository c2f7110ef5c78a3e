"""What the agent has done in a process of its own, which ends: `python -m bascule.edge.errands`.

The process that serves stays small and alive: it loads no client, and a model that crashes its
runtime ends this process alone. Downloads have such a process too; see `fetching`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bascule.bundle import read_manifest
from bascule.bundle.disk import PASSPORT, check_claims, read_statements
from bascule.core import Unavailable, Untrusted, answer_parent
from bascule.edge.golden import check_golden
from bascule.edge.slots import Home

_SEND_S = 30.0


def prove(question: Mapping[str, Any]) -> dict[str, Any]:
    """Verify what was fetched, its passport's claims and its recorded answers: it gets its slot.

    A clock that is behind the signatures is not believed.
    """
    home, digest, required = Home(question["home"]), question["digest"], question["claims"]
    folder = home.incoming(digest)
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise Untrusted(f"the bundle is {manifest.digest}, and {digest} was to come")
    passports = read_statements(folder, PASSPORT)
    now = max([datetime.now(UTC), *(datetime.fromisoformat(one.at) for one in passports)])
    keys = [Path(key) for key in question["keys"]]
    check_claims(passports, digest, keys, required, about=manifest.name, now=now)
    checked = check_golden(folder)
    home.fill_slot(digest)
    return checked


def send(question: Mapping[str, Any]) -> dict[str, Any]:
    """Send reports, and return as `sequence` the highest number that the server has now."""
    import httpx

    reports = [json.loads(Path(file).read_bytes()) for file in question["reports"]]
    try:
        reply = httpx.post(
            f"{question['server'].rstrip('/')}/api/v1/edge/reports",
            json={"reports": reports},
            headers={"Authorization": f"Bearer {question['key']}"},
            timeout=_SEND_S,
        )
        reply.raise_for_status()
        return {"sequence": int(reply.json()["sequence"])}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as problem:
        raise Unavailable(f"the server took no reports: {problem}") from None


if __name__ == "__main__":
    answer_parent(lambda question: {"prove": prove, "send": send}[question["errand"]](question))
