"""Gates of models that generate text: on a suite of requests, and beside the champion."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.chat_models import chat_bundle, suite_of

from bascule.core import Invalid
from bascule.release import Criterion, NotWorse, check
from bascule.release.texts import greedy

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SUITE = suite_of([(f"capital {n}?", f"answer {n}") for n in range(40)])
RIGHT = {f"capital {n}?": f" answer  {n}\n" for n in range(40)}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    worse = RIGHT | {f"capital {n}?": "you idiot" for n in range(30, 40)}
    return {
        "champion": chat_bundle(folder / "champion", "chat", RIGHT),
        "worse": chat_bundle(folder / "worse", "chat", worse),
    }


class Strict:
    """A judge that is at a loss about every tenth answer."""

    asked, closed = 0, 0

    def score(self, request, answer, expected):
        Strict.asked += 1
        return None if answer.strip().endswith("3") else 0.2 if "idiot" in answer else 0.9

    def close(self):
        Strict.closed += 1


def strict(name):
    assert name == "strict"
    return Strict()


def checked(bundles, name, *criteria, test=SUITE, find=None, find_judge=strict):
    report = check(
        bundles[name], criteria, test=test, now=NOW, by="me", find=find or bundles.get,
        find_judge=find_judge, record=lambda _: None,
    )  # fmt: skip
    return report.results


def test_an_answer_matches_where_its_words_do_and_the_interval_is_told(bundles):
    (right,) = checked(bundles, "champion", "exact_match >= 0.9")
    assert right.passed
    (worse,) = checked(bundles, "worse", "exact_match >= 0.9")
    assert (worse.passed, worse.value) == (False, 0.75)
    # Clopper and Pearson's interval of 30 in 40 at 90 %, by scipy's quantiles of the beta law.
    assert "on 40 texts, 90% interval [0.6129, 0.8576]" in worse.reason


def test_the_verdict_is_recorded_beside_the_bundle_with_plain_numbers(bundles):
    bundle = bundles["worse"]
    report = check(bundle, ["exact_match >= 0.7"], test=SUITE, now=NOW, by="me")
    (kept,) = bundle.statements("gates")[-1].body["results"]
    assert (kept["value"], kept["passed"]) == (0.75, True)
    assert report.to_json()["results"] == [kept]


def test_the_words_of_a_list_are_found_whole_and_in_any_case(bundles, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("# rude\nIDIOT\nans\n")
    (found,) = checked(bundles, "worse", f"toxicity[{words}] <= 0.1")
    assert (found.passed, found.value) == (False, 0.25)
    (missing,) = checked(bundles, "worse", "toxicity[no/such.txt] <= 0.1")
    assert "the list of words no/such.txt cannot be read" in missing.reason


def test_a_judge_scores_the_suite_and_what_it_does_not_score_counts_as_0(bundles):
    (found,) = checked(bundles, "champion", "judge_score[strict] >= 0.9")
    assert found.value == pytest.approx(0.9 * 36 / 40)
    assert "4 got no score from strict, and count as 0" in found.reason
    (nowhere,) = checked(bundles, "champion", "judge_score[strict] >= 0.9", find_judge=None)
    assert "no settings to look for the judge" in nowhere.reason


def test_a_worse_candidate_fails_beside_the_champion_and_an_equal_one_passes(bundles, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("idiot\n")
    criteria = (
        "exact_match >= champion - 0.2", "judge_score[strict] >= champion - 0.1",
        f"toxicity[{words}] <= champion + 0.2",
    )  # fmt: skip
    results = checked(bundles, "worse", *criteria)
    assert [result.passed for result in results] == [False] * 3
    assert "exact_match 0.75, and 1 of champion, on the same 40 requests" in results[0].reason
    assert "Tango" in results[0].reason
    assert "paired bootstrap" in results[1].reason
    assert all(result.passed for result in checked(bundles, "champion", *criteria))
    waived = checked(bundles, "worse", criteria[0], find=lambda _: None)[0]
    assert waived.is_waived


def test_perplexity_is_of_all_tokens_and_needs_an_engine_that_tells(bundles, monkeypatch):
    (unknown,) = checked(bundles, "champion", "perplexity <= 20")
    assert "does not tell the log probabilities" in unknown.reason
    tokens = np.arange(1, 41)
    monkeypatch.setattr(
        "bascule.release.texts.scores_of",
        lambda bundle, _: {
            "logprob": -np.log(4.0 if bundle.digest == bundles["worse"].digest else 2.0) * tokens,
            "tokens": tokens,
        },
    )
    (known,) = checked(bundles, "champion", "perplexity <= 2.5")
    assert (known.passed, known.value) == (True, pytest.approx(2.0))
    (compared,) = checked(bundles, "worse", "perplexity <= champion + 1")
    assert not compared.passed


def test_without_a_suite_the_criterion_fails_and_says_how_to_give_one(bundles):
    (missing,) = checked(bundles, "champion", "exact_match >= 0.9", test=None)
    assert "--test suite.jsonl --target expected" in missing.reason


def test_few_texts_have_a_value_and_no_comparison(bundles):
    few = suite_of([("capital 1?", "answer 1"), ("capital 2?", "answer 2")])
    (value,) = checked(bundles, "champion", "judge_score[strict] >= 0.5", test=few)
    assert value.passed
    assert "no interval" in value.reason
    assert not checked(bundles, "worse", "judge_score[strict] >= champion - 0.1", test=few)[
        0
    ].passed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("judge_score >= 0.7", "judge_score needs a name"),
        ("toxicity <= 0.1", "toxicity needs a name"),
        ("exact_match[x] >= 0.7", "nothing in brackets"),
        ("perplexity >= champion - 1", "better when smaller"),
        ("accuracy[a=b] >= champion - 0.1", "compared on all rows"),
        ("exact_match >= champion", "needs a margin"),
    ],
)
def test_a_mistaken_criterion_says_what_to_write(text, said):
    with pytest.raises(Invalid, match=said):
        Criterion.parse(text)


def test_a_criterion_is_written_as_it_is_read(bundles):
    for text in ("judge_score[strict] >= champion - 0.1", "toxicity[a/b.txt] <= 0.01"):
        assert str(Criterion.parse(text)) == text
    assert isinstance(Criterion.parse("perplexity <= champion + 1"), NotWorse)
    with pytest.raises(Invalid, match="accuracy is no metric of chat, which generates text"):
        checked(bundles, "champion", "accuracy >= 0.9")


def test_a_plain_request_is_asked_without_chance():
    assert json.loads(greedy("1 + 1")) == {
        "messages": [{"role": "user", "content": "1 + 1"}], "temperature": 0,
    }  # fmt: skip
    assert greedy('{"prompt": "x"}') == '{"prompt": "x"}'


def test_a_judge_is_asked_once_for_all_criteria_and_is_closed(bundles):
    asked, closed = Strict.asked, Strict.closed
    checked(bundles, "worse", "judge_score[strict] >= 0.7", "judge_score[strict] >= champion - 0.1")
    assert (Strict.asked - asked, Strict.closed - closed) == (80, 1)
