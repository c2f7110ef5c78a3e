"""A bundle in the hand: what it says, what is said of it, and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bascule.bundle import format as disk
from bascule.bundle.answer import Answer
from bascule.bundle.baseline import Baseline, read_baseline
from bascule.bundle.calibration import read_calibration
from bascule.bundle.choosing import fastest
from bascule.bundle.cost import Cost
from bascule.bundle.format import Manifest, Statement
from bascule.bundle.manifest import Target
from bascule.bundle.parity import Parity
from bascule.bundle.programs import runnable
from bascule.bundle.tables import conform, for_program
from bascule.core.errors import Invalid
from bascule.core.fields import Columns, Signature
from bascule.core.programs import Program
from bascule.stats.conformal import Calibration, check_confidence


class Bundle:
    """One verified bundle. Immutable but for the statements beside it."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = manifest.digest
        self._programs: dict[str, Program] = {}

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
        """What is said of this bundle, oldest first."""
        return disk.read_statements(self.path, kind)

    def add_statement(
        self, kind: str, body: Mapping[str, Any], *, at: datetime | None = None, by: str
    ) -> Statement:
        """Say something of this bundle; see `bundle.format.write_statement`."""
        return disk.write_statement(self.path, kind, body, at=at, by=by)

    def predict(
        self, data: Any, *, confidence: float | None = None, conformal: str | None = None
    ) -> Answer:
        """The model's answer for any table or matrix that fits the signature.

        The program that is fastest for so many rows runs; the answer says which one it was.

        Args:
            data: The rows.
            confidence: How often the truth should be inside what is added to the answer: a
                `prediction_set` for a classifier, `lower` and `upper` for a regressor. Nothing is
                added if None.
            conformal: The method, `lac` or `aps` for a classifier; the usual one if None.

        Raises:
            Invalid: The rows do not fit, and the message names the column; or the bundle cannot
                support the confidence.
        """
        if confidence is None:
            return self._run(data)
        calibration = self.calibration
        if calibration is None:
            raise Invalid(
                f"confidence: {self.name} has no calibration",
                hint="pack the model with test=(X, y) or calibration=(X, y)",
            )
        confidence = check_confidence(confidence)
        calibration.threshold(confidence, conformal)
        answer = self._run(data)
        added = calibration.added(dict(answer), confidence, conformal)
        return Answer({**answer, **added}, answer.program)

    def _run(self, data: Any) -> Answer:
        columns = conform(data, self.signature)
        name = self.fastest_program(len(next(iter(columns.values()))))
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = self.program(name)
        return Answer(program.run(for_program(columns, program.inputs)), name)

    @property
    def calibration(self) -> Calibration | None:
        """What prediction sets and intervals are made with; None where the bundle holds none."""
        return read_calibration(self.path, self.manifest)

    @property
    def baseline(self) -> Baseline | None:
        """The profile of the training rows and of the answers; None where the bundle holds none."""
        return read_baseline(self.path, self.manifest)

    def program(self, name: str | None = None, *, threads: int = 1) -> Program:
        """A program of the bundle, newly opened; None for the one that serves requests here."""
        return disk.open_program(self.path, self.manifest, name=name, threads=threads)

    def fastest_program(self, rows: int) -> str:
        """The name of the program that takes the least time for a batch of `rows` here."""
        names = runnable(self.manifest.programs)
        if len(names) < 2:
            return self.manifest.serves
        cost = self.cost
        return fastest(names, {} if cost is None else cost.latency_us, rows)

    def original(self) -> Program:
        """The model as it was trained; needs its framework."""
        return disk.open_original(self.path, self.manifest)

    def test_data(self) -> tuple[Columns, NDArray[Any] | None] | None:
        """The held-out rows and their truth; None where the bundle holds none."""
        if disk.TEST_DATA not in self.manifest.files:
            return None
        from bascule.bundle.heldout import from_parquet

        data = disk.read_file(self.path, self.manifest, disk.TEST_DATA)
        return from_parquet(data, self.signature)

    def __repr__(self) -> str:
        return f"Bundle({self.name!r}, {self.digest[:19]}, {str(self.path)!r})"


def load(path: str | Path) -> Bundle:
    """Open a bundle after every file of it was compared with its digest.

    Raises:
        NotFound: There is no bundle at `path`.
        Untrusted: A file is not what the manifest says, or the schema is newer than this version.
    """
    path = Path(path)
    return Bundle(path, disk.read_manifest(path))
