"""How one version, and one line of history, are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bascule.bundle import Said, sections
from bascule.cli.baseline import baseline_blocks
from bascule.cli.brief import numbered
from bascule.cli.screen import note, print_blocks, print_table, when
from bascule.documents import Block, Text

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.bundle import Bundle
    from bascule.bundle.disk import Statement
    from bascule.registry import Event, Version

_SHOWN_ROWS = 20


def print_bundle(
    bundle: Bundle,
    version: Version | None,
    statements: Sequence[Statement],
    others: Sequence[Version],
) -> None:
    """One version: which programs run here, its card, its baseline, and the other versions."""
    print_blocks(*_blocks(bundle, version, statements, others))


def _blocks(
    bundle: Bundle,
    version: Version | None,
    statements: Sequence[Statement],
    others: Sequence[Version],
) -> Iterator[Block]:
    yield Text(f"{version or bundle.name}  {bundle.digest}")
    if version is not None:
        pushed = when(version.pushed_at)
        yield Text(f"pushed {pushed} by {version.pushed_by}; gates: {version.gates}")
    yield from _programs(bundle)
    for section in sections(bundle.manifest, Said.of(statements)):
        yield from (Text(""), Text(section.title), *section.blocks)
    yield from baseline_blocks(bundle.baseline)
    if len(others) > 1:
        yield Text("versions: " + ", ".join(map(numbered, others)))


def _programs(bundle: Bundle) -> Iterator[Text]:
    """Which program serves requests on this machine, and which runs batches."""
    from bascule.bundle.programs import obstacles
    from bascule.bundle.statements import cpu_name

    chosen = bundle.roles()
    if chosen is None:
        yield Text(f"requests and batches: {bundle.manifest.serves}")
        return
    batches = chosen.batches_in_words()
    if batches == chosen.requests:
        yield Text(f"requests and batches: {batches}")
    else:
        yield Text(f"requests: {chosen.requests}; batches: {batches}")
    for lacking, next_step in obstacles(bundle.manifest.programs).items():
        yield Text(f"{lacking} cannot run here: {next_step}")
    if (cost := bundle.cost) is not None:
        there = cost.machine.get("cpu", "an unknown processor")
        here = cpu_name()
        other = "this machine" if there == here else f"{there}; this machine has {here}"
        yield Text(f"cost measured on {other}")


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


def print_answers(table: pa.Table, *, all_by: str = "--output FILE") -> None:
    """The first rows, how many there are, and the option that shows all."""
    shown = table.slice(0, _SHOWN_ROWS).to_pylist()
    rows = [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in shown
    ]
    print_table(table.column_names, rows, right=table.column_names)
    if table.num_rows > _SHOWN_ROWS:
        note(f"{_SHOWN_ROWS} of {table.num_rows:,} rows; {all_by} takes them all")
