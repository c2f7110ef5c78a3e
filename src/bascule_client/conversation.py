"""What a client says to a server, and what it makes of what comes back. No I/O.

Each question is a generator of steps: it yields a request to send (`Ask`) or a time to wait
(`Pause`), is sent how that ended, and returns what was asked for. Those that carry it out, blocking
or not, decide nothing.

A model may be replaced while it is asked, by a version that takes other fields. What is sent is
shaped by what one version says of itself, and every answer names the version that gave it; an
answer of another one counts only if that takes the same.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from bascule_client.answer import Answer
from bascule_client.errors import (
    BasculeError,
    Conflict,
    Invalid,
    NotFound,
    TimedOut,
    TooLarge,
    Unavailable,
)
from bascule_client.fields import Columns
from bascule_client.kinds import error_of
from bascule_client.outcomes import (
    OutcomesAdded,
    RefusedOutcome,
    added_of,
    outcome_requests,
)
from bascule_client.retrying import wait_before_retry
from bascule_client.tables import conform, take, warn_of_extra
from bascule_client.tensors import (
    Described,
    RequestOptions,
    answer_of,
    check_answer,
    described,
    infer_request,
    no_answer,
    put_together,
    read_json,
    row_bytes,
)
from bascule_client.version import VERSION
from bascule_client.wire import Lost, Outcome, Reply, Request

T = TypeVar("T")

MAX_REQUEST_ROWS = 100_000
"""The most rows in one request, however small they are."""

_MAX_VERSIONS = 4
"""How many versions of a model are asked in one call, where each is replaced meanwhile."""

_LONGEST_TIMEOUT_S = 999_999.0  # nine digits of milliseconds, which is what a server reads


class Ask(NamedTuple):
    """Send this, and say how it ended within the time."""

    request: Request
    allowed_s: float


class Pause(NamedTuple):
    """Wait."""

    wait_s: float


Steps = Generator[Ask | Pause, Outcome | None, T]


class Conversation:
    """The questions to one server, and what was learned of its models."""

    def __init__(
        self,
        title: str,
        *,
        model: str | None,
        timeout_s: float,
        retries: int,
        max_request_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """See `Client`; `title` is what messages call the server."""
        self._title = title
        self._model = model
        self._only_model: str | None = None  # of a server that was found to serve one
        self._timeout_s = _checked_s(timeout_s)
        if retries < 0:
            raise Invalid(f"retries: {retries} is not >= 0", hint="give 0 to send once")
        if max_request_bytes < 1:
            raise Invalid(f"max_request_bytes: {max_request_bytes} is not >= 1")
        self._retries = retries
        self._max_request_bytes = max_request_bytes
        self._clock = clock
        self._chance = chance
        self._known: dict[str, Described] = {}

    # -- the questions --

    def predict(
        self, data: Any, asked: RequestOptions, model: str | None, timeout_s: float | None
    ) -> Steps[Answer]:
        """The answer for all rows; see `Client.predict`."""
        deadline = self._deadline(timeout_s)
        path = target = yield from self._path(model, deadline)
        may_be_old = path in self._known
        known = at_first = yield from self._described(path, deadline)
        for _ in range(_MAX_VERSIONS):
            try:
                columns = conform(data, known.signature)
                if known is at_first:
                    warn_of_extra(data, known.signature)
                return (yield from self._in_parts(target, columns, known, asked, deadline))
            except _Replaced as other:
                # Ask that version, in the form that it takes.
                self._known.pop(path, None)
                target, known, may_be_old = other.path, other.known, False
            except (Invalid, NotFound):
                # A mistake, unless what was known of the model is old.
                self._known.pop(path, None)
                if not may_be_old:
                    raise
                fresh = yield from self._described(path, deadline)
                if fresh.signature == known.signature:
                    raise
                known, may_be_old = fresh, False
        raise _replaced(path, f"{_MAX_VERSIONS - 1} times while it was asked")

    def whole_request(
        self, data: Any, asked: RequestOptions, model: str | None
    ) -> Steps[tuple[Request, Described]]:
        """One request for all rows, and what was known of the model; see `Client.submit`."""
        deadline = self._deadline(None)
        path = yield from self._path(model, deadline)
        known = yield from self._described(path, deadline)
        columns = conform(data, known.signature)
        return infer_request(path, columns, known.signature.inputs, asked), known

    def add_outcomes(
        self,
        outcomes: Any,
        model: str | None,
        id_column: str,
        truth_column: str,
        time_column: str | None,
        timeout_s: float | None,
    ) -> Steps[OutcomesAdded]:
        """Have outcomes kept, some thousands a request; see `Client.add_outcomes`."""
        deadline = self._deadline(timeout_s)
        path = (yield from self._path(model, deadline)).partition("/versions/")[0] + "/outcomes"
        taken, refused = 0, list[RefusedOutcome]()
        for start, request in outcome_requests(
            path, outcomes, id_column, truth_column, time_column
        ):
            reply = yield from self._asked(request, deadline, (200, 207))
            added = added_of(reply, start)
            taken, refused = taken + added.taken, [*refused, *added.refused]
        return OutcomesAdded(taken, tuple(refused))

    def metadata(self, model: str | None) -> Steps[dict[str, Any]]:
        """What a model says of itself, as it is."""
        deadline = self._deadline(None)
        path = yield from self._path(model, deadline)
        return _object((yield from self._asked(Request("GET", path), deadline)))

    def models(self) -> Steps[list[str]]:
        """The names of what is served."""
        return (yield from self._models(self._deadline(None)))

    def ready(self, model: str | None) -> Steps[bool]:
        """Whether it answers, and says that it is ready. Asked once."""
        model = self._model if model is None else model
        path = "/v2/health/ready" if model is None else _path_of(model) + "/ready"
        outcome = yield Ask(Request("GET", path), self._timeout_s)
        assert outcome is not None
        if isinstance(outcome, Lost) or outcome.status in (404, 429, 502, 503, 504):
            return False
        if outcome.status != 200:
            raise error_of(outcome)
        return True

    # -- how they are asked --

    def _deadline(self, timeout_s: float | None) -> float:
        allowed_s = self._timeout_s if timeout_s is None else _checked_s(timeout_s)
        return self._clock() + allowed_s

    def _asked(
        self, request: Request, deadline: float, answers: tuple[int, ...] = (200,)
    ) -> Steps[Reply]:
        """The reply with a status of `answers`; sent again where that is safe, in the time."""
        attempt = 0
        while True:
            remaining_s = deadline - self._clock()
            if remaining_s <= 0:
                raise self._late()
            outcome = yield Ask(request, remaining_s)
            assert outcome is not None
            if isinstance(outcome, Reply) and outcome.status in answers:
                return outcome
            remaining_s = deadline - self._clock()
            wait_s = wait_before_retry(outcome, attempt, self._retries, remaining_s, self._chance())
            if wait_s is None:
                raise self._problem(outcome)
            yield Pause(wait_s)
            attempt += 1

    def _problem(self, outcome: Outcome) -> BasculeError:
        if isinstance(outcome, Reply):
            return error_of(outcome)
        if outcome.late:
            return self._late()
        return Unavailable(
            f"{self._title} cannot be asked: {outcome.reason}",
            hint="is the server running, and is this its address?",
            retry_after_s=1.0,
        )

    def _late(self) -> TimedOut:
        return TimedOut(
            f"{self._title} did not answer in time", hint="give a longer timeout_s, or fewer rows"
        )

    def _path(self, model: str | None, deadline: float) -> Steps[str]:
        for known in (model, self._model, self._only_model):
            if known is not None:
                return _path_of(known)
        names = yield from self._models(deadline)
        if len(names) != 1:
            raise Invalid(
                f"{self._title} serves {', '.join(names) or 'nothing'}", hint="say which: model=..."
            )
        self._only_model = names[0]
        return _path_of(names[0])

    def _models(self, deadline: float) -> Steps[list[str]]:
        names: list[str] = []
        path = "/models"
        while path:
            told = _object((yield from self._asked(Request("GET", path), deadline)))
            try:
                names += [str(one["modelName"]) for one in told["models"]]
            except (LookupError, TypeError) as problem:
                raise no_answer(problem) from None
            more = told.get("nextPageToken")
            path = f"/models?next_page_token={quote(str(more), safe='')}" if more else ""
        return names

    def _described(self, path: str, deadline: float) -> Steps[Described]:
        known = self._known.get(path)
        if known is None:
            told = _object((yield from self._asked(Request("GET", path), deadline)))
            known = self._known[path] = described(told)
        return known

    def _in_parts(
        self, path: str, columns: Columns, known: Described, asked: RequestOptions, deadline: float
    ) -> Steps[Answer]:
        """The answers to as many rows at a time as a request may have, as one.

        A server may allow less than is known here; then the parts are halved until they fit. All
        parts are answered by one version.
        """
        rows = len(next(iter(columns.values())))
        most = max(1, min(self._max_request_bytes // row_bytes(columns), MAX_REQUEST_ROWS))
        answers: list[Answer] = []
        start, target = 0, path
        while start < rows:
            part = columns if most >= rows else take(columns, slice(start, start + most))
            count = min(most, rows - start)
            request = infer_request(target + "/infer", part, known.signature.inputs, asked)
            try:
                reply = yield from self._asked(request, deadline)
                answer = answer_of(reply, known.places)
            except TooLarge:
                if count == 1:
                    raise
                most = count // 2
                continue
            except NotFound:
                if not answers:
                    raise
                raise _replaced(path, "between two parts of the table") from None
            first = answers[0] if answers else None
            if first is not None and answer.version != first.version:
                raise _replaced(path, "between two parts of the table")
            if not answers and known.version and answer.version != known.version:
                known = yield from self._answering(path, known, answer.version, deadline)
                answer = answer_of(reply, known.places)
            if not answers and "/versions/" not in path and answer.version:
                target = f"{path}/versions/{quote(answer.version, safe='')}"
            wanted = asked.outputs or [field.name for field in known.signature.outputs]
            check_answer(answer, count, wanted, first)
            answers.append(answer)
            start += count
        return put_together(answers)

    def _answering(
        self, path: str, known: Described, version: str, deadline: float
    ) -> Steps[Described]:
        """Another version than was expected; raises `_Replaced` if its requests have another form.

        If not, its answer counts: asked once more, a canary would count the caller twice.
        """
        model = path.rpartition("/versions/")[0] or path
        pinned = f"{model}/versions/{quote(version, safe='')}"
        other = yield from self._described(pinned, deadline)
        if _form_of(other) != _form_of(known):
            raise _Replaced(pinned, other)
        return other


def _form_of(known: Described) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """What a request depends on: neither the order of inputs, nor the values that they take."""
    inputs = {
        field.name: (field.dtype, field.shape, field.booleans, field.dates)
        for field in known.signature.inputs
    }
    return inputs, known.signature.columns


def _replaced(path: str, when: str) -> Conflict:
    name = path.removeprefix("/v2/models/").partition("/")[0]
    return Conflict(f"{unquote(name)} was replaced {when}", hint="predict again")


class _Replaced(Exception):
    """Another version answered, and it takes other fields."""

    def __init__(self, path: str, known: Described) -> None:
        super().__init__(path)
        self.path = path
        self.known = known


def _path_of(model: str) -> str:
    """The path of `gb` or `gb/3`."""
    name, _, version = model.partition("/")
    if not name or version != version.strip("/"):
        raise Invalid(f"model: {model!r} is no model", hint="give for example gb or gb/3")
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _object(reply: Reply) -> dict[str, Any]:
    try:
        told = read_json(reply.body)
    except (ValueError, RecursionError) as problem:
        raise no_answer(problem) from None
    if not isinstance(told, dict):
        raise no_answer(TypeError("it is no object"))
    return told


def _checked_s(timeout_s: float) -> float:
    if not 0 < timeout_s < math.inf:
        raise Invalid(f"timeout_s: {timeout_s!r} is not > 0", hint="give seconds, such as 10")
    return min(float(timeout_s), _LONGEST_TIMEOUT_S)


def common_headers(host: str, key: str | None) -> str:
    """The headers of every request, each with its line end. Raises `Invalid`."""
    lines = [f"Host: {host}", f"User-Agent: bascule/{VERSION}", "Accept: */*"]
    lines.append("Accept-Encoding: identity")  # without it a server may choose one
    if key is not None:
        if not key or not (key.isascii() and key.isprintable()) or " " in key:
            raise Invalid("key: it has characters that no key has", hint="give it as it was made")
        lines.append(f"Authorization: Bearer {key}")
    return "".join(f"{line}\r\n" for line in lines)


def timed(ask: Ask) -> Request:
    """The request with how long the caller waits, so that a server does no work for nobody."""
    milliseconds = max(1, math.ceil(ask.allowed_s * 1e3))
    header = ("X-Request-Timeout-Ms", str(milliseconds))
    return ask.request._replace(headers=(*ask.request.headers, header))
