"""Gates of models that generate text, measured on a suite: requests, and the text expected of each.

| metric | of an answer | |
|---|---|---|
| `exact_match` | whether it is the expected text, white space aside | |
| `judge_score[NAME]` | the score by the judge NAME, 0 to 1 | 0 where it gives none |
| `toxicity[FILE]` | whether it has a word of the file, a line each | share of answers |
| `perplexity` | of the expected text by the model: exp(-log probability / tokens) | of all texts |
| `lm_eval[TASK/METRIC]` | what lm-eval makes of it, on its own requests: see `harness` | |

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

from bascule.core import Columns, Invalid
from bascule.release.conditional import attempted
from bascule.release.criteria import TEXTS, Criterion, NotWorse
from bascule.release.gates import Measured
from bascule.release.harness import Values, run_task, task_values
from bascule.release.measure import rows_to_judge
from bascule.stats import CONFIDENCE, bootstrap, compare_right, exact_interval

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.monitoring import Judge
    from bascule.release.against import Find

FindJudge = Callable[[str], "Judge"]
"""Opens the judge of a name. Raises `NotFound`."""
Floats = NDArray[np.float64]
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
    missing = suite.note if isinstance(suite, Measured) else _MISSING
    columns, truth = ({}, None) if isinstance(suite, Measured) else suite
    requests = columns["request"].tolist() if "request" in columns else []
    expected = [] if truth is None else [str(text) for text in truth.tolist()]

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
            if truth is None and criterion.metric != "lm_eval":
                return Measured(None, missing)
            ours = answers("")
            assert ours is not None
            if isinstance(criterion, NotWorse):
                return _compared(ours, answers(criterion.against), criterion)
            return _measured(ours.values(criterion), criterion)

        return {each.measure: attempted(partial(measured, each)) for each in criteria}


def _measured(values: Values, criterion: Criterion) -> Measured:
    each, count, total = values.each, len(values.each), float(values.statistic(values.each))
    try:
        if values.is_share:
            ends = exact_interval(int(each.sum()), count, confidence=CONFIDENCE)
        else:
            drawn = bootstrap(lambda rows: values.statistic(each[rows]), count, reach=values.reach)
            ends = drawn.lower, drawn.upper
        interval = f"{CONFIDENCE:.0%} interval [{ends[0]:.4g}, {ends[1]:.4g}]"
    except Invalid as few:
        if criterion.metric == "lm_eval":
            raise
        interval = f"no interval: {few.message}"
    if criterion.metric != "lm_eval":
        return Measured(total, f"on {count:,} texts, {interval}{values.note}")
    end, name = (ends[0], "lower") if criterion.wants_more else (ends[1], "upper")
    brief = f"the {name} end of the {interval} of {total:.4g} on {count:,} samples"
    return Measured(end, brief + values.note, brief=brief)


def _compared(answers: _Answers, other: _Answers | None, criterion: NotWorse) -> Measured:
    """The lower end of the interval of the difference, better when larger."""
    name, against = criterion.metric, criterion.against
    if other is None:
        return Measured(None, f"there is no {against} yet", is_waived=True)
    if other.digest == answers.digest:
        return Measured(0.0, f"the candidate is {against} itself", brief="they are the same model")
    their_values, values = other.values(criterion), answers.values(criterion)
    theirs, ours, statistic = their_values.each, values.each, values.statistic
    sign = -1 if TEXTS[name] else 1

    def difference(rows: NDArray[np.int64]) -> float:
        return sign * (statistic(ours[rows]) - statistic(theirs[rows]))

    if values.is_share and their_values.is_share:
        test = compare_right(theirs == max(sign, 0), ours == max(sign, 0))
    else:
        test = bootstrap(difference, len(ours), reach=values.reach)
    brief = f"{name} {statistic(ours):.4g}, and {statistic(theirs):.4g} of {against}"
    return Measured(
        test.lower,
        f"{brief}, on the same {len(ours):,} requests: better by {test.difference:.3g}, "
        f"{test.confidence:.0%} interval [{test.lower:.3g}, {test.upper:.3g}], whose lower end "
        f"counts ({test.test}){values.note}",
        brief=brief,
    )


def _perplexity(values: Floats) -> float:
    """Of log probabilities and tokens, in two columns."""
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
        self._run_task = cache(partial(run_task, bundle))

    def values(self, criterion: Criterion) -> Values:
        """By text, or by sample of a task."""
        if criterion.metric == "lm_eval":
            return task_values(self._run_task, criterion)
        return self._values(criterion.metric, str(criterion.condition or ""))

    def _answered(self) -> list[str]:
        with closing(self._bundle.program(threads=1)) as program:
            answered = [
                program.run({"request": np.array([greedy(request)], object)})
                for request in self._requests
            ]
        return [str(answer["text"][0]) for answer in answered]

    def _measured(self, metric: str, inside: str) -> Values:
        if metric == "perplexity":
            scored = scores_of(self._bundle, self._expected)
            pairs = np.column_stack([scored["logprob"], scored["tokens"]]).astype(np.float64)
            return Values(pairs, _perplexity)
        if metric == "toxicity":
            listed = _words(Path(inside))
            bad = [listed.search(text) is not None for text in self._texts()]
            return Values(np.array(bad, float), is_share=True)
        rows = list(zip(self._requests, self._texts(), self._expected, strict=True))
        if metric == "exact_match":
            same = [text.split() == right.split() for _, text, right in rows]
            return Values(np.array(same, float), is_share=True)
        judge = self._judge(inside)
        scores = [judge.score(*row) for row in rows]
        unusable = scores.count(None)
        note = f"; {unusable:,} got no score from {inside}, and count as 0" if unusable else ""
        return Values(np.array([score or 0.0 for score in scores]), reach=1.0, note=note)


def scores_of(bundle: Bundle, texts: Sequence[str]) -> Columns:
    """The `logprob` and the number of `tokens` of each text; see `open_scorer`."""
    from bascule.bundle.generation import open_scorer

    with closing(open_scorer(bundle.path)) as scorer:
        none = np.array([""], object)  # texts one by one, for the time that a run may take
        scored = [scorer.run({"text": np.array([text], object), "context": none}) for text in texts]
    return {name: np.concatenate([row[name] for row in scored]) for name in scored[0]}


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
