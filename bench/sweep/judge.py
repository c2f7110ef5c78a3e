"""Asks the original, and the bundle that was packed from it, about rows as a user has them.

The promise, for every row that the original answers: where the bundle answers too, it differs by
no more than the larger of the claimed parity and its tolerance, and gives another label only where
what decides the original's label is as good as even, in one row of a thousand at most. A row that
the original refuses, the bundle refuses; and it refuses no row like those that it was made with. No
answer of the bundle changes with the company of its row: the rows beside it, their order and
number, or another call.

Two kinds of rows are counted and not judged. Where rounding decides, the original itself answers
otherwise when its doubles change by 2**-36; but differences that are all those of the next number
in one direction are judged. Where the type of an array decides, the original answers otherwise
about the same numbers in the type of the training rows.
"""

from __future__ import annotations

import ast
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import bascule
from bascule.bundle.tables import conform, for_program
from bascule.core.errors import BasculeError
from bench.sweep import rows as own

_ALONE = 8
"""Rows of each group that are also asked one by one."""
_MOVES = 3
"""Ways to move the numbers of a row, and as many opposite ones: whether rounding decides."""
_SYSTEMATIC = 3
"""So many differences in one direction are none of rounding."""
_MOST_TIED = 0.001
_FEW_TIES = 4
"""Rows beside edges are made to be even."""
_REAL = ("fresh", "trained", "recombined")
"""Groups whose rows a bundle has to answer."""
_METHODS = {
    "label": "predict",
    "prediction": "predict",
    "probabilities": "predict_proba",
    "score": "decision_function",
}

Ask = Callable[[Any, Any, list[str]], dict[str, np.ndarray]]
"""Asks a model about rows, for the outputs of these names."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that was fitted, and three lots of rows: its own, those for `pack`, fresh ones."""

    model: Any
    train: Any
    test: Any
    fresh: Any
    ask: Ask | None = None
    other_types: bool = True
    code: tuple[str, ...] = ()


@dataclass(slots=True)
class Verdict:
    """What one model came to.

    Attributes:
        status: `kept`, or `broken`; `refused` where `pack` says that it does not take the model,
            `unfit` where the library cannot fit it here, `crash` and `timeout`.
        serves: The program that serves; `original` where none was equal to it.
        programs: The parities that are claimed, by program.
        measured: The largest difference, on all rows and ways.
        rows: How many rows were asked.
        wrong_labels: Rows with another label, ties left out.
        ties: Rows with another label where two classes tie, in the way of asking that has the most;
            rows that are searched for between two answers are left out.
        rounded: Rows with another answer where rounding decides.
        typed: Rows that are left out, because the type of their array decides.
        answered: Rows that the original refuses and the bundle answers.
        changed: Answers that change with the company of their row.
        refused: Rows that the original answers and the bundle refuses, by group.
        why: Why the original serves, or the model was not packed.
        findings: What broke the promise, in words.
    """

    name: str
    status: str = "kept"
    serves: str = ""
    programs: dict[str, float] = field(default_factory=dict)
    measured: float = 0.0
    rows: int = 0
    wrong_labels: int = 0
    ties: int = 0
    rounded: int = 0
    typed: int = 0
    answered: int = 0
    changed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    why: str = ""
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def judge(name: str, make: Callable[[], Fitted], folder: Path) -> Verdict:
    """Fit, pack, ask, compare."""
    started = time.perf_counter()
    verdict = Verdict(name)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    try:
        fitted = make()
    except Exception as problem:  # libraries have errors of their own
        verdict.status, verdict.why = "unfit", _first_line(problem)
        return verdict
    try:
        bundle = _packed(fitted, folder / "model.bundle", fitted.code)
    except BasculeError as problem:
        verdict.status, verdict.why = "refused", problem.message
    else:
        _Judge(fitted, bundle, verdict).run()
    verdict.seconds = time.perf_counter() - started
    return verdict


def _packed(fitted: Fitted, place: Path, code: Sequence[str] = ()) -> Any:
    """The bundle; where `pack` asks for the names of libraries, they are given, as a user does."""
    try:
        return bascule.pack(
            fitted.model,
            name="model",
            train=fitted.train,
            test=fitted.test,
            to=place,
            code=code,
            serve_original=True,
            measure=False,  # how long programs take says nothing of parity
        )
    except BasculeError as problem:
        asked = re.match(r"pass code=(\[.*?\])", problem.hint)
        if asked is None or code:
            raise
        return _packed(fitted, place, ast.literal_eval(asked.group(1)))


def ask_estimator(model: Any, rows: Any, names: list[str]) -> dict[str, np.ndarray]:
    """What an estimator of scikit-learn's kind answers, under the names of a bundle's outputs."""
    asked: dict[str, Any] = {}
    made = {}
    for name in names:
        kind, _, target = name.partition(".")
        method = _METHODS[kind]
        if method not in asked:
            asked[method] = getattr(model, method)(rows)
        answer = asked[method]
        if target:
            alike = [one for one in names if one.startswith(f"{kind}.")]
            place = alike.index(name)
            answer = answer[place] if isinstance(answer, list) else np.asarray(answer)[:, place]
        answer = np.asarray(answer)
        if target and kind == "probabilities" and answer.ndim == 1:  # of the second class alone
            answer = np.column_stack([1 - answer, answer])
        made[name] = answer if kind == "probabilities" else answer.reshape(len(answer))
    return made


class _Judge:
    def __init__(self, fitted: Fitted, bundle: Any, verdict: Verdict) -> None:
        self._model, self._bundle, self._verdict = fitted.model, bundle, verdict
        self._fitted = fitted
        self._kinds: set[str] = set()
        self._tied: Counter[str] = Counter()
        self._names = [output.name for output in bundle.signature.outputs]
        self._ask = fitted.ask or ask_estimator
        self._programs = {
            entry.name: bundle.program(entry.name) for entry in bundle.manifest.programs
        }
        parities = bundle.parities
        self._tolerance = next(iter(parities.values())).tolerance
        verdict.serves = bundle.manifest.serves
        verdict.programs = {name: p.max_difference for name, p in parities.items() if p.passed}
        if verdict.serves == "original":
            verdict.why = bundle.parity.reason
        claimed = max(verdict.programs.values(), default=0.0)
        self._allowed = max(self._tolerance, claimed)
        self._scale = self._scales(self._original(fitted.fresh))

    def run(self) -> None:
        for group, rows in own.groups(
            self._fitted.fresh,
            _x(self._fitted.train),
            self._numbers,
            other_types=self._fitted.other_types,
        ):
            try:
                self._group(group, rows)
            except BasculeError as problem:
                self._broken(f"{group}: {type(problem).__name__}: {problem.message}")
        verdict = self._verdict
        if verdict.ties > max(_FEW_TIES, _MOST_TIED * verdict.rows):
            self._broken(
                f"ties: {verdict.ties} of {verdict.rows} labels, and rounding explains few"
            )
        self._company(self._fitted.fresh)

    def _company(self, rows: Any) -> None:
        """The same rows twice, backwards, alone, by threes, and beside rows of others."""
        every = np.arange(own.count(rows))
        few = every[:_ALONE]
        ways = {
            "twice": [every],
            "backwards": [every[::-1]],
            "alone": [few[at : at + 1] for at in few],
            "by threes": [few[at : at + 3] for at in range(0, len(few), 3)],
            "beside others": [np.concatenate([few, few[:1].repeat(9), every[-40:]])],
        }
        try:
            together = self._bundle.predict(rows)
        except BasculeError:  # which its group has noted
            return
        for way, batches in ways.items():
            places = np.concatenate(batches)
            asked = own.take(rows, places)
            expected = {name: np.asarray(values)[places] for name, values in together.items()}
            try:
                answers = [self._bundle.predict(own.take(rows, batch)) for batch in batches]
            except BasculeError as problem:
                self._broken(f"company: fails when asked {way}: {problem.message}")
                continue
            for name, values in expected.items():
                got = np.concatenate([np.asarray(answer[name]) for answer in answers])
                if values.dtype.kind == "f":
                    differ = self._difference(name, values, got) > self._allowed
                else:
                    differ = np.asarray(values.astype(object) != got.astype(object))
                    differ &= ~self._ties(asked, expected, name)
                changed = len(self._not_rounded(name, asked, differ, values, got))
                self._verdict.changed += changed
                if changed:
                    self._broken(f"company: {changed} answers of {name} change when asked {way}")

    def _original(self, rows: Any) -> dict[str, np.ndarray]:
        return self._ask(self._model, rows, self._names)

    def _numbers(self, rows: Any) -> np.ndarray:
        """The original's answers as numbers, for bisection: of a classifier, what decides it."""
        answers = self._original(rows)
        parts = []
        for values in answers.values():
            if values.dtype.kind not in "biuf":
                values = np.unique(values.astype(str), return_inverse=True)[1]
                continue  # labels follow from numbers, where there are any
            parts.append(values.reshape(len(values), -1).astype(np.float64))
        if not parts:
            known = sorted({str(value) for value in self._original(self._fitted.fresh)["label"]})
            labels = [known.index(str(v)) if str(v) in known else -1 for v in answers["label"]]
            parts = [np.asarray(labels, np.float64)[:, None]]
        return np.column_stack(parts)

    def _group(self, group: str, rows: Any) -> None:
        expected, answered = self._each_answer(rows)
        verdict = self._verdict
        verdict.rows += own.count(rows)
        for row in np.flatnonzero(~answered)[:_ALONE]:
            if self._answers_alone(own.take(rows, [row])):
                if self._depends_on_type(own.take(rows, [row]), None):
                    verdict.typed += 1
                    continue
                verdict.answered += 1
                self._broken(f"{group}: answers what the original refuses", own.take(rows, [row]))
        if expected is None:
            return
        rows = own.take(rows, np.flatnonzero(answered))
        if self._depends_on_type(rows, expected):
            verdict.typed += own.count(rows)
            return
        expected, rows = self._without_refused(group, rows, expected)
        if expected is None:
            return
        self._compare(f"{group}, together", rows, expected, self._bundle.predict(rows))
        for row in np.unique(np.linspace(0, own.count(rows) - 1, _ALONE).astype(int)):
            # Some originals answer a row alone otherwise than in company, or not at all.
            alone = own.take(rows, [row])
            answer, _ = self._each_answer(alone)
            if answer is not None:
                self._compare(f"{group}, alone", alone, answer, self._bundle.predict(alone))
        read = conform(rows, self._bundle.signature)
        for name, program in self._programs.items():
            found = program.run(for_program(read, program.inputs))
            self._compare(f"{group}, {name}", rows, expected, found)

    def _each_answer(self, rows: Any) -> tuple[dict[str, np.ndarray] | None, np.ndarray]:
        """What the original answers, and for which rows."""
        size = own.count(rows)
        try:
            return self._original(rows), np.ones(size, bool)
        except Exception:  # it refuses some row: which?
            pass
        answers, answered = [], np.zeros(size, bool)
        for row in range(size):
            try:
                answers.append(self._original(own.take(rows, [row])))
                answered[row] = True
            except Exception:  # this one
                continue
        if not answers:
            return None, answered
        return {n: np.concatenate([one[n] for one in answers]) for n in self._names}, answered

    def _answers_alone(self, row: Any) -> bool:
        try:
            self._bundle.predict(row)
        except BasculeError:
            return False
        return True

    def _without_refused(
        self, group: str, rows: Any, expected: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray] | None, Any]:
        """The rows that the bundle answers. What is refused is noted."""
        try:
            self._bundle.predict(rows)
        except BasculeError as problem:
            why = problem.message
        else:
            return expected, rows
        taken = [r for r in range(own.count(rows)) if self._answers_alone(own.take(rows, [r]))]
        missed = own.count(rows) - len(taken)
        self._verdict.refused[group] = self._verdict.refused.get(group, 0) + missed
        if group in _REAL:
            self._broken(f"{group}: refuses {missed} rows that the original answers: {why}")
        if not taken:
            return None, rows
        return {n: v[taken] for n, v in expected.items()}, own.take(rows, taken)

    def _depends_on_type(self, rows: Any, expected: dict[str, np.ndarray] | None) -> bool:
        """Whether the original answers otherwise about a matrix in the type of the training rows.

        `expected`: what it answers to `rows`; None where it refuses them.
        """
        trained = _x(self._fitted.train)
        if not own.is_matrix(rows) or rows.dtype == trained.dtype:
            return False
        try:
            read = self._original(rows.astype(trained.dtype))
        except Exception:  # it refuses them in this type
            return expected is not None
        return expected is None or any(
            bool((values != read[name]).any())
            if values.dtype.kind not in "f"
            else self._difference(name, values, read[name]).max() > self._allowed
            for name, values in expected.items()
        )

    def _rounded(
        self, name: str, rows: Any, differ: np.ndarray, expected: np.ndarray, got: np.ndarray
    ) -> np.ndarray:
        """Which of the rows that differ are those where rounding decides."""

        def changed(some: Any, reference: np.ndarray) -> np.ndarray:
            answers = self._original(some)[name]
            if answers.dtype.kind not in "f":
                return np.asarray(answers.astype(object) != reference.astype(object))
            return np.asarray(self._difference(name, reference, answers) > self._allowed)

        places = np.flatnonzero(differ)
        found = np.zeros(len(differ), bool)
        few = own.take(rows, places)
        try:
            for seed, share in product(range(_MOVES), (2.0**-36, -(2.0**-36))):
                some = own.moved(few, share, np.random.default_rng(seed))
                found[places] |= changed(some, expected[places])
            places = np.flatnonzero(found)
            few = own.take(rows, places)
            ways = [~changed(own.beside(few, end), got[places]) for end in (-np.inf, np.inf)]
        except Exception:  # it refuses some of them
            return np.zeros(len(differ), bool)
        below, above = ways
        if _edges_among(few) >= _SYSTEMATIC and bool(
            (below & ~above).all() or (above & ~below).all()
        ):
            return np.zeros(len(differ), bool)
        return found

    def _compare(self, where: str, rows: Any, expected: dict[str, np.ndarray], found: Any) -> None:
        verdict = self._verdict
        for name, values in expected.items():
            got = np.asarray(found[name])
            if name.startswith("label") or values.dtype.kind not in "f":
                differ = np.asarray(values.astype(object) != got.astype(object))
                ties = differ & self._ties(rows, expected, name) if differ.any() else differ
                if not where.startswith("edges"):  # rows that are set between two answers
                    self._tied[where.rpartition(", ")[2]] += int(ties.sum())
                    verdict.ties = max(self._tied.values())
                wrong = self._not_rounded(name, rows, differ & ~ties, values, got)
                verdict.wrong_labels += len(wrong)
                if len(wrong):
                    row = int(wrong[0])
                    self._broken(
                        f"{where}: {len(wrong)} other labels, the first {got[row]!r} for "
                        f"{values[row]!r}",
                        own.take(rows, [row]),
                    )
                continue
            apart = self._difference(name, values, got)
            over = self._not_rounded(name, rows, apart > self._allowed, values, got)
            apart[(apart > self._allowed) & ~np.isin(np.arange(len(apart)), over)] = 0.0
            row = int(apart.argmax())
            verdict.measured = max(verdict.measured, float(apart[row]))
            if apart[row] > self._allowed:
                self._broken(
                    f"{where}: {name} differs by {apart[row]:.2g} in "
                    f"{int((apart > self._allowed).sum())} of {len(apart)} rows; the worst has "
                    f"{_short(got[row])} for {_short(values[row])}",
                    own.take(rows, [row]),
                )

    def _not_rounded(
        self, name: str, rows: Any, differ: np.ndarray, expected: np.ndarray, got: np.ndarray
    ) -> np.ndarray:
        """The places of the rows that differ, but for those where rounding decides."""
        if differ.any():
            rounded = self._rounded(name, rows, differ, expected, got)
            self._verdict.rounded += int(rounded.sum())
            differ = differ & ~rounded
        return np.flatnonzero(differ)

    def _scales(self, answers: dict[str, np.ndarray]) -> dict[str, float]:
        made = {}
        for name, values in answers.items():
            if values.dtype.kind != "f" or name.startswith("probabilities"):
                continue
            sizes = np.abs(values[np.isfinite(values)].astype(np.float64))
            typical = np.median(sizes) if values.ndim == 1 else np.sqrt(np.mean(sizes**2))
            made[name] = max(float(typical), np.finfo(np.float64).tiny)
        return made

    def _difference(self, name: str, values: np.ndarray, got: np.ndarray) -> np.ndarray:
        """Per row. Of probabilities absolute; of numbers by the number, or by a typical one."""
        values, got = values.astype(np.float64), got.astype(np.float64).reshape(values.shape)
        size = 1.0
        if not name.startswith("probabilities"):
            size = np.maximum(np.abs(values), self._scale[name])
        apart = np.abs(values - got) / size
        same = (values == got) | (np.isnan(values) & np.isnan(got))
        apart = np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))
        return np.asarray(apart.reshape(len(apart), -1).max(axis=1))

    def _ties(self, rows: Any, expected: dict[str, np.ndarray], name: str) -> np.ndarray:
        """Where what decides the original's label is within the tolerance.

        That is what tells the label of every row of the group, and of the fresh ones: the decision
        function, or else the probabilities.
        """
        shares = name.replace("label", "probabilities", 1)

        def decision(some: Any, _: dict[str, np.ndarray]) -> Any:
            return self._model.decision_function(some)

        def chances(_: Any, answers: dict[str, np.ndarray]) -> Any:
            return answers[shares]

        fresh = self._fitted.fresh
        usual = self._original(fresh)
        for ask in (decision, chances):
            try:
                here = np.asarray(ask(rows, expected), np.float64)
                there = np.asarray(ask(fresh, usual), np.float64)
            except Exception:  # there is none, or it refuses some of the rows
                continue
            labels = np.concatenate([expected[name].astype(object), usual[name].astype(object)])
            margins = _margins(np.concatenate([here, there]), labels)
            if margins is not None:
                typical = 2.0 if ask is chances else max(float(np.median(np.abs(there))), 1.0)
                return np.asarray(margins[: len(here)] <= self._tolerance * typical)
        return np.zeros(own.count(rows), bool)

    def _broken(self, words: str, row: Any = None) -> None:
        """One finding for each kind of thing that broke, with the first row that shows it."""
        self._verdict.status = "broken"
        kind = words.partition(":")[0].partition(",")[0] + words.partition(":")[2][:24]
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._verdict.findings.append(words if row is None else f"{words}; row {_short(row)}")


def _edges_among(rows: Any) -> int:
    """How many edges some rows are beside: those of one edge are the same but for a few bits."""
    if not own.is_matrix(rows) or not len(rows):
        return own.count(rows)
    return len(np.unique(rows.astype(np.float32).round(4), axis=0))


def _margins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """By how much each label won; None where another label than the highest score's did."""
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim == 1:
        margins, winners = np.abs(scores), (scores > 0).astype(int)
        winners[scores == 0] = -1  # of either
    else:
        order = np.sort(scores, axis=1)
        margins, winners = order[:, -1] - order[:, -2], scores.argmax(axis=1)
    margins = np.where(np.isnan(margins), np.inf, margins)
    winners[np.isinf(margins)] = -1
    known: dict[int, Any] = {}
    for winner, label in zip(winners.tolist(), labels.tolist(), strict=True):
        if winner >= 0 and known.setdefault(winner, label) != label:
            return None
    return margins if len(set(map(str, known.values()))) == len(known) else None


def _x(train: Any) -> Any:
    return train[0] if isinstance(train, tuple) else train


def _short(value: Any) -> str:
    if hasattr(value, "to_dict"):
        value = value.to_dict("records")[0]
    if isinstance(value, np.ndarray):
        return repr(value.tolist())[:400]
    with np.printoptions(precision=17, threshold=20, linewidth=1000, floatmode="unique"):
        return str(value)[:400]


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:200] if lines else ''}"
