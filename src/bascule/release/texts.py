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
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Invalid, Unconvertible
from bascule.release.conditional import attempted
from bascule.release.criteria import TEXTS, Criterion, NotWorse
from bascule.release.gates import Measured
from bascule.release.measure import rows_to_judge
from bascule.stats import CONFIDENCE, bootstrap, compare_right, exact_interval

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.monitoring import Judge
    from bascule.release.against import Find

FindJudge = Callable[[str], "Judge"]
"""Opens the judge of a name. Raises `NotFound`."""
Floats = NDArray[np.float64]
_SHARES = ("exact_match", "toxicity")
"""Of answers that are right or wrong, one by one."""
_WORDS = "write a word or a phrase a line"
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
        find_judge: Where judges are; they are closed again.

    Raises:
        Invalid: `test` is not a pair of rows and as many texts.
    """
    suite = rows_to_judge(bundle, test) or ({}, None)
    if isinstance(suite, Measured):
        return {one.measure: suite for one in criteria}
    columns, truth = suite
    if truth is None:
        return {one.measure: Measured(None, _MISSING) for one in criteria}
    requests, expected = columns["request"].tolist(), [str(text) for text in truth.tolist()]

    with ExitStack() as opened:

        @cache
        def judge(name: str) -> Judge:
            if find_judge is None:
                raise Invalid(
                    f"there are no settings to look for the judge {name} in",
                    hint="bascule check and bascule.check take judges from the settings",
                )
            return opened.enter_context(closing(find_judge(name)))

        @cache
        def answers(against: str) -> _Answers | None:
            if not against:
                return _Answers(bundle, requests, expected, judge)
            if find is None:
                raise Invalid(f"there is no registry to look for {against} in")
            other = find(against)
            return None if other is None else _Answers(other, requests, expected, judge)

        def measured(criterion: Criterion) -> Measured:
            ours = answers("")
            assert ours is not None
            if isinstance(criterion, NotWorse):
                return _compared(ours, answers(criterion.against), criterion)
            return _measured(*ours.values(criterion), criterion.metric)

        return {one.measure: attempted(partial(measured, one)) for one in criteria}


def _measured(values: Floats, note: str, metric: str) -> Measured:
    count = len(values)
    try:
        if metric in _SHARES:
            ends = exact_interval(int(values.sum()), count, confidence=CONFIDENCE)
        else:
            drawn = bootstrap(lambda rows: _statistic(values[rows]), count, reach=_reach(metric))
            ends = drawn.lower, drawn.upper
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

    def difference(rows: NDArray[np.int64]) -> float:
        return sign * (_statistic(ours[rows]) - _statistic(theirs[rows]))

    if name in _SHARES:
        found = compare_right(theirs == max(sign, 0), ours == max(sign, 0))
    else:
        found = bootstrap(difference, len(ours), reach=_reach(name))
    brief = f"{name} {_statistic(ours):.4g}, and {_statistic(theirs):.4g} of {against}"
    return Measured(
        found.lower,
        f"{brief}, on the same {len(ours):,} requests: better by {found.difference:.3g}, "
        f"{found.confidence:.0%} interval [{found.lower:.3g}, {found.upper:.3g}], whose lower end "
        f"counts ({found.test}){note}",
        brief=brief,
    )


def _reach(metric: str) -> float | None:
    """What one text can cost a mean, times the texts; see `stats.bootstrap`."""
    return None if metric == "perplexity" else 1.0


def _statistic(values: Floats) -> float:
    """The mean; of pairs of a log probability and tokens, the perplexity."""
    if values.ndim == 1:
        return float(values.mean())
    logprob, tokens = values.sum(axis=0)
    return math.exp(min(-logprob / max(tokens, 1), 700.0))


class _Answers:
    """What a bundle answers to the requests of a suite; it is asked once, and so is each judge."""

    def __init__(
        self, bundle: Bundle, requests: Sequence[str], expected: Sequence[str],
        judge: Callable[[str], Judge],
    ) -> None:  # fmt: skip
        self.digest = bundle.digest
        self._bundle, self._requests, self._expected = bundle, requests, expected
        self._judge = judge
        self._texts, self._values = cache(self._answered), cache(self._measured)

    def values(self, criterion: Criterion) -> tuple[Floats, str]:
        """By text, and what is to be said of them. Shape (texts,), or (texts, 2) of perplexity."""
        return self._values(criterion.metric, str(criterion.condition or ""))

    def _answered(self) -> list[str]:
        with closing(self._bundle.program(threads=1)) as program:
            answered = [
                program.run({"request": np.array([greedy(request)], object)})
                for request in self._requests
            ]
        return [str(answer["text"][0]) for answer in answered]

    def _measured(self, metric: str, inside: str) -> tuple[Floats, str]:
        if metric == "perplexity":
            scored = scores_of(self._bundle, self._expected)
            return np.column_stack([scored["logprob"], scored["tokens"]]).astype(np.float64), ""
        if metric == "toxicity":
            listed = _words(Path(inside))
            return np.array([listed.search(text) is not None for text in self._texts()], float), ""
        rows = list(zip(self._requests, self._texts(), self._expected, strict=True))
        if metric == "exact_match":
            return np.array([text.split() == right.split() for _, text, right in rows], float), ""
        judge = self._judge(inside)
        scores = [judge.score(*row) for row in rows]
        unusable = scores.count(None)
        note = f"; {unusable:,} got no score from {inside}, and count as 0" if unusable else ""
        return np.array([score or 0.0 for score in scores]), note


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
    with closing(open_scorer(bundle.path)) as scorer:
        return scorer.run({"text": np.array(texts, object)})


def greedy(request: str) -> str:
    """A request that is plain text, so that it gets the same answer again; another one as it is."""
    if request.lstrip().startswith("{"):
        return request
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
