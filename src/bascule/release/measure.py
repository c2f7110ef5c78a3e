"""Takes the measurements that criteria ask for, on the program that would be served.

Only what is asked for is measured. What cannot be measured is a fact too: the reason, in the
words of the code that failed.
"""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import conform, for_program, read_truth
from bascule.bundle.disk import EXAMPLE, MANIFEST, TRUTHS
from bascule.core import Columns, Invalid, Program, counted, first_line
from bascule.metrics import METRICS, score
from bascule.release.conditional import Conditional, is_conditional
from bascule.release.criteria import LATENCIES, QUALITIES, Criterion
from bascule.release.gates import Measured
from bascule.release.privacy_claims import claimed_epsilon, membership_epsilon
from bascule.release.rows import batch_of, example_rows

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_MEGABYTE = 1e6
_ROWS_AT_ONCE = 4_096
_WARM_UP_RUNS = 10
_ENOUGH_RUNS = 200
_LONG_ENOUGH_S = 0.25
_TOO_LONG_S = 1.5
_FEWEST_RUNS = 20
_DIFFERENT_BATCHES = 4
_PROBE_PATIENCE_S = 120.0

_Rows = tuple[Columns, NDArray[Any] | None]


def measure(
    bundle: Bundle,
    criteria: Sequence[Criterion],
    *,
    test: Any = None,
    attributes: Columns | None = None,
) -> dict[str, Measured]:
    """A fact for each of the criteria, under `Criterion.measure`.

    Args:
        bundle: What to measure.
        criteria: What to measure it for.
        test: `(X, y)`, in place of the held-out rows of the bundle.
        attributes: Of the same rows, what the model does not take, to group them by.

    Raises:
        Invalid: `test` is not a pair of rows and as many answers.
    """
    held_out = rows_to_judge(bundle, test)
    plain = [one.metric for one in criteria if not is_conditional(one)]
    facts = _qualities(bundle, held_out, plain)
    others = [one for one in criteria if is_conditional(one)]
    facts.update(_conditional(bundle, held_out, others, attributes))
    rows = None if isinstance(held_out, Measured) else held_out
    for batch in sorted({one.batch for one in criteria if one.batch is not None}):
        facts.update(_latencies(bundle, rows, batch))
    costs: dict[str, Callable[[Bundle], Measured]] = {
        "peak_memory": _peak_memory,
        "size": _size,
        "parity": _parity,
        "epsilon": claimed_epsilon,
        "membership_epsilon": membership_epsilon,
    }
    asked = {one.metric for one in criteria}
    facts.update({name: take(bundle) for name, take in costs.items() if name in asked})
    return facts


def rows_to_judge(bundle: Bundle, test: Any) -> _Rows | Measured | None:
    """The rows given, checked, or else the held-out ones of the bundle, where it has any.

    Rows that the model does not take are the fact that says so: what needs them fails, and no more.

    Raises:
        Invalid: `test` is not a pair of rows and as many answers.
    """
    if test is None:
        return bundle.test_data()
    if not isinstance(test, tuple) or len(test) != 2:
        raise Invalid("test is not a pair (X, y)", hint="pass test=(X_test, y_test)")
    try:
        columns = conform(test[0], bundle.signature)
    except Invalid as problem:
        return Measured(None, f"the test rows cannot be judged: {problem.message}")
    pair = TRUTHS.get(bundle.task, ())
    truth = read_truth(test[1], pair)
    rows = len(next(iter(columns.values())))
    several = len(bundle.targets or pair)
    if truth.shape != ((rows, several) if several else (rows,)):
        raise Invalid(
            f"test has {rows} rows in X, and y has the shape {truth.shape}",
            hint=f"pass y with the columns {' and '.join(pair)}" if pair else "",
        )
    return columns, truth


def _qualities(
    bundle: Bundle, held_out: _Rows | Measured | None, metrics: Iterable[str]
) -> dict[str, Measured]:
    asked = {metric for metric in metrics if metric in QUALITIES}
    if not asked:
        return {}
    if isinstance(held_out, Measured):
        return dict.fromkeys(asked, held_out)
    columns, truth = held_out or ({}, None)
    if truth is None:
        missing = Measured(
            None, "the bundle holds no test rows with their truth; pack it with test=(X, y)"
        )
        return dict.fromkeys(asked, missing)
    try:
        outputs = _answers(bundle.program(threads=1), columns)
    except Exception as error:  # any failure of a model fails its gates, with a reason
        return dict.fromkeys(asked, _failed(error))
    try:
        return {metric: score_of(bundle, metric, outputs, truth) for metric in asked}
    except ImportError:
        missing = Measured(None, "scikit-learn is missing: pip install 'bascule[sklearn]'")
        return dict.fromkeys(asked, missing)


def _conditional(
    bundle: Bundle,
    held_out: _Rows | Measured | None,
    criteria: Sequence[Criterion],
    attributes: Columns | None,
) -> dict[str, Measured]:
    if not criteria:
        return {}
    if isinstance(held_out, Measured):
        return {one.measure: held_out for one in criteria}
    if held_out is None:
        missing = Measured(None, "the bundle holds no test rows; pack it with test=(X, y)")
        return {one.measure: missing for one in criteria}
    return conditional(bundle, *held_out, attributes).measure(criteria)


def conditional(
    bundle: Bundle, columns: Columns, truth: NDArray[Any] | None, attributes: Columns | None = None
) -> Conditional:
    """What measures such rows of a bundle under conditions."""
    program = bundle.program(threads=1)
    return Conditional(
        bundle,
        columns,
        truth,
        ask=lambda rows: _answers(program, rows),
        score=lambda metric, answers, truth: score_of(bundle, metric, answers, truth),
        attributes=attributes,
    )


def answers_of(bundle: Bundle, columns: Columns) -> Columns:
    """What the program that is served answers for any number of rows."""
    return _answers(bundle.program(threads=1), columns)


def score_of(bundle: Bundle, metric: str, answers: Columns, truth: NDArray[Any]) -> Measured:
    """One quality of answers; needs scikit-learn. Of several outputs, that of the worst one."""
    if not bundle.targets:
        if bundle.task == "classification" and bundle.classes is None:
            return Measured(None, "the bundle is to classify, and names no classes")
        return _score(metric, truth, answers, bundle.task, bundle.classes)
    found = scores_by_target(bundle, metric, answers, truth)
    for name, one in found.items():
        if one.value is None:
            return Measured(None, f"{name}: {one.note}")
    sign = METRICS[metric].sign
    values = {name: one.value for name, one in found.items() if one.value is not None}
    worst = min(values, key=lambda name: sign * values[name])
    each = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return Measured(values[worst], f"{worst}, the worst of {len(values)} outputs: {each}")


def scores_by_target(
    bundle: Bundle, metric: str, answers: Columns, truth: NDArray[Any]
) -> dict[str, Measured]:
    """One quality of each output of a model with several; needs scikit-learn."""
    made = {}
    for place, target in enumerate(bundle.targets):
        own = {
            name.partition(".")[0]: values
            for name, values in answers.items()
            if name.partition(".")[2] == target.name
        }
        task = "regression" if target.classes is None else "classification"
        known = np.asarray(truth[:, place].tolist())
        made[target.name] = _score(metric, known, own, task, target.classes)
    return made


def _answers(program: Program, columns: Columns) -> Columns:
    """What the program answers for every row, asked in pieces so that memory stays flat."""
    ready = for_program(columns, program.inputs)
    rows = len(next(iter(ready.values())))
    pieces = [
        program.run({name: column[at : at + _ROWS_AT_ONCE] for name, column in ready.items()})
        for at in range(0, rows, _ROWS_AT_ONCE)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _score(
    metric: str, truth: NDArray[Any], answers: Columns, task: str, classes: Sequence[Any] | None
) -> Measured:
    found = score(metric, truth, answers, task=task, classes=classes)
    return Measured(found.value, found.note)


def _failed(error: Exception) -> Measured:
    return Measured(None, f"the program failed: {first_line(error)}")


def _latencies(bundle: Bundle, held_out: _Rows | None, batch: int) -> dict[str, Measured]:
    names = [f"{metric}[{batch}]" for metric in LATENCIES]
    try:
        program = bundle.program(threads=1)
        if held_out is not None:
            rows = for_program(held_out[0], program.inputs)
        else:
            rows = example_rows(bundle.path, bundle.manifest, program)
        durations = _time_runs(program, rows, batch)
    except Exception as error:  # as above
        return dict.fromkeys(names, _failed(error))
    note = f"of {counted(len(durations), 'run')} with {counted(batch, 'row')}, one thread"
    return {
        name: Measured(_percentile(durations, percent), note)
        for name, percent in zip(names, (50, 99), strict=True)
    }


def _time_runs(program: Program, rows: Columns, batch: int) -> list[float]:
    """Milliseconds of each run, on several different batches in turn."""
    batches = [batch_of(rows, batch, start=number * batch) for number in range(_DIFFERENT_BATCHES)]
    began = time.perf_counter()
    for number in range(_WARM_UP_RUNS):
        program.run(batches[number % len(batches)])
        if time.perf_counter() - began > _TOO_LONG_S / 10:
            break
    durations: list[float] = []
    # A collection belongs to this process, with all that it has imported, and not to the program.
    collects = gc.isenabled()
    gc.disable()
    try:
        began = time.perf_counter()
        while not _has_run_enough(len(durations), time.perf_counter() - began):
            columns = batches[len(durations) % len(batches)]
            start = time.perf_counter_ns()
            program.run(columns)
            durations.append((time.perf_counter_ns() - start) / 1e6)
    finally:
        if collects:
            gc.enable()
    return durations


def _has_run_enough(runs: int, elapsed_s: float) -> bool:
    if elapsed_s >= _TOO_LONG_S:
        return runs >= _FEWEST_RUNS
    return runs >= _ENOUGH_RUNS and elapsed_s >= _LONG_ENOUGH_S


def _percentile(durations: Sequence[float], percent: int) -> float:
    """The smallest duration that `percent` of the runs do not exceed; never one in between."""
    ordered = sorted(durations)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _peak_memory(bundle: Bundle) -> Measured:
    command = [sys.executable, "-P", "-m", "bascule.release.probe", str(bundle.path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Measured(None, f"the measured process did not finish: {error}")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if not line.startswith("hint: ")]  # a note of the error
        return Measured(None, f"the measured process failed: {said[-1] if said else ''}")
    return Measured(
        int(done.stdout) / _MEGABYTE, "of a new process that loads the program and answers"
    )


def _size(bundle: Bundle) -> Measured:
    """The bytes that a server reads: manifest, example, and the program or else the original."""
    manifest = bundle.manifest
    program = manifest.served.file if manifest.served else manifest.original.file
    needed = (program, EXAMPLE)
    size = sum(manifest.files[name].bytes for name in needed if name in manifest.files)
    return Measured((size + (bundle.path / MANIFEST).stat().st_size) / _MEGABYTE)


def _parity(bundle: Bundle) -> Measured:
    if bundle.manifest.served is None:
        return Measured(0.0, "the original itself is served")
    parity = bundle.parity
    if parity is None:
        return Measured(None, "the bundle carries no parity statement; pack it again")
    if parity.label_differences > parity.ties:
        return Measured(None, parity.reason)
    return Measured(parity.max_difference, f"on {counted(parity.rows, 'row')}")
