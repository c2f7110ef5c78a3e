import json

import numpy as np
import pytest

from bascule.demo.answers import check
from bascule.demo.client import LoadResult, Reply

OWN = {"label": np.array([0, 1]), "probabilities": np.array([[0.75, 0.25], [0.5, 0.5]])}


def reply(label, probabilities, status=200):
    outputs = [
        {"name": "label", "data": [label]},
        {"name": "probabilities", "data": probabilities},
    ]
    return Reply(status, json.dumps({"outputs": outputs}).encode(), 0.001)


RIGHT = [reply(0, [0.75, 0.25]), reply(1, [0.5, 0.5])]


def test_the_models_own_answers_are_right():
    found = check(RIGHT, OWN, tolerance=0.0)

    assert (found.answered, found.wrong, found.max_difference) == (2, 0, 0.0)
    assert found.probabilities.tolist() == [0.25, 0.5]


def test_answers_that_were_handed_to_each_others_callers_are_all_wrong():
    assert check(RIGHT[::-1], OWN, tolerance=1e-5).wrong == 2


@pytest.mark.parametrize(("off", "wrong"), [(0.9e-5, 0), (1.1e-5, 1)])
def test_a_probability_may_be_off_by_the_tolerance_and_no_more(off, wrong):
    replies = [RIGHT[0], reply(1, [0.5, 0.5 + off])]

    assert check(replies, OWN, tolerance=1e-5).wrong == wrong


def test_without_a_tolerance_the_last_bit_counts():
    replies = [RIGHT[0], reply(1, [0.5, float(np.nextafter(0.5, 1))])]

    assert check(replies, OWN, tolerance=0.0).wrong == 1


@pytest.mark.parametrize(
    "odd",
    [reply(1, [0.5, float("nan")]), reply(1, [0.5, None]), reply(1, [0.5]), Reply(200, b"", 0)],
)
def test_an_answer_that_cannot_be_read_is_wrong(odd):
    found = check([RIGHT[0], odd], OWN, tolerance=1.0)

    assert (found.answered, found.wrong) == (2, 1)


def test_a_right_probability_under_the_wrong_label_is_wrong():
    assert check([RIGHT[0], reply(0, [0.5, 0.5])], OWN, tolerance=1.0).wrong == 1


@pytest.mark.parametrize("lost", [None, Reply(503, b'{"error":"full"}', 0.1)])
def test_what_was_not_answered_is_an_error_and_not_a_wrong_answer(lost):
    replies = [RIGHT[0], lost]
    found = check(replies, OWN, tolerance=0.0)

    assert (found.answered, found.wrong) == (1, 0)
    assert np.isnan(found.probabilities[1])
    assert LoadResult(replies, 1.0, 0.0).errors == 1
