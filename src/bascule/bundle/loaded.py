"""A loaded bundle: its manifest, its statements, and its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bascule.bundle import disk
from bascule.bundle.answer import Answer, places_of
from bascule.bundle.choosing import Roles, fastest, roles
from bascule.bundle.disk import Manifest, Statement, Target
from bascule.bundle.extras import Extra, ExtraRequest, open_extras, read_requests, with_extras
from bascule.bundle.opening import open_original, open_program, pinned_program
from bascule.bundle.programs import runnable
from bascule.bundle.statements import (
    Baseline,
    Cost,
    Parity,
    in_batches,
    read_baseline,
    read_calibration,
)
from bascule.bundle.tables import conform, for_program, warn_of_extra
from bascule.core import (
    AroundProgram,
    Columns,
    DType,
    Invalid,
    MissingExtra,
    ModelFailed,
    Program,
    Signature,
    TimedOut,
    Unavailable,
)
from bascule.stats import Calibration
from bascule_client.answer import Places

_CALL_ROWS = 65_536
"""The most rows that an original is handed in one call, which has a bound of time and of bytes."""
_SHOWN_NAMES = 12
_LOOK_AGAIN_S = 0.1
"""How long a bundle relies on the statements that it has read: to look takes as long as to run."""
_MAX_SIZES = 1024
"""How many batch sizes a bundle remembers the fastest program of."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What batches may be run by here; looked up once, for it takes longer than many a run.

    Attributes:
        names: The programs that can run here.
        last: What the cost statement calls the original as it would run here; None if it cannot,
            or is not to be opened unasked.
        latency_us: The last cost statement's times.
        known_at_ns: When the statements had last changed.
        by_rows: What was found the fastest, by batch size.
    """

    names: list[str]
    last: str | None
    latency_us: Mapping[str, Mapping[int, float]]
    known_at_ns: int
    by_rows: dict[int, str] = field(default_factory=dict)


class Bundle:
    """One verified bundle. Immutable but for the statements beside it."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = manifest.digest
        self._programs: dict[str, Program] = {}
        self._choice: _Choice | None = None
        self._look_at_s = 0.0
        self._may_ask_original = True
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def signature(self) -> Signature:
        return self.manifest.signature

    @property
    def task(self) -> str:
        """One of `manifest.TASKS`."""
        return self.manifest.task

    @property
    def classes(self) -> tuple[str | int | float | bool, ...] | None:
        """The labels in the order of the probabilities; None unless a classifier."""
        return self.manifest.classes

    @property
    def targets(self) -> tuple[Target, ...]:
        """What each output of a model with several is of; empty for any other model."""
        return self.manifest.targets

    @property
    def parity(self) -> Parity | None:
        """The last measured parity of the first program, where a statement holds one."""
        return self.parities.get("onnx") or self.parities.get(disk.ORIGINAL)

    @property
    def parities(self) -> dict[str, Parity]:
        """The last measured parity of each program that was compared, also where it failed."""
        said = map(Parity.from_json, (s.body for s in self.statements("parity")))
        return {parity.program: parity for parity in said}

    @property
    def cost(self) -> Cost | None:
        """The last measured cost, where a statement holds one."""
        said = self.statements("cost")
        return Cost.from_json(said[-1].body) if said else None

    def statements(self, kind: str | None = None) -> list[Statement]:
        """The statements of this bundle, oldest first."""
        return disk.read_statements(self.path, kind)

    def add_statement(
        self, kind: str, body: Mapping[str, Any], *, at: datetime | None = None, by: str
    ) -> Statement:
        """Say something of this bundle; see `disk.folder.write_statement`."""
        self._choice = None
        return disk.write_statement(self.path, kind, body, at=at, by=by)

    def predict(
        self,
        data: Any,
        *,
        confidence: float | None = None,
        conformal: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The model's answer for any table or matrix that fits the signature.

        The program that is fastest for so many rows runs; the answer says which one it was.

        Args:
            data: The rows.
            confidence: How often the truth should be inside what is added to the answer: a
                `prediction_set` for a classifier, `lower` and `upper` for a regressor. Nothing is
                added if None.
            conformal: The method, `lac` or `aps` for a classifier; the usual one if None.
            parameters: Of other extra outputs, by name, as requests to a server have them.

        Raises:
            Invalid: The rows do not fit, and the message names the column; or the bundle cannot
                support the confidence.
        """
        if confidence is None and not parameters:
            return self._run(data)
        own = {"confidence": confidence, "conformal": conformal}
        return self._run(data, read_requests(self.extras, own | dict(parameters or {})))

    def _run(self, data: Any, requests: Sequence[ExtraRequest] = ()) -> Answer:
        columns = conform(data, self.signature, self._missing_texts)
        warn_of_extra(data, self.signature)
        rows = len(next(iter(columns.values())))
        name, program = self.open_for(rows)
        read = for_program(columns, program.inputs)
        if name == disk.ORIGINAL and rows > _CALL_ROWS:
            outputs = in_batches(program, read, _CALL_ROWS)
        else:
            outputs = program.run(read)
        return Answer(with_extras(requests, read, outputs), name, places=self._places)

    def open_for(self, rows: int) -> tuple[str, Program]:
        """The program that answers so many rows, and its name; it is opened once.

        A process that it has ends with the thread that opens it.
        """
        name = self.fastest_program(rows)
        program = self._programs.get(name)
        if program is not None:
            return name, program
        try:
            with self._opening:
                if name not in self._programs:
                    self._programs[name] = self._opened(name)
        except (MissingExtra, ModelFailed, TimedOut, Unavailable) as problem:
            if name != disk.ORIGINAL or not self.manifest.programs:
                raise
            import logging  # a megabyte, which a device that only answers has no use for

            said = f"{self.name}: its original cannot be used: {problem}"
            logging.getLogger(__name__).warning(said)
            self._may_ask_original, self._choice = False, None
        return self.open_for(rows)

    @cached_property
    def extras(self) -> tuple[Extra, ...]:
        """Every extra output; one without fields cannot be asked for."""
        return open_extras(self.path, self.manifest)

    @cached_property
    def _places(self) -> Places:
        return places_of(self.manifest)

    @cached_property
    def _missing_texts(self) -> Mapping[str, str]:
        """What a missing text was in each column of texts of a pandas training table."""
        recipe = self.manifest.original.frame
        if recipe.get("container") != "pandas":
            return {}
        from bascule.bundle.originals import Frame

        kinds = Frame.from_json(recipe).kinds
        inputs = self.signature.inputs
        texts = [one.name for one in inputs if one.dtype is DType.BYTES and one.dates is None]
        return {
            name: "na" if kinds[name].dtype.startswith("string") else kinds[name].missing
            for name in texts
            if name in kinds
        }

    def _opened(self, name: str) -> Program:
        """A program for batches. The original, where it is only faster, may do no harm."""
        if name != disk.ORIGINAL or not self.manifest.programs:
            return self.program(None if name == disk.ORIGINAL else name)
        return self._unasked_original(isolated=True)

    def _unasked_original(self, *, isolated: bool, threads: int = 1) -> Program:
        """The original where it serves or is faster, without the caller having named it.

        What is read by a library's own code ends the process that reads it, when it is damaged.
        """
        from bascule.bundle.originals import is_inspected, is_read_by_its_library, open_inspected

        original = self.manifest.original
        if is_inspected(original):
            return open_inspected(
                disk.read_file(self.path, self.manifest, original.file), self.manifest
            )
        isolated = isolated or is_read_by_its_library(original)
        return open_original(self.path, self.manifest, threads=threads, isolated=isolated)

    @property
    def calibration(self) -> Calibration | None:
        """What prediction sets and intervals are made with; None where the bundle holds none."""
        return read_calibration(self.path, self.manifest)

    @property
    def baseline(self) -> Baseline | None:
        """The profile of the training rows and of the answers; None where the bundle holds none."""
        return read_baseline(self.path, self.manifest)

    def program(self, name: str | None = None, *, threads: int = 1) -> Program:
        """A program of the bundle, newly opened; None for the one that serves requests here.

        Where that is the original, and its library reads the file with code of its own, it has a
        process of its own. A caller that names `original` gets it opened in this process.
        """
        if name is None and pinned_program(self.path, self.manifest) == disk.ORIGINAL:
            return self._unasked_original(isolated=False, threads=threads)
        return open_program(self.path, self.manifest, name=name, threads=threads)

    def fastest_program(self, rows: int) -> str:
        """The name of the program that takes the least time for a batch of `rows` here.

        `original` where that is the fastest by far, and is installed as it was when it was packed.
        """
        choice = self._known()
        known = choice.by_rows.get(rows)
        if known is not None:
            return known
        if not choice.names:
            return self.manifest.serves
        name = fastest(choice.names, choice.latency_us, rows, last=choice.last)
        if len(choice.by_rows) >= _MAX_SIZES:
            choice.by_rows.clear()
        made = choice.by_rows[rows] = disk.ORIGINAL if name == choice.last else name
        return made

    def roles(self) -> Roles | None:
        """Which program serves requests and which runs batches here; None where there is none."""
        choice = self._known()
        if not choice.names:
            return None
        return roles(choice.names, choice.latency_us, last=choice.last)

    def _known(self) -> _Choice:
        """What is known of the programs; statements of other processes are seen after 0.1 s."""
        choice, now = self._choice, time.monotonic()
        if choice is None or now >= self._look_at_s:
            if choice is None or choice.known_at_ns != disk.statements_changed_ns(self.path):
                choice = self._choice = self._look_up()
            self._look_at_s = now + _LOOK_AGAIN_S
        return choice

    def _look_up(self) -> _Choice:
        from bascule.bundle.originals import is_as_saved, is_inspected

        known_at_ns = disk.statements_changed_ns(self.path)
        cost = self.cost
        original = self.manifest.original
        last = None
        if self._may_ask_original and is_as_saved(original):
            last = disk.ORIGINAL if is_inspected(original) else disk.ISOLATED
        times = {} if cost is None else cost.latency_us
        return _Choice(runnable(self.manifest.programs), last, times, known_at_ns)

    def original(self) -> Original:
        """The model as it was trained, with `predict` and `predict_proba`; needs its framework."""
        return Original(open_original(self.path, self.manifest), self.signature)

    def test_data(self) -> tuple[Columns, NDArray[Any] | None] | None:
        """The held-out rows and their truth; None where the bundle holds none."""
        if disk.TEST_DATA not in self.manifest.files:
            return None
        from bascule.bundle.disk import from_parquet

        data = disk.read_file(self.path, self.manifest, disk.TEST_DATA)
        return from_parquet(data, self.signature)

    def __repr__(self) -> str:
        return f"Bundle({self.name!r}, {self.digest[:19]}, {str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What it is and how good, for notebooks; `bascule card` has the rest."""
        from bascule.bundle.card import Said, overview, parity_plot
        from bascule.documents import Plots, Table, notebook

        names = [one.name for one in self.signature.inputs]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        said = Said.of(self.statements())
        rows = (
            ("bundle", f"{self.name}, {self.digest[:19]}"),
            *overview(self.manifest, said),
            ("inputs", ", ".join(names[:_SHOWN_NAMES]) + more),
            ("outputs", ", ".join(one.name for one in self.signature.outputs)),
            ("serves", self.manifest.serves),
        )
        plots = (parity_plot(said.parities),) if said.parities else ()
        return notebook(Table(("", ""), rows), *(Plots((plot,)) for plot in plots))


class Original(AroundProgram):
    """The model as it was trained: `predict` and `predict_proba` take any table, `run` columns."""

    def __init__(self, program: Program, signature: Signature) -> None:
        super().__init__(program)
        self._signature = signature

    def __repr__(self) -> str:
        return f"Original({', '.join(one.name for one in self.outputs)})"

    def predict(self, data: Any) -> NDArray[Any]:
        """The first output: labels or numbers. Raises `Invalid` where the rows do not fit."""
        return self._asked(data, self.outputs[0].name)

    def predict_proba(self, data: Any) -> NDArray[Any]:
        """Probabilities, shape (rows, classes). Raises `Invalid` where the model gives none."""
        names = [one.name for one in self.outputs]
        if "probabilities" not in names:
            raise Invalid(
                f"the original gives no probabilities; its outputs are {', '.join(names)}",
                hint="original.predict(X)",
            )
        return self._asked(data, "probabilities")

    def _asked(self, data: Any, output: str) -> NDArray[Any]:
        columns = for_program(conform(data, self._signature), self.inputs)
        return self.run(columns, [output])[output]


def load(path: str | Path) -> Bundle:
    """Open a bundle after every file of it was compared with its digest.

    Raises:
        NotFound: There is no bundle at `path`.
        Untrusted: A file is not what the manifest says, or the schema is newer than this version.
    """
    path = Path(path)
    return Bundle(path, disk.read_manifest(path))
