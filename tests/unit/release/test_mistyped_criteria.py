"""A mistyped criterion is answered with what was probably meant."""

import pytest

from bascule.core import Invalid
from bascule.release import Criterion


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("roc_auc", "'roc_auc' is not a criterion: it has no limit", "quote it: -c 'roc_auc >= 1'"),
        ("rmse", "it has no limit", "'rmse <= 1'; a shell takes < outside of quotes for a file"),
        ("latency_p99[8]", "has no limit", "-c 'latency_p99[8] <= 1 ms'"),
        ("hello", "'hello' is not a criterion", "write it like 'roc_auc >= 0.8'"),
        ("accuracy >= champion", "with 'champion' needs a margin", "accuracy >= champion - 0.01"),
        ("rmse <= gb@champion", "with 'gb@champion' needs", "rmse <= gb@champion + 0.01"),
        ("latency_p50 <= champion", "the limit 'champion' is not a number", "write it like"),
    ],
)
def test_a_mistake_is_explained_with_the_next_step(text, said, hint):
    with pytest.raises(Invalid) as refused:
        Criterion.parse(text)
    assert said in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize("name", ["acuracy", "ROC", "latency", "root_mean_square"])
def test_a_metric_that_does_not_exist_is_answered_with_three_at_most(name):
    with pytest.raises(Invalid, match=f"there is no metric '{name}'") as refused:
        Criterion.parse(f"{name} >= 0.5")
    assert refused.value.hint.startswith("the nearest are ")
    assert refused.value.hint.count(",") <= 2


def test_the_beginning_of_a_metric_is_taken_for_it():
    with pytest.raises(Invalid, match="did you mean 'accuracy'"):
        Criterion.parse("acc >= 0.5")


def test_a_metric_that_is_like_none_is_answered_with_usual_ones():
    with pytest.raises(Invalid) as refused:
        Criterion.parse("zzzz >= 0.5")
    assert refused.value.hint.startswith("usual ones are accuracy, roc_auc, rmse; ")
