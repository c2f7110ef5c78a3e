"""Applies a document: looks, refuses what cannot be, then makes the changes one after another.

Each change is a transaction of its own. What a killed run has not made, the next run finds and
makes; what it has made is no change any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bascule.configuring.changes import SECTIONS, Books, By, Change, rights_of
from bascule.configuring.document import Document
from bascule.core import BasculeError
from bascule.security import Action

Authorise = Callable[[Action, str], object]
"""Raises `Refused` unless the caller may do this to a model or an endpoint."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was changed, or would be.

    Attributes:
        changes: Place and sentence of each, in their order.
        is_trial: Whether nothing was changed.
        tokens: The secrets of new keys by name, which are kept nowhere.
    """

    changes: Sequence[tuple[str, str]]
    is_trial: bool
    tokens: dict[str, str] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        said = [{"place": place, "sentence": sentence} for place, sentence in self.changes]
        return {"changes": said, "applied": not self.is_trial, "tokens": self.tokens}


def apply(
    document: Document,
    books: Books,
    *,
    by: str,
    reason: str = "",
    dry_run: bool = False,
    authorise: Authorise = lambda _action, _model: None,
) -> Applied:
    """Make a catalogue be as a document says.

    Args:
        document: What shall be.
        books: What it is compared with and written to.
        by: The user.
        reason: Why, for histories.
        dry_run: Look, and change nothing.
        authorise: Asked for the rights of every entry before anything is looked up. The approval of
            a change is asked of `books`, before the first is made.

    Raises:
        BasculeError: An entry cannot be; the message begins with its place. If changes were made
            before, it says how many.
    """
    for section in SECTIONS:
        for name, spec in getattr(document, section).items():
            with _about(f"{section}.{name}"):
                for action, model in rights_of(name, spec):
                    authorise(action, model)
    changes = list(_changes(document, books, By(by, reason)))
    said = [(change.place, change.sentence) for change in changes]
    if dry_run:
        return Applied(said, is_trial=True)
    tokens: dict[str, str] = {}
    for done, change in enumerate(changes):
        then = f"{done} of {len(changes)} changes were made; apply again makes the others"
        with _about(change.place, then if done else ""):
            tokens |= change.act()
    return Applied(said, is_trial=False, tokens=tokens)


def _changes(document: Document, books: Books, by: By) -> Iterator[Change]:
    for section, changes_of in SECTIONS.items():
        for name, spec in getattr(document, section).items():
            with _about(f"{section}.{name}"):
                yield from changes_of(name, spec, books, by)


@contextmanager
def _about(place: str, then: str = "") -> Iterator[None]:
    """Let an error begin with the place of the document that it is about."""
    try:
        yield
    except BasculeError as problem:
        end = f" ({then})" if then else ""
        raise type(problem)(
            f"{place}: {problem.message}{end}", hint=problem.hint, place=place
        ) from None
