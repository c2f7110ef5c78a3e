"""Operations of the control API, each declared once, in the module `operations` of its room.

The declaration says method, path, right, answer and history. From it come the server's route and
its right (`control.api.rights`), the request of the `Remote...` classes, and the calls of the
console's pages. What an operation takes is the parameters of its route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from bascule.core import ModelFailed
from bascule.security import Action
from bascule_client.control import ControlClient, placed

T = TypeVar("T")
PREFIX = "/api/v1/"
CHANGING: frozenset[Action] = frozenset(
    (
        "manage",
        "write",
        "deploy",
        "approve",
        "keys",
        "outcome",
        "review",
        "erase",
        "private",
    )
)
"""Actions that need this machine where callers need no keys."""
MAX_BODY_BYTES = 1 << 20
"""For most operations: some names and a path."""


@dataclass(frozen=True, eq=False)
class Operation(Generic[T]):
    """One operation.

    Attributes:
        call: Method and path, `GET endpoints/{endpoint}`; below `/api/v1/` unless it begins with a
            slash.
        action: What the caller must have the right to do; None for an operation that asks itself.
        model: To which model: a name of the path in braces, `*` for all; empty for any, where it
            is asked again when the model is known.
        gives: The type of the answer, or of the items of a list.
        tag: The chapter of the OpenAPI document; the first name of the path if empty.
        status: Of an answer without errors.
        history: The kind of the event that the history of the catalogue has of it; empty for none.
        thing: What `audit.protected` may name beside `ACTION:MODEL`: `alias:{model}@{alias}`.
        keeps: Whether `Idempotency-Key` has its answer kept though it changes nothing that takes a
            right: how often it is done has a bound of its own.
        is_once: Whether it has the same effect however often it is sent, so that no answer is kept.
        max_body_bytes: The most that it takes.
        reads: Makes the value of its JSON, where the JSON has another form.
    """

    call: str
    action: Action | None
    model: str
    gives: type[T]
    tag: str = ""
    status: int = 200
    history: str = ""
    thing: str = ""
    keeps: bool = False
    is_once: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    reads: Callable[[Any], T] | None = None

    @property
    def method(self) -> str:
        return self.call.partition(" ")[0]

    @property
    def path(self) -> str:
        """With the names in braces."""
        path = self.call.partition(" ")[2]
        return path if path.startswith("/") else PREFIX + path

    @property
    def chapter(self) -> str:
        """Of the OpenAPI document."""
        return self.tag or self.call.partition(" ")[2].partition("/")[0]

    @property
    def name(self) -> str:
        """As it is documented: `GET /api/v1/endpoints/{endpoint}`."""
        return f"{self.method} {self.path}"

    @property
    def is_act(self) -> bool:
        """Whether it changes something, so that the audit chain has it; some reads are a POST."""
        return self.method != "GET" and (self.action in CHANGING or bool(self.history))

    @property
    def keeps_answers(self) -> bool:
        """Whether `Idempotency-Key` has the catalogue keep the answer.

        Not where no right to change something is required: a caller without a key must not add rows
        to the catalogue.
        """
        is_change = self.keeps or self.action in CHANGING
        return self.method != "GET" and not self.is_once and is_change

    def at(self, **names: object) -> str:
        """The path, with these values quoted."""
        return placed(self.path, names)[0]

    def read(self, content: Any) -> T:
        """The value of the JSON. Raises `ModelFailed` where a server sends something else."""
        try:
            return self.reads(content) if self.reads else msgspec.convert(content, self.gives)
        except (msgspec.ValidationError, KeyError, TypeError) as problem:
            raise ModelFailed(f"{self.name}: the answer is of another form: {problem}") from None


class Listing(Operation[T]):
    """An operation that gives a list in pages; `gives` is the type of an item."""


class Remote:
    """Asks the operations of a server; errors are those that it raises."""

    def __init__(self, client: ControlClient) -> None:
        """Nothing is asked yet."""
        self._client = client

    def ask(
        self, operation: Operation[T], body: object = None, *, by: str = "", **names: object
    ) -> T:
        """The answer.

        Args:
            operation: What to ask for.
            body: Is sent as JSON; None for no body.
            by: The user, for histories where callers need no keys.
            **names: The names of the path; others go into the query, those that are None do not.
        """
        content = None if body is None else msgspec.to_builtins(body)
        return operation.read(self._client.do(operation.name, content, user=by, **names))

    def each(self, listing: Listing[T], **names: object) -> Iterator[T]:
        """The items of a list, page by page; see `ask`."""
        return map(listing.read, self._client.list(listing.name, **names))

    def items(self, listing: Listing[T], **names: object) -> list[T]:
        """All items of a list; see `ask`."""
        return list(self.each(listing, **names))


def fields_of(value: object, **more: object) -> dict[str, object]:
    """The body of a request: a value, and further fields."""
    content: dict[str, object] = msgspec.to_builtins(value)
    return content | more


def operations_of(module: object) -> list[Operation[Any]]:
    """Those that a module declares."""
    return [value for value in vars(module).values() if isinstance(value, Operation)]
