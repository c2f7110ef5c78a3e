"""Copies of softmax regressions from their answers: `python -m bench.stealing --nannyml FOLDER`.

The rows of Tramèr et al. 2016 (sections 4.1 and 6): handwritten digits, 650 unknowns and 650
queries, and a softmax regression on a census. The attacker knows the model's form. It draws random
queries, solves for the weights (log ratios of probabilities, least squares) and also trains a model
on the answers, and keeps what agrees more. Agreement is the share of rows on which copy and model
give the same label: of held-out rows, and of random ones. The defence is the server's own code
(`coarsening`, `limiting`); its utility is that of held-out rows with their truth.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bascule.core import DType, Field
from bascule.serving.calls import Call
from bascule.serving.execution.coarsening import CoarseSettings, coarse, row_noise

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Subject(NamedTuple):
    """A model, rows of its world with their truth, and the range of queries."""

    name: str
    model: Any
    rows: Floats
    truth: Labels
    low: Floats
    high: Floats

    @property
    def classes(self) -> int:
        return len(self.model.classes_)

    @property
    def unknowns(self) -> int:
        columns: int = self.rows.shape[1]
        return self.classes * (columns + 1)


def digits() -> Subject:
    from sklearn.datasets import load_digits

    rows, truth = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=2_000, C=0.1).fit(rows[:1_200] / 16, truth[:1_200])
    return _subject("digits", model, rows[1_200:] / 16, truth[1_200:])


def census(folder: Path) -> Subject:
    """The marital status (5 classes) of the employment survey of Massachusetts, one-hot."""
    import pandas as pd

    file = folder / "nannyml" / "datasets" / "data" / "employment_MA_reference.pq"
    table = pd.read_parquet(file).sample(20_000, random_state=0)
    truth = table["MAR"].astype(int).to_numpy()
    left_out = ["id", "MAR", "year", "prediction", "predicted_probability"]
    columns = table.drop(columns=left_out)
    columns["AGEP"] /= 100
    rows = pd.get_dummies(columns, columns=[name for name in columns if name != "AGEP"])
    values = rows.to_numpy(float)
    model = LogisticRegression(max_iter=1_000, C=1.0).fit(values[:15_000], truth[:15_000])
    return _subject("census", model, values[15_000:], truth[15_000:])


def _subject(name: str, model: Any, rows: Floats, truth: Labels) -> Subject:
    return Subject(name, model, rows, truth, rows.min(axis=0), rows.max(axis=0))


def answers(subject: Subject, queries: Floats, settings: CoarseSettings) -> Floats:
    """The probabilities that a caller gets; of labels alone, 1 for the label."""
    whole = subject.model.predict_proba(queries)
    if settings.label_only:
        labels: Floats = np.eye(subject.classes)[whole.argmax(axis=1)]
        return labels
    field = Field("probabilities", DType.FP64, (subject.classes,))
    call = Call({"x": queries}, len(queries))
    given = coarse({field.name: whole}, {field.name: field}, settings,
                   lambda shape: row_noise(b"k" * 32, call, shape))  # fmt: skip
    received: Floats = given[field.name]
    return received


def solved(queries: Floats, given: Floats, resolution: float) -> Floats:
    """Weights by least squares on log ratios to the likeliest class of all queries."""
    known = np.clip(given, resolution / 2, None)
    base = int(known.mean(axis=0).argmax())
    ratios = np.log(known) - np.log(known[:, [base]])
    with_one = np.column_stack([queries, np.ones(len(queries))])
    weights: Floats = np.linalg.lstsq(with_one, ratios, rcond=None)[0]
    return weights


def trained(queries: Floats, given: Floats) -> Floats:
    """Weights by the log loss on the answers, each class of a query weighted by its probability."""
    count, classes = given.shape
    weights = given.ravel()
    used = weights > 1e-3
    rows, labels = np.repeat(queries, classes, axis=0), np.tile(np.arange(classes), count)
    made = np.zeros((queries.shape[1] + 1, classes))
    seen = np.unique(labels[used])
    if len(seen) < 2:
        made[-1, seen] = 1.0
        return made
    model = LogisticRegression(max_iter=500, C=1e4).fit(
        rows[used], labels[used], sample_weight=weights[used]
    )
    both = np.vstack([model.coef_.T, model.intercept_])
    made[-1] = -1e9
    made[:, seen] = np.column_stack([np.zeros(len(both)), both]) if len(seen) == 2 else both
    return made


def agreement(subject: Subject, weights: Floats, rows: Floats) -> float:
    copied = np.column_stack([rows, np.ones(len(rows))]) @ weights
    return float((copied.argmax(axis=1) == subject.model.predict_proba(rows).argmax(axis=1)).mean())


def attack(
    subject: Subject, settings: CoarseSettings, queries: int, seed: int = 0
) -> tuple[float, float]:
    """The agreement of the better copy on held-out rows, and on random ones."""
    rng = np.random.default_rng(seed)
    asked = rng.uniform(subject.low, subject.high, (queries, len(subject.low)))
    given = answers(subject, asked, settings)
    resolution = 10.0**-settings.round if settings.round >= 0 else 1e-12
    copies = [solved(asked, given, max(resolution, settings.noise)), trained(asked, given)]
    elsewhere = rng.uniform(subject.low, subject.high, (2_000, len(subject.low)))
    best = max(copies, key=lambda weights: agreement(subject, weights, subject.rows))
    return agreement(subject, best, subject.rows), agreement(subject, best, elsewhere)


def utility(subject: Subject, settings: CoarseSettings) -> tuple[float, float]:
    """What callers lose: accuracy (of the likeliest class given), and log loss in nats a row.

    A probability of 0 counts as half a unit of the last decimal.
    """
    truth = np.searchsorted(subject.model.classes_, subject.truth)
    whole = subject.model.predict_proba(subject.rows)
    given = answers(subject, subject.rows, settings)
    floor = 10.0**-settings.round / 2 if settings.round >= 0 else 1e-3
    floors = {id(whole): 1e-12, id(given): floor}

    def measured(chances: Floats) -> tuple[float, float]:
        bounded = np.clip(chances, floors[id(chances)], None)
        bounded = bounded / bounded.sum(axis=1, keepdims=True)
        loss = -np.log(bounded[np.arange(len(truth)), truth]).mean()
        return float((chances.argmax(axis=1) == truth).mean()), float(loss)

    (accuracy, loss), (coarse_accuracy, coarse_loss) = measured(whole), measured(given)
    return accuracy - coarse_accuracy, coarse_loss - loss


def queries_of_budget(subject: Subject, budget_unknowns: float) -> int:
    """How many rows a budget in unknowns allows: see `limiting.values_of_row`."""
    return max(1, math.floor(budget_unknowns * subject.unknowns / (subject.classes - 1)))


def table(subject: Subject) -> Iterator[str]:
    yield f"{subject.name}: {subject.unknowns} unknowns, {subject.classes} classes"
    yield "| defence | queries | agreement, held-out | random | accuracy lost | log loss added |"
    yield "|---|---|---|---|---|---|"
    full = subject.unknowns
    cases = [("none", CoarseSettings(), full)]
    cases += [(f"round = {n}", CoarseSettings(round=n), full) for n in (3, 2, 1)]
    cases += [
        ("top_k = 1", CoarseSettings(top_k=1), full),
        ("noise = 0.05", CoarseSettings(noise=0.05), full),
        ("label_only", CoarseSettings(label_only=True), full),
    ]
    for budget in (1.0, 0.5, 0.25):
        count = queries_of_budget(subject, budget)
        cases.append((f"budget {budget:g}", CoarseSettings(), count))
        cases.append((f"budget {budget:g}, round = 2", CoarseSettings(round=2), count))
    for name, settings, queries in cases:
        held_out, random = attack(subject, settings, queries)
        accuracy, loss = utility(subject, settings)
        yield (
            f"| {name} | {queries} | {held_out:.1%} | {random:.1%} | {accuracy:.2%} | {loss:+.3f} |"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nannyml", type=Path, help="the folder of nannyml's unpacked wheel")
    asked = parser.parse_args(arguments)
    subjects = [digits(), *([census(asked.nannyml)] if asked.nannyml else [])]
    for subject in subjects:
        for line in table(subject):
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
