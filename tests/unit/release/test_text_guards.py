"""Guards on generated texts: counted by workers, and decided by the engine of all guards."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from tests.canary_stories import START, CanaryStory
from tests.tiers import first_of

from bascule.core import Invalid
from bascule.release.rollouts import (
    Aborted,
    Guard,
    Interval,
    Promoted,
    Rollout,
    check_rollout,
    parse_guard,
)
from bascule.release.rollouts.guards import TEXT_GUARDS
from bascule.serving.telemetry import ArmLabel, Counters, MetricLabels, TextFigures

ARMS = {"current": "chat/1", "candidate": "chat/2"}
REQUESTS = 400


class Story(CanaryStory):
    """A canary of a text model; `worse` is what the candidate's answers are changed by."""

    def __init__(self, folder, guards, worse, seed=0):
        rollout = Rollout(
            id="r1", started_at=START, endpoint="chat", candidate="chat/2", current="chat/1",
            strategy="canary", guards=guards, step_s=0.0, steps_percent=(50.0, 100.0),
        )  # fmt: skip
        super().__init__(check_rollout(rollout), Counters(folder / "counters", 1))
        labels = [ArmLabel("chat", 1, arm, of, (), True) for arm, of in ARMS.items()]
        self.counters.arms.name(labels, [])
        self.arms = {}
        for label in labels:
            version = MetricLabels("chat", label.version[-1])
            self.counters.name(version)
            series = self.counters.series(0, version)
            self.arms[label.arm] = self.counters.arms.series(0, label, series, version)
            self.arms[label.arm].count_answers()
        self.worse, self.random = worse, np.random.default_rng(seed)

    def text(self):
        first, token = self.random.lognormal((17, 15), 0.5).astype(int).tolist()
        length = int(self.random.geometric(1 / 80))
        is_refusal, is_malformed = (self.random.random(2) < (0.02, 0.1)).tolist()
        return TextFigures(first, token, 0, 20, length, 0, "stop", is_refusal, is_malformed)

    def ask(self):
        for drawn in self.random.random(REQUESTS) < 0.5:
            text = self.text()
            series = self.arms["candidate" if drawn else "current"]
            text = text._replace(**self.worse(text)) if drawn else text
            series.count(200, text.first_token_ns, 1)
            series.count_text(text)


WORSE = {
    "first_token +20 %": lambda text: {"first_token_ns": text.first_token_ns * 2},
    "tokens_per_s -20 %": lambda text: {"token_ns": text.token_ns * 2},
    "length +50 %": lambda text: {"completion_tokens": text.completion_tokens * 3},
    "brevity +50 %": lambda text: {"completion_tokens": text.completion_tokens // 3},
    "refusals +5 pp": lambda text: {"is_refusal": text.completion_tokens < 20},
    "malformed +2 pp": lambda text: {"is_malformed": text.completion_tokens < 20},
}
SAID = {
    "length +50 %": "answers at more length than chat/1",
    "brevity +50 %": "answers at less length than chat/1",
    "refusals +5 pp": "% of the answers of chat/2 refuse, and",
    "malformed +2 pp": "% of the answers of chat/2 break the JSON schema",
}


@pytest.mark.parametrize("guard", first_of(list(WORSE), 6))
def test_a_worse_candidate_is_rolled_back_and_the_reason_said(tmp_path, guard):
    story = Story(tmp_path, (parse_guard(guard),), WORSE[guard])
    assert story.run() is Aborted
    assert SAID.get(guard, "chat/2 is slower than chat/1") in story.sentence
    assert str(parse_guard(guard)) == guard


@pytest.mark.parametrize("guard", first_of(list(WORSE), 2))
def test_an_equal_candidate_is_promoted(tmp_path, guard):
    wide = guard.replace("+2 pp", "+5 pp")
    story = Story(tmp_path, (parse_guard(wide),), lambda _: {}, seed=1)
    assert story.run(120) is Promoted, story.sentence


def test_answers_that_were_given_up_are_no_evidence_of_their_lengths(tmp_path):
    story = Story(tmp_path, TEXT_GUARDS, lambda _: {"finish": "cancelled", "is_refusal": True})
    story.turn()
    candidate = story.raw[0].candidate
    assert candidate.answers.texts == candidate.answers.refused == 0
    assert story.raw[0].current.answers.texts > 100


@pytest.mark.parametrize("count", [0, 1])
def test_counts_of_texts_survive_json(tmp_path, count):
    story = Story(tmp_path, TEXT_GUARDS, lambda _: {})
    for _ in range(count):
        story.turn()
    for one in story.intervals:
        assert msgspec.json.decode(msgspec.json.encode(one), type=Interval) == one
        assert json.loads(msgspec.json.encode(one))["candidate"]["answers"]["texts"] > 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tokens_per_s +20 %", "allows a gain"),
        ("tokens_per_s -100 %", "allows everything"),
        ("length +5 ms", "is guarded in %"),
        ("refusals +5 %", "is guarded in pp"),
        ("first_token +1 %", "within 'first_token"),
    ],
)
def test_guards_on_texts_say_what_they_need(text, said):
    with pytest.raises(Invalid) as refused:
        parse_guard(text)
    assert said in str(refused.value)


def test_a_shadow_has_no_guards_on_texts():
    guards = (Guard("errors", 0.01, "pp"), Guard("refusals", 0.05, "pp"))
    with pytest.raises(Invalid, match="of a shadow, and its texts"):
        check_rollout(
            Rollout(
                id="r", started_at=START, endpoint="chat", candidate="chat/2", current="chat/1",
                strategy="shadow", guards=guards, steps_percent=(10.0,),
            )
        )  # fmt: skip
