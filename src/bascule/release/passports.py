"""What a passport claims: gathered from statements, history, approvals and rollouts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bascule.bundle.disk import ENVIRONMENT, ORIGINAL, PASSPORT, Manifest, Statement
from bascule.core import canonical_json, sha256_bytes

if TYPE_CHECKING:
    from bascule.registry import Event, Version
    from bascule.release.rollouts import StoredRollout

_NOT_COPIED = frozenset((
    "parity", "gates", "provenance", "training", "calibration", "signature", PASSPORT,
))  # fmt: skip
"""Kinds that have a section of the claims, or hold rows' hashes alone."""
_MAX_BODY_BYTES = 65_536
"""A larger statement is named by its digest alone."""


def claims_of(
    manifest: Manifest,
    statements: Sequence[Statement],
    version: Version | None = None,
    *,
    events: Iterable[Event] = (),
    approvals: Iterable[Mapping[str, Any]] = (),
    rollouts: Iterable[StoredRollout] = (),
) -> dict[str, Any]:
    """The claims that the evidence carries; what is not there is absent. Pure.

    Args:
        manifest: Of the bundle.
        statements: Of the bundle; of several of a kind the last counts.
        version: What the registry calls it; None for a folder.
        events: The history of its model.
        approvals: Fields of `control.Approval`, of any act.
        rollouts: Those of any version.
    """
    latest = {statement.kind: statement for statement in statements}
    origin = latest["provenance"].body if "provenance" in latest else {}
    claims: dict[str, Any] = {
        "bundle": {
            "name": manifest.name, "version": str(version or ""), "digest": manifest.digest,
            "bytes": manifest.size_bytes, "flavor": manifest.flavor, "task": manifest.task,
            "serves": manifest.serves,
        },
        "data": {
            name: origin[name]
            for name in ("train", "test", "calibration", "git", "lineage") if origin.get(name)
        },
        "environment": _environment(manifest, origin),
        "parity": _parity(manifest, statements),
        "gates": _dated(latest["gates"]) if "gates" in latest else {},
        "statements": {
            kind: _dated(statement)
            for kind, statement in latest.items() if kind not in _NOT_COPIED
        },
    }  # fmt: skip
    if version is not None:
        claims["approvals"] = _approvals(events, approvals, version)
        claims["rollouts"] = _verdicts(rollouts, str(version))
    return {name: part for name, part in claims.items() if part}


def _environment(manifest: Manifest, origin: Mapping[str, Any]) -> dict[str, Any]:
    lock = manifest.files.get(ENVIRONMENT)
    return {
        "requires": dict(manifest.original.requires),
        **({"made_with": origin["made_with"]} if origin.get("made_with") else {}),
        **({"lock_sha256": lock.sha256} if lock else {}),
    }


def _parity(manifest: Manifest, statements: Sequence[Statement]) -> dict[str, Any]:
    """By program; `passed` is of all that may be chosen. The original equals itself."""
    programs = {
        str(each.body["program"]): {
            name: each.body[name] for name in ("passed", "max_difference", "tolerance", "rows")
        }
        for each in statements if each.kind == "parity"
    }  # fmt: skip
    if manifest.serves == ORIGINAL:
        return {"passed": True, "programs": programs}
    chosen = {program.name for program in manifest.programs}
    if not chosen <= programs.keys():
        return {}
    return {"passed": all(programs[name]["passed"] for name in chosen), "programs": programs}


def _dated(statement: Statement) -> dict[str, Any]:
    content = canonical_json(statement.body)
    is_large = len(content) > _MAX_BODY_BYTES
    body = {"sha256": sha256_bytes(content)} if is_large else statement.body
    return {**body, "at": statement.at, "by": statement.by}


def _approvals(
    events: Iterable[Event], approvals: Iterable[Mapping[str, Any]], version: Version
) -> list[dict[str, str]]:
    """Moves of an alias to the version, and acts on it that took a second person."""
    moves = [
        (event.at, f"{event.kind} {event.alias}", event.by, "", event.reason)
        for event in events if event.kind == "alias_moved" and event.number == version.number
    ]  # fmt: skip
    approved = [
        (done["at"], done["call"], done["by"], done["decided_by"], "")
        for done in approvals if done["state"] == "done" and _is_about(version, done)
    ]  # fmt: skip
    return [
        {"at": at.isoformat(), "act": act, "by": by, "approved_by": approver, "reason": reason}
        for at, act, by, approver, reason in sorted(moves + approved)
    ]


def _is_about(version: Version, done: Mapping[str, Any]) -> bool:
    if done["thing"].startswith(f"alias:{version.model}@"):
        return bool(json.loads(done["content"] or "{}").get("number") == version.number)
    return f'"{version}"' in done["content"]  # a deployment names it


def _verdicts(rollouts: Iterable[StoredRollout], candidate: str) -> list[dict[str, Any]]:
    """The rollouts of the version that ended, the latest last."""
    verdicts = [
        {
            "rollout": stored.rollout.id, "endpoint": stored.rollout.endpoint,
            "state": stored.state, "passed": stored.state in ("promoted", "passed"),
            "ended_at": stored.ended_at.isoformat(),
            "reason": "" if stored.latest is None else stored.latest.sentence,
        }
        for stored in rollouts
        if stored.ended_at is not None and stored.rollout.candidate == candidate
    ]  # fmt: skip
    return sorted(verdicts, key=lambda verdict: verdict["ended_at"])
