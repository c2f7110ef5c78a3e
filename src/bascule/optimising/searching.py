"""Searches for a smaller model within a budget, judges it against its parent, and packs it.

Each candidate is a bundle, measured and judged by the criteria of the gates. Half of the held-out
rows, or rows of the caller's, serve the search: they calibrate, prune and compare. The other half
is asked afterwards, of the candidates on the front within the budget, from the largest to the
smallest, until the first one fails: with an order that is fixed by other rows, the chance to choose
a model that is worse by the margin or more stays that of a single test, 5 % (Maurer, Hothorn and
Lehmacher 1995), however many are tried.
"""

from __future__ import annotations

import io
import math
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bascule.bundle import conform, load, take
from bascule.bundle.disk import EXPLAINING, ProgramEntry, read_file
from bascule.bundle.programs import MACHINE_CODE, ONNX
from bascule.core import (
    BasculeError,
    Columns,
    Invalid,
    MissingExtra,
    Scratch,
    Signature,
    Unconvertible,
    user_name,
)
from bascule.optimising.devices import Device
from bascule.optimising.front import Candidate, non_dominated
from bascule.packing import DerivedGraph, pack
from bascule.release import FIRST_CRITERION, Criterion, GateReport, NotWorse, check

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_INF = math.inf
_PLAIN = {"baseline": False, "outliers": False, "explain": False}
"""What a candidate is packed without: nothing of it is judged."""
_PARENT = "parent"
_MARGIN = 0.01
_Rows = tuple[Columns, Any]


@dataclass(frozen=True, slots=True)
class Optimised:
    """What came of a search.

    Attributes:
        parent: The bundle itself, measured as the candidates were.
        candidates: All that could be made, in the order of the search.
        chosen: The smallest that passed; None where none did.
        bundle: It, packed.
        criteria: What was asked of each.
        metric: By which candidates are compared.
        margin: By how much it must not be worse.
        device: For which latencies are told.
    """

    parent: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    bundle: Bundle | None
    criteria: tuple[str, ...]
    metric: str
    margin: float
    device: Device

    def to_json(self) -> dict[str, Any]:
        front = {id(own) for own in non_dominated(self.candidates)}
        is_estimate = self.device.latency_factor != 1
        return {
            "parent": self.parent.to_json(),
            "candidates": [
                {**own.to_json(), "on_front": id(own) in front} for own in self.candidates
            ],
            "chosen": self.chosen and self.chosen.to_json(),
            "criteria": list(self.criteria), "metric": self.metric, "margin": self.margin,
            "device": self.device.name, "latency_factor": self.device.latency_factor,
            "latency": "estimated from this machine" if is_estimate else "of this machine",
        }  # fmt: skip


def optimise(
    parent: Bundle,
    *,
    reference: str,
    to: str | Path,
    device: Device | None = None,
    rows: _Rows | None = None,
    trials: int = 30,
    prunes: bool = False,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Optimised:
    """The smallest model within the budgets of a device that is not worse than its parent.

    Args:
        parent: A bundle with held-out rows, answered by an ONNX graph.
        reference: What the lineage calls it: `late/4`.
        to: The folder of the new bundle; it is made where a candidate passes.
        device: Its budgets; one that compares (`rmse <= parent + 0.5`) names the metric. Without
            one the first metric of the task may lose 0.01.
        rows: `(X, y)` for the search, so that all held-out rows are left for the gate.
        trials: How many points of the space are drawn.
        prunes: Whether small weights of networks are set to zero, for smaller downloads.
        seed: Of the search, and of the halves of the held-out rows.
        tell: Called with a sentence for each candidate.

    Raises:
        Invalid: There are no held-out rows with their truth, or a budget cannot be read.
        Unconvertible: There are no weights or trees in the graph to make smaller.
        MissingExtra: Optuna is not installed.
    """
    search = _Search(parent, device or Device(), rows, prunes=prunes, seed=seed)
    with Scratch("bascule-optimise-") as folder:
        search.run(folder, trials, tell)
        chosen = search.confirm(tell)
    bundle = None if chosen is None else search.pack(chosen, to, reference)
    return search.result(chosen, bundle)


class _Search:
    """The candidates of one parent, and the rows that each question is asked on."""

    def __init__(
        self, parent: Bundle, device: Device, rows: _Rows | None, *, prunes: bool, seed: int
    ) -> None:
        self._parent, self._device, self._prunes, self._seed = parent, device, prunes, seed
        self._criteria = criteria_of(parent.task, device)
        self._search_rows, self._gate_rows = _rows(parent, rows, seed)
        self._maker = maker_of(parent)
        self._tried: list[tuple[Candidate, Path]] = []
        self._own = self._measured(parent, {"way": "as it is"}, 0)

    def run(self, folder: Path, trials: int, tell: Callable[[str], None]) -> None:
        """Draw points of the space, and keep what they give on the front."""
        study = _study(self._seed)
        known: dict[str, tuple[float, ...]] = {}
        for number in range(trials):
            trial = study.ask()
            settings = self._maker.suggest(trial, prunes=self._prunes)
            key = repr(settings)
            if key not in known:
                candidate = self._candidate(settings, folder / str(number))
                known[key] = (candidate.size_mb, candidate.latency_ms, candidate.worst)
                tell(f"{candidate.words}: {candidate.problem or _figures(candidate)}")
            if all(map(math.isfinite, known[key])):
                study.tell(trial, known[key])
            else:
                study.tell(trial, state=_failed())

    def _candidate(self, settings: dict[str, Any], path: Path) -> Candidate:
        """Made, packed, measured; with the problem where that cannot be."""
        try:
            data = self._maker.make(settings, self._search_rows[0])
            bundle = self._pack(data, settings, path, measure=False, keep_test=False, **_PLAIN)
            candidate = self._measured(bundle, settings, len(zlib.compress(data)))
        except BasculeError as problem:
            candidate = Candidate(settings, _INF, _INF, _INF, -_INF, problem.message)
        self._tried.append((candidate, path))
        front = {id(own) for own in non_dominated(self._within())}
        for own, folder in self._tried:
            if id(own) not in front:
                shutil.rmtree(folder, ignore_errors=True)
        return candidate

    def _measured(self, bundle: Bundle, settings: dict[str, Any], download: int) -> Candidate:
        report = self._check(bundle, self._criteria, self._search_rows)
        values = {result.criterion.metric: result.value for result in report.results}
        missing = [result for result in report.results if result.value is None]
        if missing:
            raise Invalid(f"{missing[0].criterion}: {missing[0].reason}")
        (compared,) = (own for own in self._criteria if isinstance(own, NotWorse))
        problem = "; ".join(f"{own.criterion}: {own.reason}" for own in report.failures)
        return Candidate(
            settings, values["size"] or 0.0, download / 1e6, values["latency_p50"] or 0.0,
            values[compared.metric] or 0.0, problem,
        )  # fmt: skip

    def _within(self) -> list[Candidate]:
        return [candidate for candidate, _ in self._tried if not candidate.problem]

    def confirm(self, tell: Callable[[str], None]) -> Candidate | None:
        """The smallest of the front that passes the gate, with all larger ones."""
        chosen = None
        compared = [own for own in self._criteria if isinstance(own, NotWorse)]
        for candidate in non_dominated(self._within()):
            at = next(at for at, (own, _) in enumerate(self._tried) if own is candidate)
            path = self._tried[at][1]
            report = self._check(load(path), compared, self._gate_rows)
            (result,) = report.results
            confirmed = replace(candidate, confirmed=result.reason)
            self._tried[at] = confirmed, path
            tell(f"{candidate.words}: {result.reason}")
            if not report.passed:
                break
            chosen = confirmed
        return chosen

    def pack(self, chosen: Candidate, to: str | Path, reference: str) -> Bundle:
        """The chosen candidate as any model is packed, with lineage to its parent."""
        data = self._maker.make(chosen.settings, self._search_rows[0])
        parent = self._parent
        return self._pack(
            data, chosen.settings, Path(to), lineage=[f"bundle:{reference}@{parent.digest}"],
            explain=EXPLAINING in parent.manifest.files, parameters=dict(chosen.settings),
            metrics={"parent_size_mb": self._own.size_mb, "size_mb": chosen.size_mb},
            description=f"{reference}, made smaller for {self._device.name}",
        )  # fmt: skip

    def _pack(self, data: bytes, settings: Mapping[str, Any], to: Path, **options: Any) -> Bundle:
        manifest = self._parent.manifest
        change = Candidate(settings, 0, 0, 0, 0).words
        held_out = self._parent.test_data()
        assert held_out is not None
        return pack(
            DerivedGraph(manifest, self._maker.entry, data, change), name=manifest.name, to=to,
            test=(_table(held_out[0], manifest.signature), held_out[1]),
            tolerance=manifest.programs[0].tolerance,
            allow_non_finite=manifest.allows_non_finite, progress=lambda _: None, **options,
        )  # fmt: skip

    def _check(self, bundle: Bundle, criteria: Sequence[Criterion], rows: _Rows) -> GateReport:
        return check(
            bundle, criteria, test=(_table(rows[0], bundle.signature), rows[1]),
            now=datetime.now(UTC), by=user_name(), record=lambda _: None,
            find=lambda _: self._parent,
        )  # fmt: skip

    def result(self, chosen: Candidate | None, bundle: Bundle | None) -> Optimised:
        (compared,) = (own for own in self._criteria if isinstance(own, NotWorse))
        return Optimised(
            self._own, tuple(candidate for candidate, _ in self._tried), chosen, bundle,
            tuple(map(str, self._criteria)), compared.metric, compared.margin, self._device,
        )  # fmt: skip


def criteria_of(task: str, device: Device) -> list[Criterion]:
    """The budgets, with limits of latency in those of this machine, and one comparison.

    Size and latency are measured in any case; without a budget everything is within it.

    Raises:
        Invalid: A budget is no criterion, or two of them compare, or none does and the task has no
            metric.
    """
    parsed = [Criterion.parse(text) for text in device.budgets]
    compared = [own for own in parsed if isinstance(own, NotWorse)]
    if not compared and task in FIRST_CRITERION:
        metric = FIRST_CRITERION[task].split()[0]
        compared = [NotWorse(metric, ">=", -_MARGIN, against=_PARENT)]
    if len(compared) != 1:
        raise Invalid(
            f"{len(compared)} criteria compare a {task} model with its parent, and one is needed",
            hint="give one: --budget 'accuracy >= parent - 0.01'",
        )
    limits = [
        replace(own, limit=own.limit / device.latency_factor) if own.unit == "ms" else own
        for own in parsed
        if not isinstance(own, NotWorse)
    ]
    named = {own.metric for own in limits}
    free = [Criterion("size", "<=", _INF), Criterion("latency_p50", "<=", _INF, batch=1)]
    return [*limits, *(own for own in free if own.metric not in named), *compared]


@dataclass(frozen=True, slots=True)
class _Maker:
    """What makes smaller graphs of one: its space, and a point of it made."""

    room: Any
    graph: Any
    entry: ProgramEntry

    def suggest(self, trial: Any, *, prunes: bool) -> dict[str, Any]:
        settings: dict[str, Any] = self.room.suggest(trial, prunes=prunes)
        return settings

    def make(self, settings: Mapping[str, Any], columns: Columns) -> bytes:
        data: bytes = self.room.make(self.graph, settings, self.entry, columns)
        return data


def maker_of(parent: Bundle) -> _Maker:
    """Raises `Unconvertible` where nothing in the graph of a bundle can be made smaller."""
    import onnx

    from bascule.optimising import networks, trees

    entry, data = _graph_of(parent)
    graph = onnx.load_from_string(data)
    for room in (trees, networks):
        if room.applies(graph):
            return _Maker(room, graph, entry)
    raise Unconvertible(
        "the graph has neither a sum of trees nor large tensors of weights in floats",
        hint="it is small already; models that gain are ensembles of trees and networks",
    )


def _graph_of(parent: Bundle) -> tuple[ProgramEntry, bytes]:
    """The graph that answers; of trees in machine code, the one beside it with all sums apart."""
    manifest = parent.manifest
    for entry in (*manifest.programs[::-1], manifest.served):
        if entry is None or entry.features is not None:
            continue
        data = read_file(parent.path, manifest, entry.file)
        if entry.kind != MACHINE_CODE:
            return entry, data
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return replace(entry, kind=ONNX), arrays["whole"].tobytes()
    raise Unconvertible(
        f"{manifest.name} is not answered by an ONNX graph alone",
        hint="only the graph of a compiled model is made smaller; bascule show says how one is "
        "served",
    )


def _rows(parent: Bundle, rows: _Rows | None, seed: int) -> tuple[_Rows, _Rows]:
    """The rows of the search, and those of the gate: no row is among both."""
    columns, truth = parent.test_data() or ({}, None)
    if truth is None:
        raise Invalid(
            f"{parent.name} holds no test rows with their truth, to judge smaller models by",
            hint="pack it with test=(X, y)",
        )
    if rows is not None:
        return (conform(rows[0], parent.signature), rows[1]), (columns, truth)
    order = np.random.default_rng(seed).permutation(len(truth))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return (take(columns, first), truth[first]), (take(columns, second), truth[second])


def _table(columns: Columns, signature: Signature) -> Any:
    """Rows as callers hand them over; a matrix by the names of its columns, where it has them."""
    if not signature.is_matrix:
        return columns
    matrix = next(iter(columns.values()))
    names = signature.columns
    return {name: matrix[:, at] for at, name in enumerate(names)} if names else matrix


def _study(seed: int) -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtra(
            "optuna is not installed", hint="pip install 'bascule[optimise]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    return optuna.create_study(directions=["minimize", "minimize", "maximize"], sampler=sampler)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _figures(candidate: Candidate) -> str:
    return (
        f"{candidate.size_mb:.3g} MB, {candidate.latency_ms:.3g} ms, "
        f"better by {candidate.worst:+.3g} or more"
    )
