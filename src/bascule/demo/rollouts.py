"""Three new versions on live traffic: a better one, a subtly worse one and a slow one.

Each is a canary against the version that answers. What happens is up to the evidence: flights of
the months to come are asked about, one a request, and their outcomes follow.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from bascule.core import user_name
from bascule.demo import flights
from bascule.demo.client import ask, bodies
from bascule.demo.telling import heading
from bascule.registry import open_registry
from bascule.release.rollouts import Begun, RemoteRollouts, RolloutRequest
from bascule_client import Client
from bascule_client.control import ControlClient

if TYPE_CHECKING:
    from rich.console import Console

    from bascule.bundle import Bundle
    from bascule.demo.flights import Months
    from bascule.demo.server import Server

T = TypeVar("T")

CARRIER = "AA"
GUARDS = ("errors +1 pp", "p50 +100 %", "accuracy -1 pp")
STEPS_PERCENT = (20.0, 50.0, 100.0)
STEP_S = 1.0
_OWN_CODE = Path(__file__).with_name("feature_store.py")
_AT_ONCE, _BLOCK_S = 1_000, 1.0
_CONNECTIONS = 8
_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one version.

    Attributes:
        version: `late/2`.
        what: What is special about it, in words.
        expected: The state that the demo promises: `promoted` or `aborted`.
        state: The state that the evidence led to; `running` where the traffic did not suffice.
        sentence: Of the last decision, with its evidence.
        requests: Asked meanwhile, of any version.
        errors: Of them, without an answer of status 200.
        seconds: From the deployment to the last decision.
    """

    version: str
    what: str
    expected: str
    state: str
    sentence: str
    requests: int
    errors: int
    seconds: float

    @property
    def held(self) -> bool:
        return self.state == self.expected and not self.errors


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version to try: what is special about it, the state that is expected, own code."""

    what: str
    expected: str
    model: Pipeline | None = None
    code: tuple[str, ...] = ()


def candidates(months: Months) -> Iterator[Candidate]:
    """The versions, in the order in which they are tried; each is fitted when it is asked for."""
    more = pd.concat([months.train, months.test])
    better = _fit(more)
    yield Candidate("it has learnt from one month more", "promoted", better)
    is_carrier = more["carrier"] == CARRIER
    wrong = more.assign(late=more["late"].where(~is_carrier, 1 - more["late"]))
    yield Candidate(
        f"the labels of one carrier ({CARRIER}) were inverted in training", "aborted", _fit(wrong)
    )
    own = _own_code()
    step = ("look_up", FunctionTransformer(own.look_up))
    yield Candidate(
        f"a step waits {own.WAIT_S * 1000:g} ms, as for a feature store", "aborted",
        Pipeline([step, *better.steps]), (str(_OWN_CODE),),
    )  # fmt: skip


def _own_code() -> ModuleType:
    """The file as a module of its own, as a user has it beside the training."""
    spec = importlib.util.spec_from_file_location(_OWN_CODE.stem, _OWN_CODE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[_OWN_CODE.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fit(rows: pd.DataFrame) -> Pipeline:
    with threadpool_limits(flights.THREADS):
        return flights.build_model().fit(*flights.learnt_from(rows))


def packed_candidates(months: Months, folder: Path) -> Iterator[tuple[Candidate, Bundle]]:
    """The versions with their bundles; each is fitted and packed when it is asked for."""
    for number, one in enumerate(candidates(months), 2):
        assert one.model is not None
        yield one, flights.packed(
            one.model, folder, stem=f"{flights.NAME}-{number}", train=months.test[flights.FEATURES],
            code=one.code, baseline=False, outliers=False, explain=False,
            # With own code the last step is all that programs differ in: any will do.
            measure=not one.code,
        )  # fmt: skip


def computed_ahead(items: Iterator[T], worker: Executor) -> Iterator[T]:
    """The items, of which the worker computes the next one meanwhile: the first from now on."""

    def rest(following: Future[T | None]) -> Iterator[T]:
        while (item := following.result()) is not None:
            following = worker.submit(next, items, None)
            yield item

    return rest(worker.submit(next, items, None))


def roll_out(
    console: Console, server: Server, bundle: Bundle, home: Path, later: pd.DataFrame,
    attempted: Iterator[tuple[Candidate, Bundle]],
) -> list[Attempt]:  # fmt: skip
    """Deploy each candidate as a canary under traffic; the evidence promotes or rolls back."""
    heading(console, "Roll out")
    console.print(
        f"canary of {', '.join(f'{one:g}' for one in STEPS_PERCENT)} %; guards: "
        f"{', '.join(GUARDS)}",
        highlight=False,
    )
    registry = open_registry(home)
    book = RemoteRollouts(ControlClient(server.control_url))
    traffic = traffic_of(server, bundle, later)
    made: list[Attempt] = []
    while True:
        with console.status("packing the next version"):
            following = next(attempted, None)
        if following is None:
            return made
        one, its_bundle = following
        version = registry.push(its_bundle.path, by=user_name())
        made.append(attempt(console, book, str(version), one, traffic, GUARDS, STEPS_PERCENT))


def attempt(
    console: Console, book: RemoteRollouts, version: str, tried: Candidate,
    traffic: Iterator[tuple[int, int]], guards: Sequence[str], steps_percent: Sequence[float],
) -> Attempt:  # fmt: skip
    """Deploy a candidate as a canary, ask until the evidence has decided, and tell what it did."""
    console.print(f"{version}: {tried.what}")
    with console.status("asking"):
        ended = _ended(book, version, tried, traffic, guards, steps_percent)
    console.print(
        f"  {ended.state} after {ended.seconds:.0f} s and {ended.requests:,} requests, "
        f"{ended.errors} failed\n  {ended.sentence}",
        markup=False,
    )
    return ended


def _ended(
    book: RemoteRollouts, version: str, tried: Candidate, traffic: Iterator[tuple[int, int]],
    guards: Sequence[str], steps_percent: Sequence[float],
) -> Attempt:  # fmt: skip
    clock, requests, errors = time.perf_counter(), 0, 0
    begun = book.deploy(
        RolloutRequest(
            version=version,
            strategy="canary",
            guards=tuple(guards),
            steps_percent=tuple(steps_percent),
            step_s=STEP_S,
            reason=tried.what,
        ),
        by=user_name(),
    )
    assert isinstance(begun, Begun)
    stored = book.get(begun.rollout.id)
    while stored.ended_at is None and time.perf_counter() - clock < _WITHIN_S:
        asked, failed = next(traffic)
        requests, errors = requests + asked, errors + failed
        stored = book.get(begun.rollout.id)
    seconds = time.perf_counter() - clock
    if stored.latest is None:
        state, sentence = "asked", "no decision was made"
    else:
        state, sentence = type(stored.latest.state).__name__.lower(), stored.latest.sentence
    return Attempt(version, tried.what, tried.expected, state, sentence, requests, errors, seconds)


class _Id(msgspec.Struct):
    id: str


_id = msgspec.json.Decoder(_Id).decode


def traffic_of(server: Server, bundle: Bundle, later: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """Ask about some flights and tell their outcomes, again and again; requests and errors.

    Once a second at most: more requests make each look at the evidence dearer, and so rarer.
    """
    path = f"/v2/models/{bundle.name}/infer"
    order = later.sample(frac=1.0, random_state=0)
    with Client(server.url, model=bundle.name, timeout_s=60) as client:
        while True:
            for start in range(0, len(order), _AT_ONCE):
                began_s = time.monotonic()
                rows = order.iloc[start : start + _AT_ONCE]
                requests = bodies(bundle.signature, rows)
                asked = ask(server.port, path, requests, connections=_CONNECTIONS)
                client.add_outcomes(
                    [
                        (_id(reply.body).id, int(truth))
                        for reply, truth in zip(asked.replies, rows[flights.TARGET], strict=True)
                        if reply is not None and reply.status == 200
                    ]
                )
                time.sleep(max(0.0, began_s + _BLOCK_S - time.monotonic()))
                yield len(rows), asked.errors
