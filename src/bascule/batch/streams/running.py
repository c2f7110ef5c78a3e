"""Scores messages as they come: takes some, scores, publishes the answers, commits the offsets.

The id of a prediction is that of the message: its topic, part and number. So a message that comes
again, after a crash between an answer and its commit, has the same id, by which a sink, the ledger
and outcomes know that it is one.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from bascule.batch.engine import pause_s
from bascule.batch.manifest import Record
from bascule.batch.recording import MonitoringRules, Recorder, close_quietly, open_recorder
from bascule.batch.scoring import ID, VERSION, Scorer
from bascule.batch.streams.port import Address, Message, Publisher, Reply, Subscription
from bascule.batch.streams.table import open_publisher, open_subscription
from bascule.bundle import Bundle
from bascule.core import DType, Invalid, Overloaded, Unavailable, sha256_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

log = logging.getLogger(__name__)

_PLACES = 1 << 20
"""Messages whose ids begin alike: the ledger numbers the rows of a request by 32 bits."""
_NOT_MONITORED = MonitoringRules()
Act = Callable[[Sequence[Message]], "tuple[list[Reply], int]"]
"""What is published for some messages, and how many of them are no rows."""


@dataclass(frozen=True, kw_only=True)
class StreamJob:
    """What is asked of a stream.

    Attributes:
        model: A bundle's folder, or a registered model.
        source: `kafka://HOST:9092/TOPIC` or `nats://HOST:4222/SUBJECT`.
        sink: The same; answers go there.
        dead_letter: The topic of messages that cannot be scored; that of the sink with
            `.quarantine` if empty.
        keep: The fields of a message to publish too; all of them if None.
        columns: The answers to publish; all of the model's if empty.
        confidence: Of intervals and prediction sets.
        record: What monitoring gets; see `Job.record`.
        batch_rows: Messages that are scored at once, at most.
        wait_s: Until what there is is scored.
        idle_s: The run ends once no message came for so long; 0 for never.
    """

    model: str
    source: str
    sink: str
    dead_letter: str = ""
    keep: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    confidence: float | None = None
    record: Literal["profile", "rows", "off"] = "rows"
    batch_rows: int = 1_000
    wait_s: float = 0.2
    idle_s: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.wait_s <= 0 or self.idle_s < 0:
            raise Invalid("batch_rows is >= 1, wait_s is > 0, idle_s is >= 0", field="batch_rows")

    @property
    def dead_topic(self) -> str:
        return self.dead_letter or f"{Address.of(self.sink).topic}.quarantine"


@dataclass
class Streamed:
    """What a stream has done so far.

    Attributes:
        messages: That are answered and committed.
        quarantined: Of these, how many went to the dead letters.
        seconds: Since it began, once it has ended.
        busy_s: In which messages were scored and published.
        lag: Messages that wait at the broker for this process.
        faults: Of the broker, after which the stream was opened again.
        committed_at: The Unix time of the last commit; 0 before the first.
    """

    messages: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    busy_s: float = 0.0
    lag: int = 0
    faults: int = 0
    committed_at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "messages": self.messages, "quarantined": self.quarantined, "lag": self.lag,
            "faults": self.faults, "seconds": round(self.seconds, 3),
            "busy_s": round(self.busy_s, 3),
        }  # fmt: skip


def run_stream(
    job: StreamJob, bundle: Bundle, home: Path, *, version: str = "",
    monitoring: MonitoringRules = _NOT_MONITORED, stopped: threading.Event | None = None,
    watch: Callable[[Streamed], None] = lambda _: None,
) -> Streamed:  # fmt: skip
    """Score messages until `stopped`, or until none came for `idle_s`.

    `watch` is called with what is done, several times a second.

    Raises:
        Invalid: The model, an option or an address does not fit; there is no such topic.
    """
    scorer = _MessageScorer(job, bundle, version or bundle.digest[7:19])
    scorer.recorder = open_recorder(home, scorer.scorer, monitoring, job.record)
    try:
        return _followed(job, _group(job), scorer.replies, stopped or threading.Event(), watch)
    finally:
        close_quietly(scorer.recorder)


def take_outcomes(
    job: StreamJob, add: Callable[[str, Sequence[tuple[object, object, object]]], Any], *,
    stopped: threading.Event | None = None, watch: Callable[[Streamed], None] = lambda _: None,
) -> Streamed:  # fmt: skip
    """Keep outcomes of a topic, `{"id": ..., "truth": ..., "time": ...}`, until `stopped`.

    An offset is committed once its outcome is on the disk; the same outcome again is the same.

    Args:
        job: Its `sink` has the topic of messages that are no outcomes.
        add: `Outcomes.add_rows`.
        stopped: See `run_stream`.
        watch: See `run_stream`.
    """

    def act(messages: Sequence[Message]) -> tuple[list[Reply], int]:
        rows, bad = _decoded(messages)
        found = [
            (row.get("id", row.get(ID)), row.get("truth"), row.get("time")) for row in rows.values()
        ]
        refused = add(job.model, found)[1] if found else ()
        places = [*rows]
        bad |= {places[one.index]: one.reason for one in refused}
        return [_dead(job, messages[n], why) for n, why in sorted(bad.items())], len(bad)

    group = f"{_group(job)}-outcomes"
    return _followed(job, group, act, stopped or threading.Event(), watch)


def _group(job: StreamJob) -> str:
    """The name that processes share unless the address has one; NATS takes no dots and slashes."""
    name = f"bascule-{job.model}-{Address.of(job.source).topic}-{Address.of(job.sink).topic}"
    return re.sub(r"[^\w-]", "-", name)


def _followed(
    job: StreamJob,
    group: str,
    act: Act,
    stopped: threading.Event,
    watch: Callable[[Streamed], None],
) -> Streamed:
    """Open the stream, again after a fault of the broker, and act on its messages."""
    done, began_s, failed = Streamed(), time.monotonic(), 0
    name = f"{group}-{secrets.token_hex(8)}"
    while not stopped.is_set():
        before = done.messages
        try:
            _follow(job, group, name, act, stopped, done, watch)
            break
        except (Unavailable, Overloaded) as problem:
            failed = 0 if done.messages > before else failed + 1
            done.faults += 1
            log.warning("the stream is opened again: %s", problem)
            stopped.wait(pause_s(failed))
    done.seconds = time.monotonic() - began_s
    return done


def _follow(
    job: StreamJob, group: str, name: str, act: Act, stopped: threading.Event, done: Streamed,
    watch: Callable[[Streamed], None],
) -> None:  # fmt: skip
    source = open_subscription(Address.of(job.source), group)
    with closing(source), closing(open_publisher(Address.of(job.sink), source, name)) as publisher:
        last_s: float | None = None  # a group may take long to let this process in
        while not stopped.is_set():
            messages = source.take(job.batch_rows, job.wait_s)
            now_s = time.monotonic()
            if messages:
                _answer(act, messages, source, publisher, done)
            elif job.idle_s and last_s is not None and now_s - last_s >= job.idle_s:
                return
            if messages or last_s is None:
                last_s = time.monotonic()
            done.lag = source.lag()
            watch(done)


def _answer(
    act: Act, messages: Sequence[Message], source: Subscription, publisher: Publisher,
    done: Streamed,
) -> None:  # fmt: skip
    began_s = time.monotonic()
    replies, quarantined = act(messages)
    publisher.publish(replies, source, messages)
    done.messages, done.quarantined = done.messages + len(messages), done.quarantined + quarantined
    done.busy_s, done.committed_at = done.busy_s + time.monotonic() - began_s, time.time()


@dataclass
class _MessageScorer:
    """Messages to replies."""

    job: StreamJob
    bundle: Bundle
    version: str
    recorder: Recorder | None = None
    _ids: str = field(init=False)

    def __post_init__(self) -> None:
        job = self.job
        self._schema = _schema_of(self.bundle)
        self.scorer = Scorer(
            self.bundle, self.version, self._schema, columns=job.columns, keep=(),
            parameters={"confidence": job.confidence},
        )  # fmt: skip
        self._topic, self._dead_topic = Address.of(job.sink).topic, job.dead_topic
        # Not of the version: a message that comes again may be answered by the next one.
        self._ids = f"{self.bundle.name} {Address.of(job.sink).place}"

    def replies(self, messages: Sequence[Message]) -> tuple[list[Reply], int]:
        """What is published: an answer or a dead letter for each message, in their order."""
        rows, bad = _decoded(messages)
        places, batch = [*rows], None
        if rows:
            batch, wrong = self._columns([*rows.values()])
            bad |= {places[n]: why for n, why in wrong.items()}
            places = [n for n in places if n not in bad]
        found = dict[int, Reply]()
        if batch is not None and batch.num_rows:
            scored = self.scorer.score(batch, "", 0)
            bad |= {places[one.row]: one.reason for one in scored.poison}
            good = [n for n in places if n not in bad]
            for n, answer in zip(good, scored.rows.to_pylist(), strict=True):
                found[n] = self._reply(messages[n], rows[n], answer)
            self._record([messages[n] for n in places], batch, scored.outputs)
        for n, why in bad.items():
            found[n] = _dead(self.job, messages[n], why)
        return [found[n] for n in sorted(found)], len(bad)

    def _columns(self, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The inputs of rows as columns; by place, why the other rows are none."""
        import pyarrow as pa

        bad = dict[int, str]()
        for one in self._schema:
            values = [row.get(one.name) for row in rows]
            if _array(values, one.type) is None:
                for place, value in enumerate(values):
                    if _array([value], one.type) is None:
                        bad.setdefault(place, f"{one.name}: {value!r:.80} is no {one.type}")
        good = [row for place, row in enumerate(rows) if place not in bad]
        arrays = [_array([row.get(one.name) for row in good], one.type) for one in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema), bad

    def _reply(
        self, message: Message, row: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> Reply:  # fmt: skip
        kept = row if self.job.keep is None else {n: row.get(n) for n in self.job.keep}
        prefix, place = self._id(message)
        made = f"{prefix}#{place}"
        value = msgspec.json.encode({**kept, **answer, ID: made, VERSION: self.version})
        return Reply(self._topic, message.key, value, made)

    def _id(self, message: Message) -> tuple[str, int]:
        block, place = divmod(message.number, _PLACES)
        return sha256_bytes(f"{self._ids} {message.part} {block}".encode())[7:27], place

    def _record(self, messages: Sequence[Message], batch: pa.RecordBatch, outputs: Any) -> None:
        """What monitoring gets; as in batch, a message does not fail because of it."""
        if self.recorder is None:
            return
        ids = [self._id(message) for message in messages]
        for prefix in dict.fromkeys(name for name, _ in ids):
            rows = np.array([n for n, (name, _) in enumerate(ids) if name == prefix])
            places = np.array([ids[n][1] for n in rows])
            own = None if outputs is None else {n: values[rows] for n, values in outputs.items()}
            try:
                self.recorder.add(prefix, places, batch.take(rows), Record(0, len(rows), 0), own)
            except (Invalid, ArithmeticError, TypeError, ValueError, OSError) as problem:
                log.warning("messages are not in the profiles: %s", problem)


def _decoded(messages: Sequence[Message]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """By place, the messages that are objects, and why the others are none."""
    rows, bad = dict[int, dict[str, Any]](), dict[int, str]()
    for place, message in enumerate(messages):
        try:
            rows[place] = msgspec.json.decode(message.value, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            bad[place] = f"the message is no JSON object: {problem}"
    return rows, bad


def _dead(job: StreamJob, message: Message, why: str) -> Reply:
    place = f"{message.part}/{message.number}"
    headers = {"bascule-reason": " ".join(why.split())[:1_000], "bascule-place": place}
    return Reply(job.dead_topic, message.key, message.value, f"dead {place}", headers)


def _schema_of(bundle: Bundle) -> pa.Schema:
    """The fields that a message must have, in the types of the model."""
    import pyarrow as pa

    signature = bundle.signature
    if signature.is_matrix and not signature.columns:
        raise Invalid(
            f"{bundle.name} knows no names of columns, and a message has no order of fields",
            hint="fit the model on a table with names, and pack it again",
        )
    fields = []
    for one in signature.inputs:
        kind = pa.string() if one.dtype is DType.BYTES else pa.from_numpy_dtype(one.dtype.numpy)
        kind = pa.bool_() if one.booleans else kind
        for _ in () if signature.is_matrix else one.shape:
            kind = pa.list_(kind)
        fields += [(name, kind) for name in (signature.columns or (one.name,))]
    return pa.schema(fields)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    """The values as a column; None where one does not fit."""
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return None
