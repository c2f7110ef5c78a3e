from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import get_scorer_names

from bascule.core.errors import Invalid
from bascule.metrics import SCORERS, SHORT_NAMES
from bascule.metrics.table import OF_ORDERS, OWN
from bascule.release.criteria import (
    DATA,
    LATENCIES,
    METRICS,
    PRIVACIES,
    ROBUST,
    SIZES,
    TEXTS,
    Criterion,
)


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("roc_auc >= 0.80", Criterion("roc_auc", ">=", 0.8)),
        ("  r2>-.5 ", Criterion("r2", ">", -0.5)),
        ("parity <= 1e-5", Criterion("parity", "<=", 1e-5)),
        ("latency_p99 <= 5 ms", Criterion("latency_p99", "<=", 5, batch=1)),
        ("latency_p50[100]<2ms", Criterion("latency_p50", "<", 2, batch=100)),
        ("latency_p99 <= 0.0003 s", Criterion("latency_p99", "<=", 0.3, batch=1)),
        ("latency_p99 <= 250 us", Criterion("latency_p99", "<=", 0.25, batch=1)),
        ("peak_memory <= 1.5 GB", Criterion("peak_memory", "<=", 1500)),
        ("size <= 20 MB", Criterion("size", "<=", 20)),
        ("size <= 20 KB", Criterion("size", "<=", 0.02)),
    ],
)
def test_a_criterion_is_read_into_milliseconds_and_megabytes(text, criterion):
    assert Criterion.parse(text) == criterion


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a criterion"),
        ("roc_auc >= 0.8 0.9", "is not a criterion"),
        ("rocauc >= 0.8", "there is no metric 'rocauc'; did you mean 'roc_auc'?"),
        ("roc_auc == 1", "compares with '==', which is not one of >=, <=, >, <"),
        ("roc_auc != 1", "compares with '!='"),
        ("roc_auc >= ", "the limit '' is not a number"),
        ("roc_auc >= nan", "the limit 'nan' is not a number"),
        ("roc_auc <= inf", "the limit 'inf' is not a number"),
        ("size <= 1e999 MB", "too large for a number"),
        ("roc_auc >= 80%", "roc_auc has no unit, and '%' is given"),
        ("parity <= 5 ms", "parity has no unit, and 'ms' is given"),
        ("latency_p99 <= 5", "latency_p99 needs a unit of us, ms, s, and there is none"),
        ("latency_p99 <= 5 MB", "latency_p99 needs a unit of us, ms, s, and 'MB' is none of"),
        ("size <= 5 mb", "size needs a unit of KB, MB, GB, and 'mb' is none of them"),
        ("size[3] <= 5 MB", "size has nothing in brackets"),
        ("latency_p99[0] <= 5 ms", "the batch size '0' is not a whole number from 1 to 65536"),
        ("latency_p99[65537] <= 5 ms", "the batch size '65537' is not a whole number"),
        ("latency_p99[many] <= 5 ms", "the batch size 'many' is not a whole number"),
        ("latency_p99[] <= 5 ms", "the batch size '' is not a whole number"),
        ("roc_auc <= champion + 0.01", "roc_auc is better when larger"),
        ("roc_auc >= champion + 0.01", "roc_auc is better when larger"),
        ("roc_auc > champion - 0.01", "roc_auc is better when larger"),
        ("roc_auc >= champion - 0", "margin '0' is not a number over 0"),
        ("roc_auc >= champion - -1", "margin '-1' is not a number over 0"),
        ("roc_auc >= champion - nan", "margin 'nan' is not a number over 0"),
        ("roc_auc >= champion - 1e999", "margin '1e999' is not a number over 0"),
        ("roc_auc >= champion - 1%", "margin '1%' is not a number over 0"),
        ("size <= champion + 1", "size is not compared with another version"),
        ("roc_auk >= champion - 0.01", "did you mean 'roc_auc'"),
    ],
)
def test_what_is_wrong_with_a_criterion_is_named(text, complaint):
    with pytest.raises(Invalid) as caught:
        Criterion.parse(text)
    assert complaint in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("batch", [1, 65_536])
def test_the_smallest_and_the_largest_batch_can_be_asked_for(batch):
    assert Criterion.parse(f"latency_p99[{batch}] <= 5 ms").batch == batch


@given(
    metric=st.sampled_from(
        sorted(METRICS - {"stability", "conformal_coverage", *ROBUST})
    ),  # their brackets hold more than a name
    operator=st.sampled_from([">=", "<=", ">", "<"]),
    limit=st.integers(-999_999, 999_999).map(lambda thousandths: thousandths / 1000),
    batch=st.integers(1, 65_536),
)
def test_a_criterion_is_written_as_it_is_read(metric, operator, limit, batch):
    named = {"judge_score": "fair", "lm_eval": "evals/sums/acc", "toxicity": "words.txt"}
    criterion = Criterion(
        metric, operator, limit, batch if metric in LATENCIES else None, named.get(metric)
    )

    assert Criterion.parse(str(criterion)) == criterion


@given(st.text(max_size=40))
def test_any_other_text_is_refused_and_never_breaks_the_reader(text):
    with suppress(Invalid):
        Criterion.parse(text)


def test_the_metrics_of_the_same_batch_are_measured_together_and_of_others_apart():
    assert Criterion.parse("latency_p99 <= 5 ms").measure == "latency_p99[1]"
    assert Criterion.parse("latency_p99[7] <= 5 ms").measure == "latency_p99[7]"
    assert Criterion.parse("roc_auc >= 0.8").measure == "roc_auc"


def test_every_scorer_of_scikit_learn_that_fits_one_answer_a_row_is_a_metric():
    offered = {name for name in get_scorer_names() if not name.endswith("_samples")}

    assert offered == SCORERS
    assert {scorer for scorer, _ in SHORT_NAMES.values()} <= SCORERS
    own = (
        OWN | OF_ORDERS.keys() | {*LATENCIES, *SIZES, *DATA, *ROBUST, *PRIVACIES, "parity", *TEXTS}
    )
    assert set(METRICS) == SCORERS | set(SHORT_NAMES) | own
