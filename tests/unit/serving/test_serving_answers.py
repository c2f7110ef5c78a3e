"""What is in the answers of an arm is counted in blocks, in memory that all workers share."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from bascule.core import DType, Field
from bascule.serving.calls import Answer, AnsweredBy
from bascule.serving.telemetry.answers import (
    BLOCK,
    LEAST_SAMPLE,
    SAMPLE,
    AnswerRegions,
    Event,
    agreement,
    events_of,
    views_of,
)

BY = AnsweredBy("late", "2", "onnx")
NUMBER = (Field("prediction", DType.FP64),)
CLASSES = (Field("label", DType.BYTES), Field("probabilities", DType.FP64, (2,)))
NUMBERS, LABELS = np.zeros(4, bool), np.ones(4, bool)


class Counted:
    """The regions of two workers, and the counter of one of them."""

    def __init__(self, outputs=NUMBER, **more):
        places = 2
        self.regions = AnswerRegions(memoryview(bytearray(AnswerRegions.size_of(2, places))), 2, 2)
        self.is_current = True
        self.counter = self.regions.counter(1, 1, lambda: self.is_current)
        self.counter.describe(BY, outputs, **{"allows_non_finite": False} | more)

    def answer(self, *, by=BY, **outputs):
        self.counter.add(Answer({name: np.asarray(one) for name, one in outputs.items()}, by))

    def totals(self):
        self.counter.tick()
        return self.regions.totals(1)[0]

    def pairs(self):
        return msgspec.structs.astuple(self.regions.totals(1)[1])


def test_answers_are_counted_once_a_block_is_full_or_a_second_has_passed():
    counted = Counted()
    for value in range(BLOCK - 1):
        counted.answer(prediction=[float(value)])
    assert counted.regions.totals(1)[0].looked == 0
    counted.answer(prediction=[0.0])
    assert counted.regions.totals(1)[0].looked == BLOCK
    counted.answer(prediction=[0.0])
    assert counted.totals().looked == BLOCK + 1
    assert counted.regions.totals(0)[0].looked == 0, "another arm"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_with_one_value_that_is_not_finite_is_unusable(value):
    counted = Counted()
    counted.answer(prediction=[1.0, value, 2.0])
    counted.answer(prediction=[value, value])
    counted.answer(prediction=[1.0, 2.0])
    assert (counted.totals().looked, counted.totals().unusable) == (3, 2)


def test_values_that_are_not_finite_are_answers_of_a_model_that_declared_them():
    counted = Counted(allows_non_finite=True)
    counted.answer(prediction=[np.nan])
    assert (counted.totals().looked, counted.totals().unusable) == (1, 0)


def test_answers_of_a_fallback_and_of_an_arm_that_is_gone_are_counted_nowhere():
    counted = Counted()
    counted.answer(prediction=[1.0], by=BY._replace(version="1"))
    counted.counter.add(None)
    assert counted.totals().looked == 0
    counted.answer(prediction=[1.0])
    counted.is_current = False
    assert counted.totals().looked == 0


def test_outputs_that_a_caller_chose_are_searched_and_not_compared():
    counted = Counted(CLASSES)
    counted.regions.set_events(1, [Event(0, 1.0, True)])
    counted.answer(label=["on time"])
    assert (counted.totals().looked, counted.totals().compared) == (1, 0)


def test_the_first_answers_are_a_sample_from_which_the_events_are_found():
    counted = Counted()
    for value in range(SAMPLE + 100):
        counted.answer(prediction=[value / 7])
    counted.counter.tick()
    sample, are_labels = counted.regions.sample(1)
    assert len(sample) == SAMPLE >= LEAST_SAMPLE
    assert not are_labels[0]
    events = events_of(sample, are_labels)
    assert [event.view for event in events] == [0] * 7
    shares = [(sample[:, 0] <= event.value).mean() for event in events]
    assert shares == pytest.approx(np.arange(1, 8) / 8, abs=0.07)


def test_answers_are_compared_once_the_events_are_known():
    counted = Counted()
    counted.answer(prediction=[0.0])
    assert counted.totals().compared == 0
    counted.regions.set_events(1, [Event(0, 0.5, False), Event(0, 3.0, True)])
    counted.regions.set_events(1, [Event(0, 9.0, False)])  # others were chosen before
    for value in (0.0, 0.5, 3.0, 3.0, 4.0):
        counted.answer(prediction=[value])
    totals = counted.totals()
    assert totals.compared == 5
    assert totals.events[:2] == (2, 2)
    assert totals.changes == 3, "0 to 0.5 to 3, 3 to 4"
    counted.answer(prediction=[5.0])
    assert counted.totals().changes == 4, "across blocks too"


def test_of_many_rows_one_is_compared():
    counted = Counted()
    counted.regions.set_events(1, [Event(0, 0.5, False)])
    for _ in range(400):
        counted.answer(prediction=[0.0, 1.0, 1.0, 1.0])
    totals = counted.totals()
    assert totals.compared == 400
    assert 60 < totals.events[0] < 140


def test_texts_are_labels_with_a_code_and_one_of_two_probabilities_says_both():
    assert [view.take for view in views_of(CLASSES)] == ["text", "last"]
    counted = Counted(CLASSES)
    for place in range(300):
        is_late = place % 3 == 0
        counted.answer(
            label=np.array(["late" if is_late else "on time"], object),
            probabilities=[[0.25, 0.75] if is_late else [0.75, 0.25]],
        )
    counted.counter.tick()
    sample, are_labels = counted.regions.sample(1)
    assert are_labels.tolist() == [True, False, False, False]
    events = events_of(sample, are_labels)
    assert [event.is_label for event in events] == [True, False]
    assert (sample[:, 0] == events[0].value).mean() == pytest.approx(2 / 3, abs=0.01)
    assert events[1].value == 0.5, "between the values, so that rounding moves nothing over it"


def test_probabilities_of_many_classes_are_seen_by_the_likeliest():
    fields = (Field("probabilities", DType.FP32, (3,)),)
    assert [view.take for view in views_of(fields)] == ["place", "greatest"]
    counted = Counted(fields)
    values, _ = counted.counter.values([{"probabilities": np.array([[0.1, 0.7, 0.2]])}])
    assert values.tolist() == [[1.0, pytest.approx(0.7)]]


def test_outputs_without_a_number_for_each_row_are_not_compared():
    assert views_of((Field("tokens", DType.INT64, (-1,)), Field("words", DType.BYTES, (3,)))) == ()
    counted = Counted((Field("tokens", DType.FP32, (-1,)),))
    counted.answer(tokens=[[1.0, np.nan]])
    counted.answer(tokens=[[1.0, 2.0, 3.0]])
    totals = counted.totals()
    assert (totals.looked, totals.compared) == (2, 0)


def test_a_single_value_tells_something_of_labels_alone():
    sample = np.full((256, 1), 3.0)
    assert events_of(sample, LABELS) == (Event(0, 3.0, True),)
    assert events_of(sample, NUMBERS) == ()


def test_few_whole_numbers_are_labels_and_many_are_divided():
    few = np.arange(256.0)[:, None] % 5
    assert [event.is_label for event in events_of(few, LABELS)] == [True] * 4
    many = np.arange(256.0)[:, None] % 40
    assert [event.is_label for event in events_of(many, LABELS)] == [False] * 7


def test_a_busy_arm_is_sampled_at_random():
    counted = Counted()
    for _ in range(3):
        for _ in range(20 * 512):
            counted.answer(prediction=[1.0])
        looked = counted.totals().looked
    assert 20 * 512 + BLOCK < looked < 1.4 * 20 * 512, "of the first second all are counted"


def test_pairs_count_order_and_the_events_of_one_version_alone():
    counted = Counted()
    first, second = np.array([[1.0], [1.1]]), np.array([[2.0], [2.5]])
    counted.counter.count_pairs(first, second)
    assert counted.pairs()[:5] == (1, 0, 0, 0, 0)
    counted.regions.set_events(1, [Event(0, 1.05, False), Event(0, 2.2, False)])
    counted.counter.count_pairs(first, second)
    counted.counter.count_pairs(np.array([[1.0], [3.0]]), np.array([[1.0], [4.0]]))
    alike, crossed, ties, still, compared, gained, lost = counted.pairs()
    assert (alike, crossed, ties, still, compared) == (2, 0, 1, 1, 4)
    assert (gained[:2], lost[:2]) == ((3, 3), (0, 0))


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [
        ([[1.0], [1.1]], [[2.0], [2.5]], 1),
        ([[1.0], [2.5]], [[2.0], [1.1]], -1),
        ([[1.0], [1.0]], [[1.0], [2.0]], 0),
        ([[1.0 + 1e-10], [2.0 - 1e-10]], [[1.0], [2.0]], 0),  # two programs of one tree
    ],
)
def test_numbers_are_ordered_by_both_versions(first, second, order):
    assert agreement(np.array(first), np.array(second), NUMBERS[:1]) == order


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [
        ([[1.0], [1.0]], [[2.0], [2.0]], 1),
        ([[1.0], [2.0]], [[2.0], [1.0]], -1),
        ([[1.0], [2.0]], [[3.0], [4.0]], -1),
        ([[1.0], [1.0]], [[1.0], [1.0]], 0),
    ],
)
def test_labels_are_matched(first, second, order):
    assert agreement(np.array(first), np.array(second), LABELS[:1]) == order


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [
        ([[1.0, 0.6], [1.0, 0.7]], [[1.0, 0.8], [1.0, 0.9]], 1),
        ([[1.0, 0.6], [1.0, 0.7]], [[1.0, 0.8], [2.0, 0.9]], 0),
        ([[1.0, 0.6], [2.0, 0.7]], [[1.0, 0.8], [2.0, 0.9]], -1),
        ([[1.0, 0.6], [1.0, 0.9]], [[2.0, 0.8], [2.0, 0.7]], 1),
    ],
)
def test_numbers_decide_where_both_versions_give_both_rows_one_label(first, second, order):
    are_labels = np.array([True, False])
    assert agreement(np.array(first), np.array(second), are_labels) == order
