"""What a run leaves for monitoring: profiles of a sample of its rows, or all rows if asked.

Rows are appended to the spool of the home, as a server's answers are, so drift, monitor and SQL
read both. Without `rows` the blocks are anonymous: profiles are made of them, and no rows kept.
A sample is recorded when its chunk is committed; a killed run lacks at most the last such sample.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.batch.manifest import Record
from bascule.batch.scoring import Scorer
from bascule.bundle import conform
from bascule.bundle.statements import column_names, names_of_projections
from bascule.core import BasculeError, Columns, Conflict
from bascule.monitoring.ledger import (
    HASH,
    SEALED,
    SEALING,
    TEXT,
    Column,
    Head,
    Layout,
    Scribe,
    SpoolWriter,
    hash_key,
    hashed,
    pack_request,
    text_pieces,
    to_bytes,
)

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

PROTOCOL = "batch"
"""The `protocol` of these rows in the ledger."""
_OK = 200
_SPOOL_BYTES = 1 << 40
"""A run may be larger than what a server may leave unread; a full disk ends the recording."""


@dataclass(frozen=True, slots=True)
class MonitoringRules:
    """What the settings say about monitoring a run.

    Attributes:
        is_recorded: Whether anything is recorded.
        version: Of the model, as servers name it in the ledger.
        private: By `FIELD` or `MODEL.FIELD`, "omit", "hash", "encrypt" or "tokenise".
        max_values_per_row: A field with more, such as an image, is left out.
        false_alarms_a_year: That checks of drift may raise, for one run a day.
    """

    is_recorded: bool = False
    version: str = ""
    private: Mapping[str, str] = field(default_factory=dict)
    max_values_per_row: int = 1_024
    false_alarms_a_year: float = 4.0


class Recorder:
    """Appends rows of one run to the spool. Safe on several threads."""

    def __init__(
        self, home: Path, scorer: Scorer, rules: MonitoringRules, *, keeps_rows: bool
    ) -> None:
        """Raises `OSError` where the home cannot be written."""
        self.keeps_rows = keeps_rows
        self._home, self._scorer, self._rules = home, scorer, rules
        self._bundle = scorer.bundle
        manifest = self._bundle.manifest
        self._names = column_names(self._bundle.signature, manifest.classes, manifest.targets)
        self._names |= names_of_projections(self._bundle.path, manifest)
        self._key = hash_key(home) if keeps_rows and "hash" in rules.private.values() else b""
        self._lock = threading.Lock()
        self._spool = SpoolWriter(home, max_bytes=_SPOOL_BYTES)

    def add(
        self, prefix: str, places: NDArray[Any], rows: pa.RecordBatch, record: Record,
        outputs: Columns | None = None,
    ) -> None:  # fmt: skip
        """Append rows of a chunk.

        Args:
            prefix: The id that the predictions of the chunk begin with.
            places: Of the rows in their chunk.
            rows: Columns of the source. Rows that cannot be scored are left out.
            record: How many rows of the chunk these stand for, and the seconds it took.
            outputs: What the bundle has answered; None where it is asked again.
        """
        read = self._scorer.inputs(rows)
        if outputs is None:
            places, inputs, outputs = self._answered(places, read)
        else:
            inputs = conform(read, self._bundle.signature)
            outputs = {one.name: outputs[one.name] for one in self._bundle.signature.outputs}
        if not len(places):
            return
        asked, asked_parts, asked_sizes = self._pieces(inputs)
        said, said_parts, said_sizes = self._pieces(outputs)
        total = len(places) if self.keeps_rows else max(record.rows, len(places))
        request = pack_request(
            time.time_ns(), int(record.seconds * 1e9), 0.0, total, len(places), _OK, 0
        )
        ids = text_pieces([prefix if self.keeps_rows else ""])
        front = [request, *ids, places.astype("<i4").tobytes()]
        head = Head(
            model=self._bundle.name, version=self._rules.version, endpoint=self._bundle.name,
            interval=0, share=1.0, origins=(("", PROTOCOL, ""),),
            layout=Layout(
                asked, said, self._names,
                tuple(one.name for one in (*asked, *said) if one.name.endswith(SEALED)),
            ).to_bytes(),
            is_anonymous=not self.keeps_rows,
            sizes=(*map(len, front), *asked_sizes, *said_sizes),
        )  # fmt: skip
        block = to_bytes(head, [*front, *asked_parts, *said_parts])
        with self._lock:
            self._spool.wait_for_room(len(block))
            self._spool.keep(prefix if self.keeps_rows else "")
            self._spool.append(block, 1)

    def close(self) -> None:
        """Write what waits; take it into the ledger, unless a server's scribe does."""
        self._spool.close()
        try:
            scribe = Scribe(self._home)
        except Conflict:
            return
        try:
            while scribe.turn(everything=True):
                pass
        finally:
            scribe.close()

    def _answered(
        self, places: NDArray[Any], rows: pa.RecordBatch
    ) -> tuple[NDArray[Any], Columns, Columns]:
        import pyarrow as pa

        try:
            outputs = dict(self._bundle.predict(rows))
        except BasculeError:
            bad = {one.row for one in self._scorer.refused(rows)}
            kept = np.array([row for row in range(rows.num_rows) if row not in bad], np.int64)
            if not bad or not len(kept):
                return places[:0], {}, {}
            return self._answered(places[kept], rows.take(pa.array(kept)))
        return places, conform(rows, self._bundle.signature), outputs

    def _pieces(self, columns: Columns) -> tuple[tuple[Column, ...], list[Any], list[int]]:
        """The columns that may be recorded, their parts of a block, and the sizes of these."""
        described: list[Column] = []
        parts: list[Any] = []
        for name, values in columns.items():
            column = self._column(name, values)
            if column is None:
                continue
            described.append(column)
            if column.is_text:
                flat = values.ravel().tolist()
                parts += text_pieces(hashed(flat, self._key) if column.dtype == HASH else flat)
            else:
                parts.append(np.ascontiguousarray(values).tobytes())
        return tuple(described), parts, [len(one) for one in parts]

    def _column(self, name: str, values: NDArray[Any]) -> Column | None:
        private = self._rules.private
        rules = {private.get(name, ""), private.get(f"{self._bundle.name}.{name}", "")}
        if "omit" in rules or ("hash" in rules and not self._key):
            return None
        kinds = rules & SEALING.keys()
        if kinds and not self.keeps_rows:
            return None
        name = f"{name}{SEALING[max(kinds)]}" if kinds else name
        kind, shape = TEXT if values.dtype == object else values.dtype.str, values.shape[1:]
        made = Column(f"{name}.hash", HASH, shape) if "hash" in rules else Column(name, kind, shape)
        return made if made.values_per_row <= self._rules.max_values_per_row else None


def open_recorder(home: Path, scorer: Scorer, rules: MonitoringRules, what: str) -> Recorder | None:
    """The recorder of a job whose field `record` is `what`; None where nothing is recorded."""
    if not rules.is_recorded or what == "off":
        return None
    try:
        return Recorder(home, scorer, rules, keeps_rows=what == "rows")
    except OSError as problem:
        log.warning(
            "the run is not recorded for monitoring: %s cannot be written: %s", home, problem
        )
        return None


def close_quietly(recorder: Recorder | None) -> None:
    """Close it. The rows of the run are in the sink: what fails here fails no run."""
    with suppress(OSError):
        try:
            if recorder is not None:
                recorder.close()
        except BasculeError as problem:
            log.warning("the run is not in the profiles yet: %s", problem)
