"""Applies a document: looks, refuses what cannot be, then makes the changes one after another.

Each change is a transaction of its own. What a killed run has not made, the next run finds and
makes; what it has made is no change any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bascule.configuring.changes import SECTIONS, Books, By, Change, rights_of
from bascule.configuring.document import Document
from bascule.core import BasculeError
from bascule.security import Action

Authorise = Callable[[Action, str], object]
"""Raises `Refused` unless the caller may do this to a model or an endpoint."""


@dataclass(frozen=True, slots=True)
class Line:
    """One change.

    Attributes:
        place: Of the document, such as endpoints.late.
        sentence: What it does.
    """

    place: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What was changed, or would be.

    Attributes:
        changes: In their order.
        applied: False where it was a trial, which changes nothing.
        tokens: The secrets of new keys by name, which are kept nowhere.
    """

    changes: Sequence[Line]
    applied: bool
    tokens: dict[str, str] = field(default_factory=dict, repr=False)


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
    said = [Line(change.place, change.sentence) for change in changes]
    if dry_run:
        return Applied(said, applied=False)
    tokens: dict[str, str] = {}
    for done, change in enumerate(changes):
        then = f"{done} of {len(changes)} changes were made; apply again makes the others"
        with _about(change.place, then if done else ""):
            tokens |= change.act()
    return Applied(said, applied=True, tokens=tokens)


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
