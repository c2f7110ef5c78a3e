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
from bascule.monitoring import judge_prompt, score_said
from bascule.release.conditional import attempted
from bascule.release.criteria import TEXTS, Criterion, NotWorse
from bascule.release.gates import Measured
from bascule.release.measure import rows_to_judge
from bascule.stats import (
    CONFIDENCE,
    Comparison,
    Difference,
    bootstrap,
    compare_right,
    exact_interval,
)

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.monitoring import Judge
    from bascule.release.against import Find

FindJudge = Callable[[str], "Judge"]
"""The judge of a name. Raises `NotFound`."""
Floats = NDArray[np.float64]
_SHARES = ("exact_match", "toxicity")
"""Of answers that are right or wrong, one by one."""
_WORDS = "write a word or a phrase a line"
_BY_SETTINGS = "bascule check and bascule.check take judges from the settings"
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
    count = len(values)
    try:
        if criterion.metric in _SHARES:
            ends = exact_interval(int(values.sum()), count, confidence=CONFIDENCE)
        else:
            found = _bootstrapped(values, lambda rows: _statistic(values[rows]))
            ends = found.lower, found.upper
        interval = f"{CONFIDENCE:.0%} interval [{ends[0]:.4g}, {ends[1]:.4g}]"
    except Invalid as few:
        interval = f"no interval: {few.message}"
    return Measured(_statistic(values), f"on {count:,} texts, {interval}{note}")


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
        found = compare_right(theirs == max(sign, 0), ours == max(sign, 0))
    else:
        found = _bootstrapped(
            ours, lambda rows: sign * (_statistic(ours[rows]) - _statistic(theirs[rows]))
        )
    brief = f"{name} {_statistic(ours):.4g}, and {_statistic(theirs):.4g} of {against}"
    return Measured(
        found.lower,
        f"{brief}, on the same {len(ours):,} requests: better by {found.difference:.3g}, "
        f"{found.confidence:.0%} interval [{found.lower:.3g}, {found.upper:.3g}], whose lower end "
        f"counts ({found.test}){note}",
        brief=brief,
    )


def _bootstrapped(values: Floats, difference: Difference) -> Comparison:
    return bootstrap(difference, len(values), reach=None if values.ndim > 1 else 1.0)


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
            raise Invalid(
                f"there are no settings to look for the judge {name} in", hint=_BY_SETTINGS
            )
        judge = self._find_judge(name)
        rows = zip(self._requests, self._texts, self._expected, strict=True)
        return [
            score_said(judge.ask(judge_prompt(judge.rubric, str(request), answer, expected)))
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
        raise Unconvertible(
            "its engine does not tell the log probabilities of a text",
            hint="measure it by exact_match or judge_score[NAME]",
        )
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
        raise Invalid(f"the list of words {file} cannot be read: {error}", hint=_WORDS) from None
    words = [re.escape(line.strip()) for line in lines if line.strip() and line[0] != "#"]
    if not words:
        raise Invalid(f"the list of words {file} is empty", hint=_WORDS)
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)
