"""The facts of a version for documents: bundle, statements, history, traffic, settings.

A name of a fact is that of a section of the card (`quality`), of a kind of statement (`fairness`),
or one of those here. Without evidence a fact is absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bascule.bundle import Said, lineage_lines, read_manifest, sections
from bascule.bundle.disk import PASSPORT, Manifest, Statement
from bascule.catalogue import Catalogue, events
from bascule.core import NotFound
from bascule.documents import Block, Table, Text, anchor
from bascule.endpoints import EndpointStore
from bascule.monitoring.alerts import AlertStore
from bascule.monitoring.ledger import quoted
from bascule.release.compliance.drafting import Facts
from bascule.release.passports import claims_of
from bascule.release.rollouts import RolloutStore

if TYPE_CHECKING:
    from bascule.monitoring import Ledger
    from bascule.registry import Registry, Version

_MONITORED = timedelta(days=30)
_MAX_ROWS = 200
"""Of a table: the latest."""
_NAMES = {"explaining": "explanations"}
"""What documents call a kind of statement."""
_OF_CARD = frozenset((
    "gates", "trial", "quality", "parity", "cost", "calibration", "provenance", "training",
    "signature", "passport",
))  # fmt: skip


def gather(
    registry: Registry,
    version: Version,
    *,
    catalogue: Catalogue,
    approvals: Iterable[Mapping[str, Any]],
    ledger: Ledger,
    settings: Mapping[str, Mapping[str, Any]],
    open_bundle: Any,
    now: datetime,
) -> tuple[Manifest, Said, Facts]:
    """What is known of a version.

    Args:
        registry: Has it.
        version: The version.
        catalogue: Has plans, rollouts, alerts and the history of all.
        approvals: See `passports.claims_of`.
        ledger: Of the answers.
        settings: By section and name, without secrets; see `app.shown_settings`.
        open_bundle: Opens the bundle of a version of the model.
        now: The time.
    """
    manifest = read_manifest(registry.path_to_look_at(version), verify=False)
    statements = [each for each in registry.statements(version) if each.kind != "gates"]
    statements += [check.statement for check in registry.checks(version)]
    known, history = Said.of(statements), registry.history(version.model)
    claims = claims_of(
        manifest, statements, version, events=history, approvals=approvals,
        rollouts=RolloutStore(catalogue).rollouts(),
    )  # fmt: skip
    with catalogue.read() as connection:
        acts = events.find(connection, subject_name=version.model)
        erasures = events.find(connection, subject_kind="erasure")
    alerts = AlertStore(catalogue).alerts(resolved=True, model=version.model)
    watches = settings["alerts"]["watch"] == "on" or settings["alerts"]["receivers"]
    values: dict[str, Any] = {
        "version": {
            "version": version, "digest": version.digest,
            "pushed": f"{_cell(version.pushed_at)} UTC by {version.pushed_by}",
            **registry.tags(version),
        },
        "environment": dict(lineage_lines(claims["environment"])),
        "signatures": [
            {"at": _moment(each.at), "what": each.kind, "by": each.by}
            for each in statements if each.kind in ("signature", PASSPORT)
        ],
        "approvals": [act | {"at": _moment(act["at"])} for act in claims.get("approvals", ())],
        "rollouts": [
            verdict | {"ended_at": _moment(verdict["ended_at"])}
            for verdict in claims.get("rollouts", ())
        ] or "No rollout of this version has ended.",
        "history": [
            {"at": event.at, "what": event.sentence, "by": event.by, "why": event.reason}
            for event in history
        ],
        "acts": Counter(event.kind for event in acts),
        "robustness": [
            {"criterion": result["criterion"], "value": result["value"], "why": result["reason"]}
            for result in known.gates.get("results", ())
            if str(result["criterion"]).startswith(("robust_", "certified_"))
        ],
        "erasures": [
            {"at": act.at, "what": act.kind, "by": act.actor}
            for act in erasures if act.body.get("model") in (None, "", version.model)
        ] or "No erasure is recorded.",
        "endpoints": {
            endpoint.name: endpoint.answers
            for endpoint in EndpointStore(catalogue).endpoints()
            if str(version) in endpoint.current.plan.versions
        },
        "alerts": [
            {"since": alert.since, "state": alert.state, "what": alert.finding.sentence}
            for alert in alerts
        ] or (watches and "No alert is recorded."),
        **_traffic(ledger, version, open_bundle, now),
        **_settings(settings, manifest.name),
    }  # fmt: skip
    facts = {
        **{kind: _blocks(value) for kind, value in _statements(statements).items()},
        **{anchor(section): section.blocks for section in sections(manifest, known)},
        **{name: _blocks(value) for name, value in values.items() if value},
    }
    return manifest, known, facts


def _statements(statements: Sequence[Statement]) -> dict[str, Any]:
    """Each kind that the card has no section of: who said when, and the values of the latest."""
    latest = {statement.kind: statement for statement in statements}
    return {
        _NAMES.get(kind, kind): {
            "stated": f"{statement.at[:16]} UTC by {statement.by}",
            **dict(lineage_lines(statement.body)),
        }
        for kind, statement in latest.items() if kind not in _OF_CARD
    }  # fmt: skip


def _traffic(ledger: Ledger, version: Version, open_bundle: Any, now: datetime) -> dict[str, Any]:
    """Logs by day, gaps, and what monitoring says; nothing where nothing was recorded."""
    from bascule.monitoring.reporting import look_at

    days = ledger.rows_by_day(version.model, str(version.number))
    if not days:
        return {}
    first, last = min(days), max(days)
    span = (_moment(last) - _moment(first)).days + 1
    gaps = ledger.gaps()
    (counted,) = ledger.query(
        "SELECT count(DISTINCT caller) AS callers, count(DISTINCT id) FILTER (WHERE status >= 500) "
        f"AS errors FROM predictions WHERE model = {quoted(version.model)} "
        f"AND version = '{version.number}'"
    ).to_pylist()
    facts: dict[str, Any] = {
        "logs": {
            "first day": first, "last day": last,
            "rows, with failed requests": f"{sum(days.values()):,}",
            "rows a day, most": f"{max(days.values()):,}",
            "callers": counted["callers"], "requests that failed": counted["errors"],
        },
        "gaps": {
            "days without an answer": f"{span - len(days)} of {span}",
            "requests answered and not recorded": f"{sum(gap.requests for gap in gaps):,}",
            **{gap.found_at: f"{gap.requests:,} requests {gap.why}" for gap in gaps},
        },
    }  # fmt: skip
    with suppress(NotFound):
        overview = look_at(ledger.home, version.model, open_bundle, now=now, since=_MONITORED)
        facts["monitoring"] = repr(overview)
        facts["performance"] = overview.performance and repr(overview.performance)
    return facts


def _settings(settings: Mapping[str, Mapping[str, Any]], model: str) -> dict[str, Any]:
    monitoring, security, audit = settings["monitoring"], settings["security"], settings["audit"]
    kept = settings["privacy"]["retention_days"]
    return {
        "retention": {
            "days that answers and outcomes are kept": monitoring["retention_days"],
            **{f"days of {name}": days for name, days in kept.items()},
            "space at most, GB": monitoring["max_gb"],
            "share of requests that is kept": monitoring["keep"],
            "what is recorded": monitoring["ledger"],
        },
        "private-fields": {
            name: how for name, how in monitoring["private"].items()
            if "." not in name or name.startswith(f"{model}.")
        },
        "audit": audit["anchors"] and {"anchored at": audit["anchors"]},
        "access": {
            "callers need keys": security["callers"],
            "encrypted transport":
                bool(settings["serving"]["tls_certificate"]) or "no, or by a proxy",
            "client certificates": bool(settings["serving"]["tls_client_authority"]),
        },
        "release-rules": {
            "gates": settings["gates"]["criteria"],
            "gates are required": settings["registry"]["require_gates"],
            "keys that must sign": len(security["required_keys"]),
            "claims that are required": security["required_claims"],
            "acts that take a second person": audit["protected"],
            "rollouts need an approval": settings["rollouts"]["needs_approval"],
        },
    }  # fmt: skip


_moment = datetime.fromisoformat


def _blocks(value: Any) -> tuple[Block, ...]:
    """A text by its lines; records, or names with their values, as a table of the latest rows."""
    if isinstance(value, str):
        return tuple(Text(line) for line in value.splitlines() if line)
    heads, rows = ("", ""), [*value.items()] if isinstance(value, Mapping) else []
    if not rows:
        heads, rows = tuple(value[0]), [tuple(record.values()) for record in value]
    left_out = [Text(f"And {len(rows) - _MAX_ROWS:,} earlier ones.")] * (len(rows) > _MAX_ROWS)
    return (Table(heads, tuple(tuple(map(_cell, row)) for row in rows[-_MAX_ROWS:])), *left_out)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
