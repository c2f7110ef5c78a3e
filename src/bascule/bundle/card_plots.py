"""The plots of a card, from the held-out rows and the baseline that the bundle holds.

A classifier: ROC curve, reliability, confusion matrix, probabilities. A regressor: answers and
residuals. Every model: the training rows by column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import OUTLIERS
from bascule.bundle.explaining import IMPORTANCE_KIND
from bascule.bundle.statements import in_batches
from bascule.bundle.tables import for_program, take
from bascule.charts import SIZE, Chart, Series, grid, histogram, lines, ranked, roc
from bascule.documents import Plot
from bascule.stats import ColumnProfile

if TYPE_CHECKING:
    from bascule.bundle.loaded import Bundle

_MAX_ROWS = 20_000
_ROWS_AT_ONCE = 4_096
_MAX_DOTS = 600
_MAX_CURVE = 160
_MAX_CLASSES = 10
_MAX_COLUMNS = 24
_BINS = 10
_INPUT_BINS = 20

Numbers = NDArray[np.float64]


def plots(bundle: Bundle) -> tuple[Plot, ...]:
    """The plots that the data in the bundle allow; none without held-out rows and baseline.

    The first 20,000 held-out rows are predicted, by the program that serves requests here.
    """
    quality = (replace(plot, section="Quality") for plot in _of_quality(bundle))
    measured = bundle.statements(IMPORTANCE_KIND)
    explained = _of_importances(measured[-1].body) if measured else ()
    return (*quality, *_of_inputs(bundle), *explained)


def _of_importances(measured: Mapping[str, Any]) -> Iterator[Plot]:
    """What the model depends on: columns in the order of importance, then each by its values."""
    ranks = [(name, value) for name, value in measured["importances"][:_INPUT_BINS]]
    alt = f"Importance of {', '.join(name for name, _ in ranks)}"
    caption = f"Mean size of attributions over {measured['rows']:,} {measured['source']} rows."
    yield Plot("Importances", caption, ranked(ranks, alt), "Explanations")
    for name, dependence in measured["dependence"].items():
        values, answers = dependence["values"], dependence["answers"]
        is_number = not any(isinstance(value, str) for value in values)
        across = list(map(float, values)) if is_number else list(map(float, range(len(values))))
        series = [
            Series(list(zip(across, means, strict=True)), f"line c{place % 6}")
            for place, means in enumerate(answers.values())
        ]
        names = () if is_number else [str(value)[:8] for value in values]
        alt = f"Partial dependence of the answer on {name}"
        drawn = lines(series, (name, "mean answer"), alt, size=SIZE, x_names=names)
        caption = (
            f"Partial dependence: the mean answer ({', '.join(answers)}) of "
            f"{measured['dependence_rows']:,} rows that all have this value; some cannot exist."
        )
        if drawn is not None:
            yield Plot(name, caption, drawn, "Explanations")


def _of_quality(bundle: Bundle) -> Iterator[Plot]:
    held_out = bundle.test_data()
    if held_out is None or held_out[1] is None or bundle.targets:
        return
    columns, truth = take(held_out[0], slice(_MAX_ROWS)), held_out[1][:_MAX_ROWS]
    program = bundle.program(threads=1)
    answer = in_batches(program, for_program(columns, program.inputs), _ROWS_AT_ONCE)
    if bundle.task == "regression":
        yield from _of_numbers(_finite(np.asarray(truth, float), answer["prediction"].reshape(-1)))
    elif bundle.task == OUTLIERS:
        yield _roc([("inliers", np.asarray(truth) == 1, np.asarray(answer["score"], float))])
    elif bundle.task == "classification" and bundle.classes:
        yield from _of_classes(bundle.classes, truth, answer)


def _of_classes(classes: Sequence[Any], truth: NDArray[Any], answer: Any) -> Iterator[Plot]:
    hits = {label: np.array([one == label for one in truth.tolist()], bool) for label in classes}
    if "probabilities" in answer:
        by_class = np.asarray(answer["probabilities"], float)
        shown = list(enumerate(classes))[:_MAX_CLASSES] if len(classes) > 2 else [(1, classes[1])]
        if curves := [
            (str(label), hits[label], by_class[:, place])
            for place, label in shown
            if 0 < hits[label].sum() < len(truth)
        ]:
            yield _roc(curves)
        top = by_class.argmax(axis=1)
        if len(classes) == 2:
            yield _reliability(hits[classes[1]], by_class[:, 1], f"class {classes[1]}")
            yield _probabilities(classes[1], hits[classes[1]], by_class[:, 1])
        else:
            right = np.array([hits[classes[place]][row] for row, place in enumerate(top)], bool)
            yield _reliability(right, by_class.max(axis=1), "the most probable class")
    if len(classes) <= _MAX_CLASSES:
        yield _confusion(classes, hits, answer["label"])


def _roc(curves: Sequence[tuple[str, NDArray[np.bool_], Numbers]]) -> Plot:
    areas, shown = [], []
    for name, is_it, scores in curves:
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.diff(scores[order]) != 0, True)  # rows of one score count together
        seen = np.append(0, (np.cumsum(is_it[order]) / max(is_it.sum(), 1))[ends])
        wrong = np.append(0, (np.cumsum(~is_it[order]) / max((~is_it).sum(), 1))[ends])
        areas.append(f"{name} {_area(wrong, seen):.3f}")
        kept = np.unique(np.linspace(0, len(seen) - 1, _MAX_CURVE).astype(int))
        points = zip(wrong[kept].tolist(), seen[kept].tolist(), strict=True)
        shown.append((name, list(points)))
    caption = f"Area under the curve: {', '.join(areas)}. The diagonal is a guess."
    return Plot("ROC curve", caption, roc(shown))


def _area(across: Numbers, up: Numbers) -> float:
    return float(np.diff(across) @ (up[1:] + up[:-1]) / 2)


def _reliability(is_it: NDArray[np.bool_], scores: Numbers, what: str) -> Plot:
    chart = Chart((0, 1), (0, 1), ("predicted probability", "share that is true"), "Reliability")
    chart.line([(0, 0), (1, 1)], "guide")
    bins = np.clip((scores * _BINS).astype(int), 0, _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    filled = np.flatnonzero(counts)
    said = (np.bincount(bins, scores, _BINS)[filled] / counts[filled]).tolist()
    true = (np.bincount(bins, is_it, _BINS)[filled] / counts[filled]).tolist()
    chart.line(zip(said, true, strict=True)).dots(zip(said, true, strict=True), radius=3)
    gap = float(np.abs(np.subtract(said, true)) @ counts[filled] / len(scores))
    caption = (
        f"Of {what}, in {len(filled)} bins of 0.1. On the diagonal, a probability is the share "
        f"that is true; on average it is off by {gap:.3f}."
    )
    return Plot("Reliability", caption, chart.svg())


def _probabilities(label: Any, is_it: NDArray[np.bool_], scores: Numbers) -> Plot:
    edges = np.linspace(0, 1, _INPUT_BINS + 1)
    others, them = (np.histogram(scores[rows], edges)[0].tolist() for rows in (~is_it, is_it))
    labels = (f"probability of {label}", "rows")
    svg = histogram(edges.tolist(), them, labels, "Probabilities", behind=others)
    caption = f"Strong: rows that are {label}. Pale: the others."
    return Plot("Probabilities", caption, svg)


def _confusion(
    classes: Sequence[Any], hits: dict[Any, NDArray[np.bool_]], labels: NDArray[Any]
) -> Plot:
    given = {label: np.array([one == label for one in labels.tolist()], bool) for label in classes}
    counts = [[int((hits[true] & given[said]).sum()) for said in classes] for true in classes]
    caption = "Rows: the truth. Columns: the answer. The shade is the share of the row."
    return Plot("Confusion", caption, grid([str(one) for one in classes], counts, "Confusion"))


def _finite(truth: Numbers, said: NDArray[Any]) -> tuple[Numbers, Numbers]:
    numbers = np.asarray(said, float)
    kept = np.isfinite(truth) & np.isfinite(numbers)
    return truth[kept], numbers[kept]


def _of_numbers(pair: tuple[Numbers, Numbers]) -> Iterator[Plot]:
    truth, said = pair
    if not len(truth):
        return
    residuals = truth - said
    some = np.unique(np.linspace(0, len(truth) - 1, _MAX_DOTS).astype(int))
    span = (float(min(truth.min(), said.min())), float(max(truth.max(), said.max())))
    chart = Chart(span, span, ("prediction", "truth"), "Truth by prediction")
    chart.line([(span[0], span[0]), (span[1], span[1])], "guide")
    chart.dots(zip(said[some].tolist(), truth[some].tolist(), strict=True))
    caption = f"{len(some):,} of {len(truth):,} rows. On the diagonal the prediction is the truth."
    yield Plot("Truth and prediction", caption, chart.svg())

    across = (float(said.min()), float(said.max()))
    reach = float(np.abs(residuals).max()) or 1.0
    chart = Chart(across, (-reach, reach), ("prediction", "residual"), "Residuals")
    chart.line([(across[0], 0), (across[1], 0)], "guide")
    chart.dots(zip(said[some].tolist(), residuals[some].tolist(), strict=True))
    yield Plot("Residuals", "Truth less prediction. A pattern is what was not learnt.", chart.svg())

    counts, edges = np.histogram(residuals, _INPUT_BINS)
    labels = ("residual", "rows")
    svg = histogram(edges.tolist(), counts.tolist(), labels, "Residuals, by size")
    caption = f"Mean {residuals.mean():.4g}, standard deviation {residuals.std():.4g}."
    yield Plot("Residuals by size", caption, svg)


def _of_inputs(bundle: Bundle) -> Iterator[Plot]:
    baseline = bundle.baseline
    if baseline is None or baseline.inputs is None:
        return
    for name, column in list(baseline.inputs.columns.items())[:_MAX_COLUMNS]:
        if (made := _histogram(name, column)) is not None:
            yield made


def _histogram(name: str, column: ColumnProfile) -> Plot | None:
    missing = f"; {column.missing / column.rows:.1%} missing" if column.missing else ""
    if column.quantiles.rows:
        values, weights = column.quantiles.weighted()
        counts, edges = np.histogram(values, _INPUT_BINS, weights=weights)
        labels, alt = (name, "rows"), f"Histogram of {name}"
        svg = histogram(edges.tolist(), counts.tolist(), labels, alt)
        return Plot(name, f"{column.distinct:,} distinct values{missing}.", svg, "Inputs")
    frequent = column.frequent.top()[:_INPUT_BINS]
    if not frequent:
        return None
    counts_of = [count for _, count in frequent]
    places = [float(place) for place in range(len(frequent) + 1)]
    svg = histogram(places, counts_of, (f"{name}, by frequency", "rows"), name)
    shown = ", ".join(str(value) for value, _ in frequent[:5])
    return Plot(name, f"Most frequent: {shown}{missing}.", svg, "Inputs")
