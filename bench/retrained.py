"""Whether the default guard `answers` lets an honest retraining pass: `python -m bench.retrained`.

Two models of one kind are fitted on two halves of the same data that share no row, which move
answers more than a retraining that adds a month. Their answers to further rows go through the
counters of a worker, and `decide` looks once an interval, as in a default canary. Latency is left
out: no server answers here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.base import clone, is_classifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from bascule.core import DType, Field
from bascule.release.rollouts import (
    DEFAULT_GUARDS,
    FINAL,
    ArmCounts,
    Decision,
    Interval,
    Promoted,
    Rollout,
    Running,
    check_rollout,
    decide,
    table_of,
)
from bascule.release.rollouts.evidence import less
from bascule.serving.calls import Answer, AnsweredBy
from bascule.serving.telemetry.answers import LEAST_SAMPLE, AnswerRegions, events_of

REQUESTS, EACH = 100_000, 1_000
_PAIRS = 0.01
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ARMS = CURRENT, CANDIDATE = 0, 1

Task = Callable[[], tuple[Any, NDArray[Any], NDArray[Any]]]


def _flights() -> tuple[Any, NDArray[Any], NDArray[Any]]:
    from bench.drift_flights import NUMBERS, TEXTS, flights

    table = flights().sample(20_000, random_state=0)
    columns = np.column_stack([table[NUMBERS], OrdinalEncoder().fit_transform(table[TEXTS])])
    return HistGradientBoostingClassifier(), columns, (table.arr_delay > 15).to_numpy().astype(int)


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


TASKS: dict[str, Task] = {
    "flights": _flights,
    "digits": lambda: (RandomForestClassifier(), *datasets.load_digits(return_X_y=True)),
    "wine": lambda: (_scaled(LogisticRegression()), *datasets.load_wine(return_X_y=True)),
    "iris": lambda: (RandomForestClassifier(), *datasets.load_iris(return_X_y=True)),
    "breast cancer": lambda: (
        GradientBoostingClassifier(), *datasets.load_breast_cancer(return_X_y=True)
    ),
    "diabetes, ridge": lambda: (Ridge(), *datasets.load_diabetes(return_X_y=True)),
    "diabetes, forest": lambda: (
        RandomForestRegressor(), *datasets.load_diabetes(return_X_y=True)
    ),
    "friedman": lambda: (
        HistGradientBoostingRegressor(), *datasets.make_friedman1(4_000, noise=1, random_state=0)
    ),
    "five noisy classes": lambda: (
        RandomForestClassifier(),
        *datasets.make_classification(
            6_000, 20, n_informative=12, n_classes=5, flip_y=0.2, random_state=0
        ),
    ),
    "rare class": lambda: (
        HistGradientBoostingClassifier(),
        *datasets.make_classification(8_000, 20, weights=[0.97], random_state=0),
    ),
    "noisy halves": lambda: (
        _scaled(LogisticRegression()),
        *datasets.make_classification(6_000, 20, flip_y=0.3, random_state=0),
    ),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="splits of each task")
    asked = parser.parse_args(arguments)
    print("| task | promoted | the event that differs most, pp | sentence |\n|---|---|---|---|")
    for name, task in TASKS.items():
        ends = [rolled_out(task, seed) for seed in range(asked.seeds)]
        promoted = sum(isinstance(decision.state, Promoted) for decision, _ in ends)
        apart = ", ".join(f"{apart:.1f}" for _, apart in ends)
        print(f"| {name} | {promoted} of {len(ends)} | {apart} | {ends[-1][0].sentence[:90]} |")
    return 0


def rolled_out(task: Task, seed: int) -> tuple[Decision, float]:
    """How a rollout of the retrained model ends, and how far its answers are from the current."""
    random = np.random.default_rng(seed)
    model, X, y = task()
    first, second, asked = np.array_split(random.permutation(len(X)), 3)
    arms = [clone(model).fit(X[part], y[part]) for part in (first, second)]
    outputs = _outputs(arms[0])
    answers = [_answers(one, X[asked]) for one in arms]
    rollout = check_rollout(
        Rollout(
            id="r1", started_at=_START, endpoint="m", candidate="m/2", current="m/1",
            strategy="canary", steps_percent=(5.0, 25.0, 50.0, 100.0),
            guards=tuple(g for g in DEFAULT_GUARDS if g.name != "latency"), step_s=60.0,
        )
    )  # fmt: skip
    regions = AnswerRegions(memoryview(bytearray(AnswerRegions.size_of(1, 2))), 1, 2)
    counters = [regions.counter(0, place, lambda: True) for place in _ARMS]
    versions = [AnsweredBy("m", str(place + 1), "onnx") for place in _ARMS]
    for counter, by in zip(counters, versions, strict=True):
        counter.describe(by, outputs, allows_non_finite=False)
    state: Any = Running(0, _START)
    intervals: list[Interval] = []
    known, requests = Interval(0, 0), np.zeros(2, np.int64)
    for number in range(REQUESTS // EACH):
        step = getattr(state, "stage", 2)
        share = min(rollout.steps_percent[step], 50.0) / 100
        rows = random.integers(0, len(asked), EACH)
        arm_of = (random.random(EACH) < share).astype(int)
        for row, arm in zip(rows.tolist(), arm_of.tolist(), strict=True):
            counters[arm].add(Answer(answers[arm][row], versions[arm]))
        for counter in counters:
            counter.tick()
        paired = rows[(arm_of == CANDIDATE) & (random.random(EACH) < _PAIRS)]
        for one, other in zip(paired[::2].tolist(), paired[1::2].tolist(), strict=False):
            counters[CANDIDATE].count_pairs(
                *(
                    np.concatenate([counters[a].values([answers[a][r]])[0] for a in _ARMS[::-1]])
                    for r in (one, other)
                )
            )
        _set_events(regions)
        requests += np.bincount(arm_of, minlength=2)
        (current, _), (candidate, pairs) = (regions.totals(place) for place in _ARMS)
        total = Interval(
            number, step,
            ArmCounts(int(requests[CURRENT]), answers=current),
            ArmCounts(int(requests[CANDIDATE]), answers=candidate), pairs=pairs,
        )  # fmt: skip
        new = less(total, known)
        intervals.append(msgspec.structs.replace(new, number=number, stage=step))
        known = total
        now = _START + timedelta(minutes=2 * (number + 1))
        decision = decide(rollout, state, table_of(intervals), now=now)
        state = decision.state
        if isinstance(state, FINAL):
            break
    return decision, _apart(arms, X[asked])


def _set_events(regions: AnswerRegions) -> None:
    sample, are_labels = regions.sample(CURRENT)
    if len(sample) >= LEAST_SAMPLE:
        for place in _ARMS:
            regions.set_events(place, events_of(sample, are_labels))


def _outputs(model: Any) -> list[Field]:
    if not is_classifier(model):
        return [Field("prediction", DType.FP64)]
    shape = (len(model.classes_),)
    return [Field("label", DType.INT64), Field("probabilities", DType.FP64, shape)]


def _answers(model: Any, X: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    """One answer a row."""
    if not is_classifier(model):
        return [{"prediction": value} for value in model.predict(X).reshape(-1, 1)]
    labels, shares = model.predict(X).astype(np.int64), model.predict_proba(X)
    return [
        {"label": labels[row : row + 1], "probabilities": shares[row : row + 1]}
        for row in range(len(X))
    ]


def _apart(arms: list[Any], X: NDArray[Any]) -> float:
    """The largest difference between the distribution functions of the answers, in pp."""
    views: Iterator[tuple[NDArray[Any], NDArray[Any]]]
    if is_classifier(arms[0]):
        pairs = [model.predict_proba(X) for model in arms]
        views = zip(pairs[0].T, pairs[1].T, strict=True)
    else:
        views = iter([(arms[0].predict(X), arms[1].predict(X))])
    largest = 0.0
    for first, second in views:
        at = np.sort(np.concatenate([first, second]))
        below = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in (first, second)]
        largest = max(largest, float(np.abs(below[0] - below[1]).max()))
    return 100 * largest


if __name__ == "__main__":
    sys.exit(main())
