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
from bascule.bundle.disk import Manifest, Statement
from bascule.catalogue import Catalogue, events
from bascule.core import NotFound
from bascule.documents import Block, Line, Table, Text, anchor
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
        ledger: Of the answers.
        settings: By section and name, without secrets; see `app.shown_settings`.
        open_bundle: Opens the bundle of a version of the model.
        now: The time.
    """
    manifest = read_manifest(registry.path_to_look_at(version), verify=False)
    statements = [each for each in registry.statements(version) if each.kind != "gates"]
    statements += [check.statement for check in registry.checks(version)]
    known, history = Said.of(statements), registry.history(version.model)
    claims = claims_of(manifest, statements, history, RolloutStore(catalogue).rollouts(), version)
    environment = claims["environment"]
    watches = settings["alerts"]["watch"] == "on" or settings["alerts"]["receivers"]
    with catalogue.read() as connection:
        acts = events.find(connection, subject_name=version.model)
        erasures = [
            act for act in events.find(connection, subject_kind="erasure")
            if act.body.get("model") in (None, "", version.model)
        ]  # fmt: skip
    facts: dict[str, tuple[Block, ...]] = {
        **_statements(statements),
        **{anchor(section): section.blocks for section in sections(manifest, known)},
        "version": _pairs([
            ("version", str(version)), ("digest", version.digest),
            ("pushed", f"{version.pushed_at:%Y-%m-%d %H:%M} UTC by {version.pushed_by}"),
            *registry.tags(version).items(),
        ]),
        "environment": _pairs(environment.get("made_with", {}) | environment["requires"]),
        "signatures": _records(("at", "by"), claims.get("signatures", ())),
        "approvals": _records(("at", "alias", "by", "reason"), claims.get("approvals", ())),
        "rollouts": _records(
            ("ended_at", "endpoint", "state", "reason"), claims.get("rollouts", ()),
            empty="No rollout of this version has ended.",
        ),
        "history": _table(
            ("when", "what", "by", "why"),
            [
                (f"{event.at:%Y-%m-%d %H:%M}", event.sentence, event.by, event.reason)
                for event in history
            ],
        ),
        "acts": _pairs(Counter(event.kind for event in acts).items()),
        "robustness": _records(
            ("criterion", "value", "reason"), claims.get("robustness", {}).get("results", ())
        ),
        "erasures": _table(
            ("when", "what", "by"),
            [(f"{act.at:%Y-%m-%d}", act.kind, act.actor) for act in erasures],
            empty="No erasure is recorded.",
        ),
        "endpoints": _table(
            ("endpoint", "answers"),
            [
                (endpoint.name, endpoint.answers)
                for endpoint in EndpointStore(catalogue).endpoints()
                if str(version) in endpoint.current.plan.versions
            ],
        ),
        "alerts": _table(
            ("since", "state", "what"),
            [
                (f"{alert.since:%Y-%m-%d %H:%M}", alert.state, alert.finding.sentence)
                for alert in AlertStore(catalogue).alerts(resolved=True, model=version.model)
            ],
            empty="No alert is recorded." if watches else "",
        ),
        **_traffic(ledger, version, open_bundle, now),
        **_settings(settings, manifest.name),
    }  # fmt: skip
    return manifest, known, {name: blocks for name, blocks in facts.items() if blocks}


def _statements(statements: Sequence[Statement]) -> dict[str, tuple[Block, ...]]:
    """Each kind that the card has no section of: who said when, and the values of the latest."""
    latest = {statement.kind: statement for statement in statements}
    return {
        _NAMES.get(kind, kind): _pairs([
            ("stated", f"{statement.at[:16]} UTC by {statement.by}"),
            *lineage_lines(statement.body),
        ])
        for kind, statement in latest.items()
        if kind not in _OF_CARD
    }  # fmt: skip


def _traffic(
    ledger: Ledger, version: Version, open_bundle: Any, now: datetime
) -> dict[str, tuple[Block, ...]]:
    """Logs by day, gaps, and what monitoring says; nothing where nothing was recorded."""
    from bascule.monitoring.reporting import look_at

    days = ledger.rows_by_day(version.model, str(version.number))
    if not days:
        return {}
    first, last = min(days), max(days)
    span = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).days + 1
    gaps = ledger.gaps()
    of_version = (
        f"predictions WHERE model = {quoted(version.model)} AND version = '{version.number}'"
    )
    (counted,) = ledger.query(
        "SELECT count(DISTINCT caller) AS callers, count(DISTINCT id) FILTER (WHERE status >= 500) "
        f"AS errors FROM {of_version}"
    ).to_pylist()
    lost = [(gap.found_at[:16], f"{gap.requests:,} requests {gap.why}") for gap in gaps]
    facts = {
        "logs": _pairs([
            ("first day", first), ("last day", last),
            ("rows, with failed requests", f"{sum(days.values()):,}"),
            ("rows a day, most", f"{max(days.values()):,}"),
            ("callers", counted["callers"]), ("requests that failed", counted["errors"]),
        ]),
        "gaps": _pairs([
            ("days without an answer", f"{span - len(days)} of {span}"),
            ("requests answered and not recorded", f"{sum(gap.requests for gap in gaps):,}"),
            *lost[-_MAX_ROWS:],
        ]),
    }  # fmt: skip
    with suppress(NotFound):
        overview = look_at(ledger.home, version.model, open_bundle, now=now, since=_MONITORED)
        facts["monitoring"] = tuple(map(Text, filter(None, repr(overview).splitlines())))
        if overview.performance is not None:
            report = repr(overview.performance)
            facts["performance"] = tuple(map(Text, filter(None, report.splitlines())))
    return facts


def _settings(
    settings: Mapping[str, Mapping[str, Any]], model: str
) -> dict[str, tuple[Block, ...]]:
    monitoring, security = settings["monitoring"], settings["security"]
    serving, rules = settings["serving"], settings["registry"]
    audit, kept = settings.get("audit", {}), settings.get("privacy", {}).get("retention_days", {})
    private = {
        name: how for name, how in monitoring["private"].items()
        if "." not in name or name.startswith(f"{model}.")
    }  # fmt: skip
    return {
        "retention": _pairs([
            ("days that answers and outcomes are kept", monitoring["retention_days"]),
            *((f"days of {name}", days) for name, days in kept.items()),
            ("space at most, GB", monitoring["max_gb"]),
            ("share of requests that is kept", monitoring["keep"]),
            ("what is recorded", monitoring["ledger"]),
        ]),
        "private-fields": _pairs(private.items()),
        "audit": _pairs(("anchored at", place) for place in audit.get("anchors", ())),
        "access": _pairs([
            ("callers need keys", security["callers"]),
            ("encrypted transport", "yes" if serving["tls_certificate"] else "no, or by a proxy"),
            ("client certificates", _yes(serving["tls_client_authority"])),
        ]),
        "release-rules": _pairs([
            *(("gate", criterion) for criterion in settings["gates"]["criteria"]),
            ("gates are required", _yes(rules["require_gates"])),
            ("keys that must sign", len(security["required_keys"])),
            *(("claim that is required", claim) for claim in security["required_claims"]),
            *(("act that takes a second person", act) for act in audit.get("protected", ())),
            ("rollouts need an approval", _yes(settings["rollouts"]["needs_approval"])),
        ]),
    }  # fmt: skip


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _pairs(rows: Iterable[tuple[object, object]] | Mapping[str, object]) -> tuple[Block, ...]:
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    return _table(("", ""), [(str(name), str(value)) for name, value in pairs])


def _records(
    names: Sequence[str], rows: Iterable[Mapping[str, Any]], empty: str = ""
) -> tuple[Block, ...]:
    cells = [tuple(str(row.get(name, "")) for name in names) for row in rows]
    return _table(tuple(names), cells, empty)


def _table(
    heads: tuple[str, ...], rows: Sequence[tuple[Line, ...]], empty: str = ""
) -> tuple[Block, ...]:
    """The latest rows; `empty` is the fact that there are none, where that is one."""
    if not rows:
        return (Text(empty),) if empty else ()
    table = Table(heads, tuple(rows[-_MAX_ROWS:]))
    left_out = len(rows) - _MAX_ROWS
    return (table, Text(f"And {left_out:,} earlier ones.")) if left_out > 0 else (table,)
