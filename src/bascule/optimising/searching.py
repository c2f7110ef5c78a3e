"""Searches for a smaller model within a budget, judges it against its parent, and packs it.

Candidates are the parent's graph made smaller, or models of other architectures, newly trained.

Each candidate is a bundle, measured and judged by the criteria of the gates. Half of the held-out
rows serve the search: they calibrate, prune and compare. The other half is asked afterwards, of the
candidates on the front within the budget, from the largest to the smallest, until the first one
fails. With an order that other rows have fixed, the chance to choose a model that is worse by the
margin or more stays that of a single test, 5 %, however many are tried (Maurer, Hothorn and
Lehmacher 1995).

A device that can measure does so for the parent, which gives the factor of all estimates, and for
the candidates of the front. What it cannot open or finds too slow is left out before any gate, so
the order is fixed as before.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from bascule.bundle import take
from bascule.bundle.disk import EXPLAINING, ProgramEntry, read_file
from bascule.bundle.programs import MACHINE_CODE, ONNX
from bascule.core import (
    Columns,
    Invalid,
    Scratch,
    Unavailable,
    Unconvertible,
    first_line,
    library,
    user_name,
)
from bascule.optimising.devices import MEASURED, Device, measure_on
from bascule.optimising.front import Candidate, draw, front_of
from bascule.packing import DerivedGraph, pack
from bascule.release import (
    FIRST_CRITERION,
    Criterion,
    GateReport,
    Measured,
    NotWorse,
    check,
    evaluate,
)

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.edge import Timing

_DRAFT_ROWS = 256
_Rows = tuple[Columns, Any]
_Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Optimised:
    """What came of a search.

    Attributes:
        parent: The bundle itself, measured as the candidates were.
        candidates: In the order of the search, with the reasons of those that could not be made.
        chosen: The smallest that passed; None where none did.
        bundle: It, packed.
        compared: The criterion that compares it with its parent.
    """

    parent: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    bundle: Bundle | None
    compared: NotWorse

    def to_json(self) -> dict[str, Any]:
        front = front_of([own for own in self.candidates if not own.problem])
        return {
            "parent": self.parent.to_json(),
            "candidates": [
                {**own.to_json(), "on_front": own in front, "is_chosen": own is self.chosen}
                for own in self.candidates
            ],
            "compared": str(self.compared),
            "chart": draw(self.candidates, self.compared.margin, self.compared.metric),
        }


def optimise(
    parent: Bundle,
    *,
    reference: str,
    to: str | Path,
    device: Device | None = None,
    trials: int = 60,
    prunes: bool = False,
    seed: int = 0,
    trainer: Any = None,
    tell: _Tell = lambda _: None,
) -> Optimised:
    """The smallest model within the budgets of a device that is not worse than its parent.

    Args:
        parent: A bundle with held-out rows, answered by an ONNX graph.
        reference: What the lineage calls it: `late/4`.
        to: The folder of the new bundle; it is made where a candidate passes.
        device: Its budgets; one that compares (`rmse <= parent + 0.5`) names the metric. Without
            one the first metric of the task may lose 0.01.
        trials: How many points of the space are drawn.
        prunes: Whether small weights of networks are set to zero, for smaller downloads.
        seed: Of the search, and of the halves of the held-out rows.
        trainer: `training.Architectures`, which trains candidates; the parent need be no graph.
        tell: Called with a sentence for each candidate.

    Raises:
        Invalid: There are no held-out rows with their truth, or a budget cannot be read.
        Unconvertible: There are no weights or trees in the graph to make smaller.
        MissingExtra: Optuna is not installed.
        Unavailable: The device cannot measure the parent.
    """
    search = _Search(parent, device or Device(), reference, seed, trainer)
    search.run(trials, tell, prunes=prunes)
    if search.device.measure:
        search.measure_front(tell)
    chosen, bundle = search.confirm(tell), None
    if chosen is not None:
        # It has been packed before, and has the same digest: what is measured is no part of it.
        bundle = search.packed(chosen, Path(to), measure=parent.cost is not None)
    return Optimised(search.own, tuple(search.tried.values()), chosen, bundle, search.compared)


class _Search:
    """The candidates of one parent, and the rows that each question is asked on."""

    def __init__(
        self, parent: Bundle, device: Device, reference: str, seed: int, trainer: Any
    ) -> None:  # fmt: skip
        columns, truth = trainer.held_out() if trainer else parent.test_data() or ({}, None)
        if truth is None:
            raise Invalid(
                f"{parent.name} holds no test rows with their truth, to judge smaller models by",
                hint="pack it with test=(X, y)",
            )
        self._parent, self._reference, self._seed = parent, reference, seed
        self._held_out = columns, truth
        order = np.random.default_rng(seed).permutation(len(truth))
        self._search_rows, self._gate_rows = (
            (take(columns, half), truth[half]) for half in np.array_split(order, 2)
        )
        self._trainer, self._room = trainer, trainer
        if trainer is None:
            self._entry, self._graph = graph_of(parent)
            self._room = _room_of(self._graph)
        self.tried: dict[str, Candidate] = {}
        self.device = device
        self._limits, self.compared = criteria_of(parent.task, device)
        own = self._measured(parent, {"way": "as it is"})
        if device.measure:
            timing, here_ms = measure_on(device, parent), own.latency_ms / device.latency_factor
            factor = timing.p50_ms / here_ms
            self.device = msgspec.structs.replace(device, latency_factor=factor)
            own = _with(own, timing)
        self.own = own

    def run(self, trials: int, tell: _Tell, *, prunes: bool) -> None:
        """Try what does well by rule, then points that Optuna draws, and measure each once."""
        optuna = library("optuna", "optimise")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self._seed)
        study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
        for settings in self._room.FIRST:
            study.enqueue_trial(settings)
        for _ in range(trials):
            trial = study.ask()
            settings = self._room.suggest(trial, prunes=prunes)
            if (key := repr(settings)) not in self.tried:
                self.tried[key] = candidate = self._try(settings)
                tell(f"{candidate.words}: {candidate.problem or candidate.figures}")
            losses = self.tried[key].losses
            if math.isfinite(sum(losses)):
                study.tell(trial, losses)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _try(self, settings: Mapping[str, Any]) -> Candidate:
        """Made, packed, measured; with the problem where that cannot be."""
        try:
            with Scratch("bascule-optimise-") as folder:
                candidate = self._measured(self._draft(settings, folder / "bundle"), settings)
        except Exception as problem:  # of any library: it costs this candidate, not the search
            return Candidate(settings, problem=first_line(problem))
        if candidate.size_mb >= self.own.size_mb:
            return replace(candidate, problem="it is no smaller than its parent")
        return candidate

    def _draft(self, settings: Mapping[str, Any], to: Path) -> Bundle:
        """Packed with few rows, because `pack` asks each of them several times."""
        columns, truth = self._search_rows
        rows = take(columns, slice(_DRAFT_ROWS)), truth[:_DRAFT_ROWS]
        plain = {"keep_test": False, "baseline": False, "outliers": False, "explain": False}
        return self._pack(settings, to, rows, measure=False, **plain)

    def _measured(self, bundle: Bundle, settings: Mapping[str, Any]) -> Candidate:
        report = self._check(bundle, [*self._limits, self.compared], self._search_rows)
        for own in report.results:
            if own.value is None:
                hint = "bascule check measures the same of the parent"
                raise Invalid(f"{own.criterion}: {own.reason}", hint=hint)
        values: dict[str, Any] = {own.criterion.measure: own.value for own in report.results}
        factor, served = self.device.latency_factor, bundle.manifest.served
        program = read_file(bundle.path, bundle.manifest, served.file) if served else b""
        return Candidate(
            settings, values["size"], len(zlib.compress(program)) / 1e6,
            values["latency_p50[1]"] * factor, values[self.compared.measure], _failures(report),
            latency="measured" if factor == 1 and not self.device.measure else "estimated",
        )  # fmt: skip

    def measure_front(self, tell: _Tell) -> None:
        """By the device, until all of the front is: what it finds slower gives way to others."""
        while rest := [own for own in self._front() if own.on_device is None]:
            for candidate in rest:
                measured = self._on_device(candidate)
                self.tried[repr(candidate.settings)] = measured
                tell(f"{measured.words}, on the device: {measured.problem or measured.figures}")

    def _on_device(self, candidate: Candidate) -> Candidate:
        """Its figures there; with the problem where it cannot be measured, or is over a limit."""
        try:
            with Scratch("bascule-optimise-") as folder:
                draft = self._draft(candidate.settings, folder / "bundle")
                timing = measure_on(self.device, draft)
        except Unavailable as problem:
            return replace(candidate, problem=problem.message)
        facts = {name: Measured(getattr(timing, field)) for name, field in MEASURED.items()}
        budgets = map(Criterion.parse, self.device.budgets)
        report = evaluate([own for own in budgets if own.measure in facts], facts)
        return replace(_with(candidate, timing), problem=_failures(report))

    def confirm(self, tell: _Tell) -> Candidate | None:
        """The smallest of the front that passes the gate, as it is packed, with all larger ones."""
        chosen = None
        for candidate in self._front():
            with Scratch("bascule-optimise-") as folder:
                bundle = self.packed(candidate, folder / "bundle", measure=False)
                report = self._check(bundle, [*self._limits, self.compared], self._gate_rows)
            reason = _failures(report) or report.results[-1].reason
            confirmed = replace(candidate, confirmed=reason)
            self.tried[repr(candidate.settings)] = confirmed
            tell(f"{candidate.words}, on the rows of the gate: {reason}")
            if not report.passed:
                break
            chosen = confirmed
        return chosen

    def _front(self) -> list[Candidate]:
        return front_of([own for own in self.tried.values() if not own.problem])

    def packed(self, candidate: Candidate, to: Path, *, measure: bool) -> Bundle:
        """As any model is packed, explained where its parent is."""
        return self._pack(
            candidate.settings, to, self._held_out, measure=measure,
            lineage=[f"bundle:{self._reference}@{self._parent.digest}"],
            parameters=dict(candidate.settings),
            explain=EXPLAINING in self._parent.manifest.files,
            description=f"{self._reference}, made smaller for {self.device.name}",
        )  # fmt: skip

    def _pack(self, settings: Mapping[str, Any], to: Path, rows: _Rows, **options: Any) -> Bundle:
        options["progress"] = lambda _: None
        if self._trainer is not None:
            return cast("Bundle", self._trainer.pack(settings, to, **options))
        data = self._room.make(self._graph, settings, self._entry, self._search_rows[0])
        manifest, words = self._parent.manifest, Candidate(settings).words
        return pack(
            DerivedGraph(manifest, self._entry, data, words), name=manifest.name, to=to, test=rows,
            tolerance=self._entry.tolerance, allow_non_finite=manifest.allows_non_finite,
            **options,
        )  # fmt: skip

    def _check(self, bundle: Bundle, criteria: Sequence[Criterion], rows: _Rows) -> GateReport:
        return check(
            bundle, criteria, test=rows, now=datetime.now(UTC), by=user_name(),
            record=lambda _: None, find=lambda _: self._parent,
        )  # fmt: skip


def _failures(report: GateReport) -> str:
    return "; ".join(f"{own.criterion}: {own.reason}" for own in report.failures)


def _with(candidate: Candidate, timing: Timing) -> Candidate:
    return replace(candidate, latency_ms=timing.p50_ms, latency="measured", on_device=timing)


def criteria_of(task: str, device: Device) -> tuple[list[Criterion], NotWorse]:
    """The budgets, with limits of latency in those of this machine; and the one that compares.

    Size and latency are measured in any case. What the device measures is limited there alone.

    Raises:
        Invalid: A budget is no criterion, or not exactly one of them compares with the parent and
            the task has no metric of its own.
    """
    parsed = [Criterion.parse(text) for text in device.budgets]
    if task in FIRST_CRITERION and not any(isinstance(own, NotWorse) for own in parsed):
        metric, *_ = FIRST_CRITERION[task].split()
        parsed.append(Criterion.parse(f"{metric} >= parent - 0.01"))
    compared = [own for own in parsed if isinstance(own, NotWorse)]
    if len(compared) != 1:
        raise Invalid(
            f"{len(compared)} criteria compare a {task} model with its parent, and one is needed",
            hint="give one: --budget 'accuracy >= parent - 0.01'",
        )
    limits = [
        replace(own, limit=own.limit / device.latency_factor) if own.unit == "ms" else own
        for own in parsed
        if own is not compared[0] and not (device.measure and own.measure in MEASURED)
    ]
    free = [Criterion("size", "<=", math.inf), Criterion("latency_p50", "<=", math.inf, batch=1)]
    return [*limits, *free], compared[0]


def graph_of(parent: Bundle) -> tuple[ProgramEntry, Any]:
    """The graph that answers; of trees in machine code, the one beside it with all sums apart.

    Raises:
        Unconvertible: The model is served as it was saved, or behind steps of its own.
    """
    import onnx

    for entry in reversed(parent.manifest.programs):
        if entry.features is not None:
            continue
        data = read_file(parent.path, parent.manifest, entry.file)
        if entry.kind == MACHINE_CODE:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                data = arrays["whole"].tobytes()
        return replace(entry, kind=ONNX), onnx.load_from_string(data)
    raise Unconvertible(
        f"{parent.name} is not answered by an ONNX graph alone",
        hint="only the graph of a compiled model is made smaller; bascule show says what is served",
    )


def _room_of(graph: Any) -> Any:
    """The module that makes graphs of that kind smaller."""
    from bascule.optimising import networks, trees

    for room in (trees, networks):
        if room.applies(graph):
            return room
    if any(node.op_type == "TreeEnsembleClassifier" for node in graph.graph.node):
        raise Unconvertible(
            "the trees of this graph are not summed apart from its classes",
            hint="pip install 'bascule[llvm]', and pack it again: that adds a program which is",
        )
    raise Unconvertible(
        "the graph has neither a sum of trees nor large tensors of weights in floats",
        hint="it is small already; models that gain are ensembles of trees and networks",
    )
