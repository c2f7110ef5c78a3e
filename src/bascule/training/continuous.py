"""Continuous learning: a model that learns from outcomes, each of them once.

Outcomes are learnt in the order in which their first truth was received, in batches; what does not
fill a batch waits. After each batch the model goes through its saved form, so that it depends on
the outcomes and their order alone, not on where runs began or were killed. The state is one file,
which is replaced: a killed run is done again from the last one.

Evaluation is prequential, test then train (Gama, Sebastiao and Rodrigues 2013): an outcome is first
answered by the model that is about to learn it. With a late truth this is a model that has learnt
what arrived between the prediction and its truth; what callers got at the time is counted beside
it, as `served`. A truth that is corrected after it was learnt is not learnt again.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bascule.core import Untrusted, canonical_json, first_line, replacing, sha256_bytes
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.performance import places_of_labels
from bascule.stats import mcnemar
from bascule.training.judging import confidence_of_look
from bascule.training.learnable import answers_of, opened, saved, tested_then_learnt
from bascule.training.pipelines import named_code

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.training.pipelines import Learner

LOOKBACK = timedelta(hours=24)
"""An outcome that can be read so much later than it was received is learnt all the same."""
_UNLIKE = 1.1
"""Shares of truths that have come differ so many times before a run says so."""
_OUTCOMES = """
SELECT endpoint || chr(10) || id || '#' || row AS key, truth_first_received_at AS received_at,
    truth, truth_number, COLUMNS('^(input[.].*|output[.](label|prediction))$')
FROM newest_predictions
WHERE model = {model} AND status BETWEEN 200 AND 299 AND is_outcome {since}
ORDER BY truth_first_received_at, time, endpoint, id, row
"""
_ARRIVED = """
SELECT "output.label"::VARCHAR AS answer, count(*) AS answers,
    count(*) FILTER (is_outcome) AS known,
    count(*) FILTER (is_outcome AND coalesce(
        truth_number = TRY_CAST("output.label"::VARCHAR AS DOUBLE), truth = "output.label"::VARCHAR
    )) AS correct
FROM newest_predictions
WHERE model = {model} AND status BETWEEN 200 AND 299 AND "output.label" IS NOT NULL {clean}
GROUP BY answer ORDER BY answer
"""


@dataclass(slots=True)
class Tally:
    """Answers that were tested, and the sum of their losses: see `_losses`."""

    tested: int = 0
    lost: float = 0.0

    def add(self, losses: Sequence[float | None]) -> None:
        known = [loss for loss in losses if loss is not None]
        self.tested += len(known)
        self.lost += sum(known)

    def mean(self) -> float:
        return self.lost / self.tested if self.tested else math.nan


@dataclass(slots=True)
class State:
    """What is kept between runs.

    Attributes:
        model: Has learnt `learned` outcomes; as `learnable.saved` gives it, and so are the others.
        id: Tells the state from one of the same learner in another home.
        received_at: When the newest outcome of them was received.
        keys: Of their predictions, with that time, as far as `LOOKBACK` goes.
        rows: The newest outcomes, as Arrow has them: a snapshot is packed with them.
        snapshot: The model as it was when it had learnt `snapshot_at` outcomes; 0 for none.
        champion: The newest snapshot that has won; its version.
        prequential: See the module.
        served: See the module.
        look: The number of the comparison with this champion; one lasts from snapshot to snapshot.
        losses: Outcomes of this comparison in which the model was worse.
        wins: Those in which it was better.
        unknown: Outcomes whose truth is none of the classes, or no number.
    """

    model: bytes
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    learned: int = 0
    received_at: datetime | None = None
    keys: dict[str, datetime] = field(default_factory=dict)
    rows: bytes = b""
    snapshot: bytes = b""
    snapshot_at: int = 0
    champion: bytes = b""
    champion_version: str = ""
    prequential: Tally = field(default_factory=Tally)
    served: Tally = field(default_factory=Tally)
    look: int = 1
    losses: int = 0
    wins: int = 0
    unknown: int = 0

    def is_due(self, learner: Learner) -> bool:
        """Whether the snapshot is to be judged before the next batch."""
        return self.snapshot_at > 0 and self.learned >= self.snapshot_at + learner.held_out

    def settle(self, version: str, *, wins: bool) -> None:
        """The snapshot was judged."""
        if wins:
            self.champion, self.champion_version = self.snapshot, version
            self.look, self.losses, self.wins = 1, 0, 0
        self.snapshot, self.snapshot_at = b"", 0

    def take(self, learner: Learner, batch: pa.Table, rows: pa.Table) -> None:
        """Note what is learnt, so that nothing of it is learnt again."""
        import pyarrow as pa

        self.learned += len(batch)
        if self.rows:
            rows = pa.concat_tables([self.table(), rows], promote_options="permissive")
        rows = rows.slice(max(0, len(rows) - learner.every - int(learner.held_out)))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        self.rows = sink.getvalue().to_pybytes()
        received = batch["received_at"].to_pylist()
        self.received_at = max(filter(None, (self.received_at, received[-1])))
        self.keys.update(zip(batch["key"].to_pylist(), received, strict=True))
        oldest = self.received_at - LOOKBACK
        self.keys = {key: at for key, at in self.keys.items() if at > oldest}

    def table(self) -> pa.Table:
        """The rows: the inputs and `truth`."""
        import pyarrow as pa

        return pa.ipc.open_stream(self.rows).read_all()


def key_of(learner: Learner) -> str:
    """Names the state: a learner that begins or learns in another way has another one."""
    parts = [learner.fit, learner.classes, learner.batch, learner.parameters]
    parts += [learner.holdback] if learner.holdback else []
    return f"{learner.name}-{sha256_bytes(canonical_json(parts)).removeprefix('sha256:')[:12]}"


def open_state(file: Path, learner: Learner) -> State:
    """The state in a file; without one, that of the model to begin with, which is saved at once.

    Raises `Untrusted` where the file is not what `save_state` writes.
    """
    if not file.is_file():
        save_state(file, State(saved(named_code(learner.fit, "fit")(**learner.parameters))))
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=State)
    except msgspec.MsgspecError as problem:
        raise Untrusted(
            f"{file} is no state of a learner: {first_line(problem)}",
            hint="bring it back from a backup, or move it away: the learner then begins anew",
        ) from None


def save_state(file: Path, state: State) -> None:
    """Replace the file, or leave it as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as target:
        target.write_bytes(msgspec.msgpack.encode(state))


def new_batches(ledger: Ledger, learner: Learner, state: State) -> Iterator[pa.Table]:
    """The outcomes that were not learnt yet; none of reviews, whose rows are chosen."""
    import pyarrow as pa

    since = ""
    if state.received_at is not None:
        oldest = state.received_at - LOOKBACK
        since = f"AND truth_first_received_at > TIMESTAMPTZ '{oldest.isoformat()}'"
    sql = _outcomes(learner, since)
    table = ledger.query(sql, model=learner.name)
    table = table.filter(pa.array([key not in state.keys for key in table["key"].to_pylist()]))
    for start in range(0, len(table) - learner.batch + 1, learner.batch):
        yield table.slice(start, learner.batch)


def count_outcomes(ledger: Ledger, learner: Learner) -> int:
    """How many there are, learnt or not."""
    sql = _outcomes(learner)
    return int(
        ledger.query(f"SELECT count(*) AS n FROM ({sql})", model=learner.name)["n"][0].as_py()
    )


def _outcomes(learner: Learner, since: str = "") -> str:
    return _OUTCOMES.format(model=quoted(learner.name), since=_clean(learner) + since)


def _clean(learner: Learner) -> str:
    return "AND arm = 'holdback' " if learner.holdback else ""


def learn(learner: Learner, state: State, batch: pa.Table) -> str:
    """Test, then train. Gives a sentence where the model was given up for the champion."""
    import pyarrow as pa

    inputs = batch.select([name for name in batch.column_names if name.startswith("input.")])
    inputs = inputs.rename_columns([name.removeprefix("input.") for name in inputs.column_names])
    truths = _known(learner, batch["truth" if learner.classes else "truth_number"])
    model = opened(state.model, state.learned)
    losses = _losses(learner, tested_then_learnt(model, inputs, truths, learner.classes), truths)
    state.model = saved(model)
    state.prequential.add(losses)
    served = "output.label" if learner.classes else "output.prediction"
    if served in batch.column_names:
        state.served.add(_losses(learner, _known(learner, batch[served]), truths))
    state.unknown += truths.count(None)
    state.take(learner, batch, inputs.append_column("truth", pa.array(truths)))
    sentence = ""
    if state.champion:
        others = answers_of(opened(state.champion, state.learned), inputs, learner.classes)
        sentence = _compare(state, losses, _losses(learner, others, truths))
    if state.learned % learner.every == 0:
        state.snapshot, state.snapshot_at = state.model, state.learned
        state.look, state.losses, state.wins = state.look + 1, 0, 0
    return sentence


def _compare(
    state: State, losses: Sequence[float | None], others: Sequence[float | None]
) -> str:  # fmt: skip
    """Return to the champion where it is shown to answer better, at any time: `stats.mcnemar`.

    A comparison begins at each snapshot, so that old merits do not hide decay. All those with a
    champion err together as `judging` has it.
    """
    pairs = [(a, b) for a, b in zip(losses, others, strict=True) if a is not None and b is not None]
    state.losses += sum(a > b for a, b in pairs)
    state.wins += sum(a < b for a, b in pairs)
    tests = mcnemar(state.losses, state.wins, state.losses + state.wins, bounds=False)
    if tests.log_e_worse < -math.log((1 - confidence_of_look(state.look)) / 2):
        return ""
    sentence = (
        f"after {state.learned:,} outcomes the model was given up for {state.champion_version}, "
        f"which was better {state.losses:,} times and worse {state.wins:,} times"
    )
    state.model, state.losses, state.wins = state.champion, 0, 0
    return sentence


def _known(learner: Learner, column: pa.ChunkedArray) -> list[Any]:
    """None for what is no class; without classes, for what is no finite number."""
    values = column.to_pylist()
    if not learner.classes:
        return [
            float(value) if value is not None and math.isfinite(value) else None for value in values
        ]
    places = places_of_labels(values, learner.classes)
    return [None if place < 0 else learner.classes[place] for place in places]


def _losses(
    learner: Learner, answers: Sequence[Any], truths: Sequence[Any]
) -> list[float | None]:  # fmt: skip
    """1 for a wrong class, or how far a number is off; None where answer or truth is not there."""
    return [
        None
        if answer is None or truth is None
        else float(answer != truth if learner.classes else abs(answer - truth))
        for answer, truth in zip(answers, truths, strict=True)
    ]


def arrived(ledger: Ledger, learner: Learner) -> list[tuple[str, int, int, int]]:
    """Of each label that was answered: how often, with a truth, and rightly."""
    sql = _ARRIVED.format(model=quoted(learner.name), clean=_clean(learner))
    table = ledger.query(sql, model=learner.name)
    return [tuple(row.values()) for row in table.to_pylist()]


def arrival(counts: Sequence[tuple[str, int, int, int]]) -> tuple[float, str]:
    """The accuracy of what was served with each answer by its share of all answers, and a sentence.

    It is right where the arrival of a truth depends on the answer alone (post-stratification, Holt
    and Smith 1979); the sentence is empty where truths came alike.
    """
    tested = [(answers, known, right) for _, answers, known, right in counts if known]
    if not tested:
        return math.nan, ""
    answers, known, _ = np.array(tested).T
    rates = np.array([right / known for _, known, right in tested])
    plain = float(np.average(rates, weights=known))
    weighted = float(np.average(rates, weights=answers))
    shares = sorted((known / answers, label) for label, answers, known, _ in counts)
    (least, rare), (most, often) = shares[0], shares[-1]
    if most <= _UNLIKE * least:
        return weighted, ""
    return weighted, (
        f"truths came for {most:.0%} of the answers {often} and {least:.0%} of {rare}: {plain:.1%} "
        f"of what came was right, {weighted:.1%} by the shares of all answers"
    )
