"""How one version, and one line of history, are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bascule.bundle import gates_table, lineage_lines
from bascule.cli.baseline import baseline_blocks
from bascule.cli.brief import numbered
from bascule.cli.screen import note, print_blocks, print_table, when
from bascule.documents import Block, Table, Text

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.bundle import Bundle
    from bascule.bundle.disk import Statement
    from bascule.core import Field
    from bascule.registry import Event, Version

_SHOWN_ROWS = 20


def print_bundle(
    bundle: Bundle,
    version: Version | None,
    statements: Sequence[Statement],
    others: Sequence[Version],
) -> None:
    """One version: identity, what it takes and returns, parity, cost, gates."""
    print_blocks(*_blocks(bundle, version, statements, others))


def _blocks(
    bundle: Bundle,
    version: Version | None,
    statements: Sequence[Statement],
    others: Sequence[Version],
) -> Iterator[Block]:
    latest = {one.kind: one.body for one in statements}
    yield Text(f"{version or bundle.name}  {bundle.digest}")
    if version is not None:
        pushed = when(version.pushed_at)
        yield Text(f"pushed {pushed} by {version.pushed_by}; gates: {version.gates}")
    yield Text(f"{bundle.manifest.flavor} {bundle.task}")
    chosen = bundle.roles()
    requests = bundle.manifest.serves if chosen is None else chosen.requests
    yield from _programs(bundle, requests)
    if parity := bundle.parities.get(requests) or bundle.parity:
        yield Text(f"parity of {requests}: {parity.reason}")
    fields = [_field_row("", field) for field in bundle.signature.inputs]
    fields += [_field_row("-> ", field) for field in bundle.signature.outputs]
    yield Table(("field", "type", "shape", "missing", "values"), tuple(fields))
    yield from baseline_blocks(bundle.baseline)
    yield from _cost(bundle, requests)
    sources = latest.get("provenance", {}).get("lineage", ())
    if rows := tuple(line for source in sources for line in lineage_lines(source)):
        yield Table(("lineage", ""), rows)
    if "gates" in latest:
        yield gates_table(latest["gates"].get("results", ()))
    if len(others) > 1:
        yield Text("versions: " + ", ".join(map(numbered, others)))


def _programs(bundle: Bundle, requests: str) -> Iterator[Text]:
    """Which program serves requests on this machine, and which runs batches."""
    from bascule.bundle.programs import obstacles
    from bascule.bundle.statements import cpu_name

    chosen = bundle.roles()
    batches = requests if chosen is None else chosen.batches_in_words()
    if batches == requests:
        yield Text(f"requests and batches: {batches}")
    else:
        yield Text(f"requests: {requests}; batches: {batches}")
    if chosen is None:
        return
    for lacking, next_step in obstacles(bundle.manifest.programs).items():
        yield Text(f"{lacking} cannot run here: {next_step}")
    if (cost := bundle.cost) is not None:
        there = cost.machine.get("cpu", "an unknown processor")
        here = cpu_name()
        other = "this machine" if there == here else f"{there}; this machine has {here}"
        yield Text(f"cost measured on {other}")


def _field_row(mark: str, field: Field) -> tuple[str, ...]:
    shape = "[" + ", ".join(["rows", *map(str, field.shape)]) + "]"
    values = "any"
    if field.categories is not None:
        values = f"{len(field.categories)} categories"
    elif field.bounds is not None:
        values = "{:g} to {:g}".format(*field.bounds)
    return mark + field.name, field.dtype.value, shape, "yes" if field.nullable else "no", values


def _cost(bundle: Bundle, program: str) -> Iterator[Table]:
    cost = bundle.cost
    if cost is None:
        return
    original = cost.latency_us.get("original", {})
    rows = []
    for batch, run_us in sorted(cost.latency_us.get(program, {}).items()):
        original_us = original.get(batch)
        compared = ("-", "-")
        if original_us is not None:
            compared = (f"{original_us:,.1f}", f"{original_us / run_us:.1f} x")
        rows.append((f"{batch:,}", f"{run_us:,.1f}", *compared))
    headings = ("rows", f"us, {program}", "us, original", "faster")
    yield Table(headings, tuple(rows), headings)


def showing_json(
    bundle: Bundle, version: Version | None, statements: Sequence[Statement]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "version": None if version is None else asdict(version),
        "digest": bundle.digest,
        "statements": [statement.to_json() for statement in statements],
    }


def event_json(event: Event) -> dict[str, Any]:
    """One line of history for programs."""
    return {**asdict(event), "at": event.at.isoformat()}


def event_row(event: Event) -> tuple[str, str, str, str]:
    """When, what, by whom, why."""
    return when(event.at), event.sentence, event.by, event.reason or "-"


def print_answers(table: pa.Table) -> None:
    """The first rows, and how many there are."""
    shown = table.slice(0, _SHOWN_ROWS).to_pylist()
    rows = [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in shown
    ]
    print_table(table.column_names, rows, right=table.column_names)
    if table.num_rows > _SHOWN_ROWS:
        note(f"{_SHOWN_ROWS} of {table.num_rows:,} rows; --output FILE takes them all")
