"""How one version, and one line of history, are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bascule.cli.baseline import print_baseline
from bascule.cli.screen import note, print_table, say, when

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
    say(f"{version or bundle.name}  {bundle.digest}")
    if version is not None:
        say(f"pushed {when(version.pushed_at)} by {version.pushed_by}; gates: {version.gates}")
    say(f"{bundle.manifest.flavor} {bundle.task}")
    requests = _say_what_answers(bundle)
    parity = bundle.parities.get(requests) or bundle.parity
    if parity is not None:
        say(f"parity of {requests}: {parity.reason}")
    say("")
    print_table(
        ("field", "type", "shape", "missing", "values"),
        [_field_row("", field) for field in bundle.signature.inputs]
        + [_field_row("-> ", field) for field in bundle.signature.outputs],
    )
    print_baseline(bundle.baseline)
    _print_cost(bundle, requests)
    _print_lineage(statements)
    _print_gates(statements)
    if len(others) > 1:
        say("versions: " + ", ".join(map(_state, others)))


def _say_what_answers(bundle: Bundle) -> str:
    """Which program serves requests on this machine, and which runs batches; returns the first."""
    from bascule.bundle.programs import obstacles
    from bascule.bundle.statements import cpu_name

    manifest, cost = bundle.manifest, bundle.cost
    chosen = bundle.roles()
    if chosen is None:
        say(f"requests and batches: {manifest.serves}")
        return manifest.serves
    batches = chosen.batches_in_words()
    if batches == chosen.requests:
        say(f"requests and batches: {batches}")
    else:
        say(f"requests: {chosen.requests}; batches: {batches}")
    for lacking, next_step in obstacles(manifest.programs).items():
        say(f"{lacking} cannot run here: {next_step}")
    if cost is not None:
        there = cost.machine.get("cpu", "an unknown processor")
        here = cpu_name()
        other = "this machine" if there == here else f"{there}; this machine has {here}"
        say(f"cost measured on {other}")
    return chosen.requests


def _state(version: Version) -> str:
    return f"{version.number} ({'retired' if version.retired else version.gates})"


def _field_row(mark: str, field: Field) -> tuple[str, ...]:
    shape = "[" + ", ".join(["rows", *map(str, field.shape)]) + "]"
    values = "any"
    if field.categories is not None:
        values = f"{len(field.categories)} categories"
    elif field.bounds is not None:
        values = "{:g} to {:g}".format(*field.bounds)
    return mark + field.name, field.dtype.value, shape, "yes" if field.nullable else "no", values


def _print_cost(bundle: Bundle, program: str) -> None:
    cost = bundle.cost
    if cost is None:
        return
    served = cost.latency_us.get(program, {})
    original = cost.latency_us.get("original", {})
    rows = []
    for batch, run_us in sorted(served.items()):
        original_us = original.get(batch)
        compared = ("-", "-")
        if original_us is not None:
            compared = (f"{original_us:,.1f}", f"{original_us / run_us:.1f} x")
        rows.append((f"{batch:,}", f"{run_us:,.1f}", *compared))
    headings = ("rows", f"us, {program}", "us, original", "faster")
    print_table(headings, rows, right=headings)


def _print_lineage(statements: Sequence[Statement]) -> None:
    from bascule.bundle import lineage_lines

    said = [one for one in statements if one.kind == "provenance"]
    sources = said[-1].body.get("lineage", ()) if said else ()
    rows = [line for source in sources for line in lineage_lines(source)]
    if rows:
        print_table(("lineage", ""), rows)


def _print_gates(statements: Sequence[Statement]) -> None:
    gates = [statement for statement in statements if statement.kind == "gates"]
    if not gates:
        return
    rows = [
        (
            str(result["criterion"]),
            "-" if result.get("value") is None else f"{result['value']:.6g}",
            "passed" if result["passed"] else "FAILED",
            result.get("reason", "-"),
        )
        for result in gates[-1].body.get("results", ())
    ]
    print_table(("criterion", "value", "verdict", "reason"), rows, right=("value",))


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
