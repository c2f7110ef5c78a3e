"""Makes the card of a bundle anew, from all that is said of it by now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.bundle import Said, card_json, card_page, load, plots, render
from bascule.bundle.disk import CARD, Statement
from bascule.cli.screen import note, print_json, say
from bascule.core import BasculeError, Invalid, writing
from bascule.documents import page
from bascule.release import KIND, measure_quality

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.documents import Plot
    from bascule.registry import Version


def write_card(
    path: Path,
    version: Version | None,
    statements: Sequence[Statement] | None,
    output: Path | None,
    *,
    by: str,
    as_json: bool = False,
) -> None:
    """Print the card, or write it; quality is measured first where nobody has.

    Args:
        path: The bundle.
        version: What the registry calls it; None for a folder, whose own `card.md` is renewed if it
            can be written.
        statements: What the registry says of it; None for what lies beside it.
        output: A .md or .html file; printed as Markdown if None.
        by: Who measures.
        as_json: Whether to print it as one JSON document, beside what is written.
    """
    if output is not None and output.suffix.lower() not in (".md", ".html"):
        raise Invalid(f"--output {output.name} is neither .md nor .html", hint="-o card.html")
    bundle = load(path)
    known = list(bundle.statements() if statements is None else statements)
    measured, now = None, datetime.now(UTC)
    if not any(one.kind == KIND for one in known):
        measured = measure_quality(bundle)
    if measured is not None:
        known.append(Statement(KIND, bundle.digest, now.isoformat(), by, measured))
    shown = Said.of(known)
    text = render(bundle.manifest, shown)
    if version is None:
        try:
            if measured is not None:
                bundle.add_statement(KIND, measured, at=now, by=by)
            with writing(path / CARD):
                (path / CARD).write_text(text, encoding="utf-8")
        except Invalid as problem:  # who asks for a card may be one who can only read
            note(f"warning: the bundle keeps the card that it had: {problem}")
    if as_json:
        print_json(card_json(bundle.manifest, shown))
    if output is None:
        if as_json:
            return
        say(text.removesuffix("\n"))
        return
    if output.suffix.lower() == ".html":
        text = page(card_page(bundle.manifest, shown, _plots(bundle)))
    with writing(f"--output {output}"):
        output.write_text(text, encoding="utf-8")
    note(f"wrote {output}")


def _plots(bundle: Bundle) -> tuple[Plot, ...]:
    """The plots; none, with a warning, where the model cannot run here."""
    try:
        return plots(bundle)
    except BasculeError as problem:
        note(f"warning: the card has no plots: {problem}")
        return ()
