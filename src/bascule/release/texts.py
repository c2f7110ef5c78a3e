"""Gates of models that generate text, measured on a suite: requests, and the text expected of each.

| metric | of an answer | |
|---|---|---|
| `exact_match` | whether it is the expected text, white space aside | |
| `judge_score[NAME]` | the score by the judge NAME, 0 to 1 | 0 where it gives none |
| `toxicity[FILE]` | whether it has a word of the file, a line each | share of answers |
| `perplexity` | of the expected text by the model: exp(-log probability / tokens) | of all texts |

Two versions are compared on the same requests: shares by Tango's interval, the others by a paired
bootstrap; see `stats.paired`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Invalid, Unconvertible
from bascule.monitoring.judging import prompt_of, score_of
from bascule.release.conditional import attempted
from bascule.release.criteria import TEXTS, Criterion, NotWorse
from bascule.release.gates import Measured
from bascule.release.measure import rows_to_judge
from bascule.stats import CONFIDENCE, Comparison, bootstrap, compare_right, exact_interval

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.monitoring.judging import Judge
    from bascule.release.against import Find

FindJudge = Callable[[str], "Judge"]
"""The judge of a name. Raises `NotFound`."""
Floats = NDArray[np.float64]
_SHARES = ("exact_match", "toxicity")
"""Of answers that are right or wrong, one by one."""
_MISSING = "there is no suite of requests: --test suite.jsonl --target expected"


def measure_texts(
    bundle: Bundle,
    criteria: Sequence[Criterion],
    *,
    test: Any = None,
    find: Find | None = None,
    find_judge: FindJudge | None = None,
) -> dict[str, Measured]:
    """A fact for each of the criteria, all of `TEXTS`, under `Criterion.measure`.

    Args:
        bundle: The candidate, which generates text.
        criteria: What to measure it for, and against whom.
        test: `(requests, expected)` in place of the suite in the bundle.
        find: Where other versions are.
        find_judge: Where judges are.

    Raises:
        Invalid: `test` is not a pair of rows and as many texts.
    """
    if not criteria:
        return {}
    suite = rows_to_judge(bundle, test)
    if suite is None or (not isinstance(suite, Measured) and suite[1] is None):
        suite = Measured(None, _MISSING)
    if isinstance(suite, Measured):
        return {one.measure: suite for one in criteria}
    requests, expected = suite[0]["request"], suite[1]
    assert expected is not None
    texts = [str(text) for text in expected]
    answers = _Answers(bundle, requests, texts, find_judge)
    others: dict[str, _Answers | None] = {}

    def measured(criterion: Criterion) -> Measured:
        if not isinstance(criterion, NotWorse):
            return _measured(answers, criterion)
        if find is None:
            return Measured(None, f"there is no registry to look for {criterion.against} in")
        if criterion.against not in others:
            found = find(criterion.against)
            others[criterion.against] = (
                None if found is None else _Answers(found, requests, texts, find_judge)
            )
        return _compared(answers, others[criterion.against], criterion)

    return {one.measure: attempted(partial(measured, one)) for one in criteria}


def _measured(answers: _Answers, criterion: Criterion) -> Measured:
    values, note = answers.values(criterion)
    value, count = _statistic(values), len(values)
    level = f"{CONFIDENCE:.0%} interval"
    try:
        if criterion.metric in _SHARES:
            lower, upper = exact_interval(int(values.sum()), count, confidence=CONFIDENCE)
        else:
            reach = None if values.ndim > 1 else 1.0
            found = bootstrap(lambda rows: _statistic(values[rows]), count, reach=reach)
            lower, upper = found.lower, found.upper
        note = f"on {count:,} texts, {level} [{lower:.4g}, {upper:.4g}]{note}"
    except Invalid as few:
        note = f"on {count:,} texts; no interval: {few.message}{note}"
    return Measured(value, note)


def _compared(answers: _Answers, other: _Answers | None, criterion: NotWorse) -> Measured:
    """The lower end of the interval of the difference, better when larger."""
    name, against = criterion.metric, criterion.against
    if other is None:
        return Measured(None, f"there is no {against} yet", is_waived=True)
    if other.digest == answers.digest:
        return Measured(0.0, f"the candidate is {against} itself", brief="they are the same model")
    (theirs, _), (ours, note) = other.values(criterion), answers.values(criterion)
    sign = -1 if TEXTS[name] else 1
    if name in _SHARES:
        right = [(values == float(sign > 0)) for values in (theirs, ours)]
        found = compare_right(right[0], right[1])
    else:
        found = bootstrap(
            lambda rows: sign * (_statistic(ours[rows]) - _statistic(theirs[rows])),
            len(ours), reach=None if ours.ndim > 1 else 1.0,
        )  # fmt: skip
    return _said(found, name, _statistic(ours), _statistic(theirs), against, len(ours), note)


def _said(
    found: Comparison, name: str, ours: float, theirs: float, against: str, count: int, note: str
) -> Measured:
    return Measured(
        found.lower,
        f"{name} {ours:.4g}, and {theirs:.4g} of {against}, on the same {count:,} requests: better "
        f"by {found.difference:.3g}, {found.confidence:.0%} interval [{found.lower:.3g}, "
        f"{found.upper:.3g}], whose lower end counts ({found.test}){note}",
        brief=f"{name} {ours:.4g} against {theirs:.4g} on {count:,} texts",
    )


def _statistic(values: Floats) -> float:
    """The mean; of pairs of a log probability and tokens, the perplexity."""
    if values.ndim == 1:
        return float(values.mean())
    logprob, tokens = values.sum(axis=0)
    return math.exp(min(-logprob / max(tokens, 1), 700.0))


class _Answers:
    """What a bundle answers to the requests of a suite, asked once."""

    def __init__(
        self, bundle: Bundle, requests: NDArray[Any], expected: list[str],
        find_judge: FindJudge | None,
    ) -> None:  # fmt: skip
        self._bundle, self._requests, self._expected = bundle, requests, expected
        self._find_judge = find_judge
        self.digest = bundle.digest

    @cached_property
    def _texts(self) -> list[str]:
        program = self._bundle.program(threads=1)
        try:
            requests = [greedy(str(request)) for request in self._requests]
            answered = [program.run({"request": np.array([one], object)}) for one in requests]
        finally:
            program.close()
        return [str(answer["text"][0]) for answer in answered]

    def values(self, criterion: Criterion) -> tuple[Floats, str]:
        """By text, and what is to be said of them. Shape (texts,), or (texts, 2) of perplexity."""
        inside, note = str(criterion.condition or ""), ""
        match criterion.metric:
            case "exact_match":
                pairs = zip(self._texts, self._expected, strict=True)
                values = [answer.split() == expected.split() for answer, expected in pairs]
            case "toxicity":
                listed = _words(Path(inside))
                values = [listed.search(answer) is not None for answer in self._texts]
            case "judge_score":
                scores = self._scores(inside)
                if unusable := sum(score is None for score in scores):
                    note = f"; {unusable:,} got no score from {inside}, and count as 0"
                return np.array([score or 0.0 for score in scores]), note
            case _:
                return self._logprobs(), note
        return np.array(values, np.float64), note

    def _scores(self, name: str) -> list[float | None]:
        if self._find_judge is None:
            raise Invalid(f"there are no settings to look for the judge {name} in")
        judge = self._find_judge(name)
        rows = zip(self._requests, self._texts, self._expected, strict=True)
        return [
            score_of(judge.ask(prompt_of(judge.rubric, str(request), answer, expected)))
            for request, answer, expected in rows
        ]

    def _logprobs(self) -> Floats:
        scored = scores_of(self._bundle, self._expected)
        return np.column_stack([scored["logprob"], scored["tokens"]]).astype(np.float64)


def scores_of(bundle: Bundle, texts: Sequence[str]) -> Columns:
    """The sum of the log probabilities of the tokens of each text, `logprob`, and their `tokens`.

    Raises:
        Unconvertible: The engine of the bundle does not tell them.
    """
    from bascule.bundle.generation import FORMAT, open_scorer

    if bundle.manifest.original.format != FORMAT:
        raise Unconvertible("its engine does not tell the log probabilities of a text")
    scorer = open_scorer(bundle.path)
    try:
        return scorer.run({"text": np.array(texts, object)})
    finally:
        scorer.close()


def greedy(request: str) -> str:
    """A request that is plain text, so that it gets the same answer again; another one as it is."""
    try:
        if isinstance(json.loads(request), dict):
            return request
    except ValueError:
        pass
    message = {"role": "user", "content": request}
    return json.dumps({"messages": [message], "temperature": 0}, ensure_ascii=False)


def _words(file: Path) -> re.Pattern[str]:
    """Any of the words or phrases of a file, a line each; lines with # are left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the list of words {file} cannot be read: {error}") from None
    words = [re.escape(line.strip()) for line in lines if line.strip() and line[0] != "#"]
    if not words:
        raise Invalid(f"the list of words {file} is empty")
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)
