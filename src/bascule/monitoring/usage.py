"""Usage and cost by caller, model and project, from the rows of the ledger, by UTC day.

Where the ledger keeps a sample, each request stands for those that it did not keep. Shadows are not
counted, because no caller asked for them, nor batch runs, of which only some rows are recorded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from bascule.core import BasculeError, Invalid
from bascule.documents import csv_line
from bascule.monitoring.ledger import By, Usage, UsageLine
from bascule.monitoring.terms import Terms
from bascule.security import check_project, projects_of

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Ledger
    from bascule.security import Key

MAX_DAYS = 400
_USUAL_DAYS = 30
_WITHOUT = {"caller": "without a key", "project": "without a project", "model": ""}
_EPOCH = date(1970, 1, 1)
_QUERY = """
WITH large AS (
    SELECT id, time, max(row) + 1 AS row_count FROM predictions WHERE row >= 1024 GROUP BY id, time
), weighted AS (
    SELECT time, coalesce(caller, '') AS caller, model, status, latency_s, kept_share,
        CASE WHEN row_count > 0 THEN 1 / row_count WHEN row = 0 THEN 1 ELSE 0 END / kept_share
            AS requests
    FROM predictions LEFT JOIN large USING (id, time)
    WHERE time >= '{since}T00:00:00+00:00'::TIMESTAMPTZ
        AND time < '{end}T00:00:00+00:00'::TIMESTAMPTZ
        AND coalesce(arm, '') <> 'shadow' AND coalesce(protocol, '') <> 'batch' AND kept_share > 0
)
SELECT (epoch_us(time) // 86400000000)::INTEGER AS day, caller, model,
    round(sum(requests))::BIGINT,
    coalesce(round(sum(1 / kept_share) FILTER (status < 400)), 0)::BIGINT,
    coalesce(round(sum(requests) FILTER (status BETWEEN 400 AND 499)), 0)::BIGINT,
    coalesce(round(sum(requests) FILTER (status >= 500)), 0)::BIGINT,
    sum(requests * latency_s)
FROM weighted GROUP BY day, caller, model ORDER BY day, caller, model
"""
"""A request is an id at a time, because clients repeat ids. Row 0 stands for a request of up to
1,024 rows, all of which are kept; of a larger one, each of its 1,024 kept rows for a part. To group
all rows by id takes 2.2 GB for 9 million of them."""


class UsageAsked(NamedTuple):
    """Usage by caller, model or project, of the UTC days from `since` to `until`, both included.

    `project`: of its models alone; empty for all.
    """

    by: By
    since: date
    until: date
    project: str

    @classmethod
    def of(cls, by: By, since: date | None, until: date | None, project: str = "") -> UsageAsked:
        """Of 30 days to today where a day is None. Raises `Invalid`."""
        today = datetime.now(UTC).date()
        last = min(until or today, today)
        first = since or last - timedelta(days=min(_USUAL_DAYS, last.toordinal()) - 1)
        if not 0 <= (last - first).days < MAX_DAYS:
            raise Invalid(f"since: {first} is not in the {MAX_DAYS} days that end with {last}")
        return cls(by, first, last, project)


class Count(NamedTuple):
    """What a caller asked of a model on a day; the figures are those of `UsageLine`."""

    day: date
    caller: str
    model: str
    requests: int
    rows: int
    refused: int
    errors: int
    server_s: float


def read_usage(
    ledger: Ledger, asked: UsageAsked, terms: Terms, read_keys: Callable[[], Iterable[Key]],
    sees: Callable[[str], bool] = lambda _: True,
) -> Usage:  # fmt: skip
    """Usage by a ledger; see `usage_of`. Raises as that and `Ledger.ask` do.

    Where the catalogue with the keys is away, lines have the ids of keys as names.
    """
    days, names = (f"{asked.since}", f"{asked.until}"), dict[str, str]()
    sql = _QUERY.format(since=asked.since, end=asked.until + timedelta(days=1))
    rows = ledger.ask(lambda connection: connection.sql(sql).fetchall(), days=days, is_ours=True)
    counts = [Count(_EPOCH + timedelta(days=day), *figures) for day, *figures in rows]
    if any(count.caller for count in counts):
        with suppress(BasculeError):
            names = {key.id: key.name for key in read_keys()}
    lost = sum(one.requests for one in ledger.gaps() if days[0] <= one.found_at[:10] <= days[1])
    note = f"{lost:,} requests are not in the ledger, and not in these figures"
    return usage_of(counts, asked, terms, names, [note] if lost else [], sees)


def usage_of(
    counts: Sequence[Count], asked: UsageAsked, terms: Terms, names: Mapping[str, str],
    notes: Sequence[str] = (), sees: Callable[[str], bool] = lambda _: True,
) -> Usage:  # fmt: skip
    """The lines, total and costs of counts. Pure. `sees`: whether a model is shown.

    Raises:
        Invalid: There is no such project.
    """
    if asked.project:
        check_project(asked.project, terms.projects)
    seen = {count.model for count in counts if sees(count.model)}
    projects = {model: projects_of(model, terms.projects) for model in seen}
    shown = [
        count for count in counts
        if count.model in seen and asked.project in ("", *projects[count.model])
    ]  # fmt: skip
    whole, by_day = defaultdict(list), defaultdict(list)
    for count in shown:
        groups = {
            "caller": [count.caller], "model": [count.model],
            "project": [asked.project] if asked.project else projects[count.model] or [""],
        }  # fmt: skip
        for group in groups[asked.by]:
            whole[group].append(count)
            by_day[count.day, group].append(count)

    def line(group: str, members: Sequence[Count], day: date | None = None) -> UsageLine:
        name = (names if asked.by == "caller" else {}).get(group, group) or _WITHOUT[asked.by]
        costs = [prices.cost(one.model, one.rows, one.server_s) for one in members]
        return UsageLine(
            group, name, day, sum(one.requests for one in members),
            sum(one.rows for one in members), sum(one.refused for one in members),
            sum(one.errors for one in members), sum(one.server_s for one in members),
            sum(costs) if prices.are_set else None,
        )  # fmt: skip

    prices, is_known = terms.prices, bool(counts) or not terms.unknown
    lines = [line(group, members) for group, members in whole.items()]
    return Usage(
        asked.by, asked.since, asked.until, prices.currency if prices.are_set else "",
        total=line("total", shown) if is_known else None,
        lines=sorted(lines, key=lambda one: (-one.requests, one.name, one.id)),
        days=[line(group, by_day[day, group], day) for day, group in sorted(by_day)],
        notes=[*notes, *filter(None, (terms.unknown,))],
    )  # fmt: skip


def as_csv(usage: Usage) -> Iterator[str]:
    """Usage by day as a table for spreadsheets. Of callers it has ids too: names can be reused."""
    ids = ["caller_id"] if usage.by == "caller" else []
    cost = [f"cost_{usage.currency}"] if usage.currency else []
    figures = ("requests", "rows", "refused", "errors", "server_seconds")
    yield csv_line(["day_utc", *ids, usage.by, *figures, *cost])
    for one in usage.days:
        cells = [one.requests, one.rows, one.refused, one.errors, round(one.server_s, 3)]
        costs = [] if one.cost is None else [round(one.cost, 6)]
        yield csv_line([f"{one.day}", *([one.id] if ids else []), one.name, *cells, *costs])
