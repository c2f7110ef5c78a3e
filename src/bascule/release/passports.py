"""What a passport claims: gathered from statements, history and rollouts, and signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.bundle.disk import (
    ENVIRONMENT,
    ORIGINAL,
    PASSPORT,
    Manifest,
    Statement,
    read_manifest,
    sign_passport,
    write_statement,
)
from bascule.core import canonical_json, sha256_bytes

if TYPE_CHECKING:
    from bascule.registry import Event, ModelRegistry, Version
    from bascule.release.rollouts import StoredRollout

_OWN = frozenset(("parity", "gates", "provenance", "training", "calibration", PASSPORT))
"""Kinds that have a section of the claims, or hold rows' hashes alone."""
_MAX_BODY_BYTES = 65_536
"""A larger statement is named by its digest alone."""


def claims_of(
    manifest: Manifest,
    statements: Sequence[Statement],
    events: Iterable[Event] = (),
    rollouts: Iterable[StoredRollout] = (),
    version: Version | None = None,
) -> dict[str, Any]:
    """The claims that the evidence carries; what is not there is absent. Pure.

    Args:
        manifest: Of the bundle.
        statements: Of the bundle; of several of a kind the last counts.
        events: The history of its model.
        rollouts: Those of any version.
        version: What the registry calls it; None for a folder.
    """
    latest = {statement.kind: statement for statement in statements}
    origin = latest["provenance"].body if "provenance" in latest else {}
    claims = {
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
        "gates": (gates := _dated(latest.get("gates"))),
        "robustness": _robustness(gates),
        "statements": {
            kind: _dated(statement) for kind, statement in latest.items()
            if kind not in _OWN and kind != "signature"
        },
        "signatures": _signatures(statements),
        "approvals": _approvals(events, version),
        "rollouts": _verdicts(rollouts, version),
        "evidence": [
            {"kind": each.kind, "at": each.at, "by": each.by, "sha256": _digest(each)}
            for each in statements if each.kind != PASSPORT
        ],
    }  # fmt: skip
    return {name: part for name, part in claims.items() if part}


def write_passport(
    path: Path,
    claims: Mapping[str, Any],
    private_key: Path,
    *,
    password: str | None = None,
    registry: ModelRegistry | None = None,
    version: Version | None = None,
    expires: timedelta | None = None,
    now: datetime,
    by: str,
) -> Statement:
    """Sign claims about the bundle at `path`, and keep the passport where the bundle is kept.

    A version on a server gets it by another push of the same bundle, which adds statements alone.

    Raises:
        Untrusted: A byte of the bundle was altered. Nothing is signed.
        Invalid: The key cannot be read, or the passport cannot be written.
    """
    from bascule.registry import Registry

    expires_at = None if expires is None else (now + expires).isoformat()
    dated = {**claims, "issued_at": now.isoformat(), "issued_by": by, "expires_at": expires_at}
    body = sign_passport(read_manifest(path), dated, private_key, password=password)
    if isinstance(registry, Registry) and version is not None:
        return registry.add_statement(version, PASSPORT, body, at=now, by=by)
    written = write_statement(path, PASSPORT, body, at=now, by=by)
    if registry is not None and version is not None:
        registry.push(path, by=by)
    return written


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
    chosen = [programs.get(program.name) for program in manifest.programs]
    if None in chosen:
        return {}
    passed = all(parity["passed"] for parity in chosen if parity)
    return {"passed": passed, "programs": programs}


def _robustness(gates: Mapping[str, Any]) -> dict[str, Any]:
    """The gates of it: `robust_accuracy[linf=0.1] >= 0.8`, `certified_accuracy[...]`."""
    results = [
        result for result in gates.get("results", ())
        if str(result["criterion"]).startswith(("robust_", "certified_"))
    ]  # fmt: skip
    passed = all(result["passed"] for result in results)
    return {"passed": passed, "results": results} if results else {}


def _dated(statement: Statement | None) -> dict[str, Any]:
    if statement is None:
        return {}
    is_large = len(canonical_json(statement.body)) > _MAX_BODY_BYTES
    body = {"sha256": _digest(statement)} if is_large else dict(statement.body)
    return {**body, "at": statement.at, "by": statement.by}


def _signatures(statements: Sequence[Statement]) -> list[dict[str, Any]]:
    return [{"at": each.at, "by": each.by} for each in statements if each.kind == "signature"]


def _approvals(events: Iterable[Event], version: Version | None) -> list[dict[str, Any]]:
    """Moves of an alias to the version, and what other rooms approved."""
    return [
        {
            "act": event.kind, "alias": event.alias, "at": event.at.isoformat(), "by": event.by,
            "reason": event.reason,
        }
        for event in events
        if version is not None and event.number == version.number
        and (event.kind == "alias_moved" or "approved" in event.kind)
    ]  # fmt: skip


def _verdicts(rollouts: Iterable[StoredRollout], version: Version | None) -> list[dict[str, Any]]:
    """The rollouts of the version that ended, the latest last."""
    ended = [
        (stored.ended_at, stored) for stored in rollouts
        if stored.ended_at is not None and stored.rollout.candidate == str(version)
    ]  # fmt: skip
    return [
        {
            "rollout": stored.rollout.id, "endpoint": stored.rollout.endpoint,
            "state": stored.state, "passed": stored.state in ("promoted", "passed"),
            "ended_at": ended_at.isoformat(),
            "reason": "" if stored.latest is None else stored.latest.sentence,
        }
        for ended_at, stored in sorted(ended, key=lambda pair: pair[0])
    ]  # fmt: skip


def _digest(statement: Statement) -> str:
    return sha256_bytes(canonical_json(statement.to_json()))
