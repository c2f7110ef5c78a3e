"""What people hand to `pack` and `predict` in their first hour, rightly and by mistake."""

import io
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import bascule
from bascule.core import BasculeWarning, Invalid
from bascule.documents import progress

TABLE = pd.DataFrame({"age": range(20), "income": np.arange(20) * 1.5})
TRUTH = np.array([0, 1] * 10)


@pytest.fixture(scope="module")
def model():
    return LogisticRegression().fit(TABLE, TRUTH)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("packed") / "b"
    return bascule.pack(model, name="b", train=TABLE, to=place, measure=False)


# -- predict --


def test_a_list_of_dicts_is_rows(bundle):
    expected = bundle.predict(TABLE[:3])
    answer = bundle.predict(TABLE[:3].to_dict("records"))
    assert np.array_equal(answer["probabilities"], expected["probabilities"])


def test_a_dict_of_values_is_one_row(bundle):
    answer = bundle.predict({"age": 3, "income": 4.5})
    assert np.array_equal(answer["probabilities"], bundle.predict(TABLE[3:4])["probabilities"])


def test_a_row_without_a_key_has_a_missing_value(bundle):
    with pytest.raises(Invalid, match="column 'income' has 1 missing values, the first in row 1"):
        bundle.predict([{"age": 3, "income": 1.0}, {"age": 3}])


def test_rows_that_are_dicts_and_others_are_refused(bundle):
    with pytest.raises(Invalid, match="row 1 is a int, and row 0 is a dict"):
        bundle.predict([{"age": 3, "income": 1.0}, 5])


@pytest.mark.parametrize("name", ["Age", "AGE", "age ", "aged"])
def test_a_misspelt_column_is_named_with_the_one_that_is_meant(bundle, name):
    with pytest.raises(Invalid, match="column 'age' is missing") as refused:
        bundle.predict(TABLE.rename(columns={"age": name}))
    assert refused.value.hint == f"the table has {name!r}; rename it to 'age'"


def test_a_column_that_is_like_none_is_no_suggestion(bundle):
    with pytest.raises(Invalid) as refused:
        bundle.predict(TABLE.rename(columns={"age": "shoe_size"}))
    assert refused.value.hint == "the model takes 'age', 'income'"


@pytest.mark.parametrize("form", ["pandas", "dict", "records"])
def test_columns_that_the_model_does_not_take_are_warned_of(bundle, form):
    table = TABLE.assign(id=1, town="x")
    data = {
        "pandas": table,
        "dict": table.to_dict("list"),
        "records": table.to_dict("records"),
    }[form]
    with pytest.warns(BasculeWarning, match="does not take 'id', 'town', which are left out"):
        answer = bundle.predict(data)
    assert len(answer["label"]) == 20


def test_columns_that_the_model_takes_are_not_warned_of(bundle):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle.predict(TABLE)
        bundle.predict(TABLE.to_numpy())


# -- pack --


def pack(tmp_path, model, **options):
    options = {"train": TABLE, "measure": False, **options}
    return bascule.pack(model, name="b", to=tmp_path / "b", **options)


TWICE = pd.DataFrame([[1, 2]] * 20, columns=["age", "age"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": TWICE}, "train has two columns called 'age'"),
        ({"test": (TWICE, TRUTH)}, "test has two columns called 'age'"),
        ({"tolerance": "1e-3"}, "tolerance '1e-3' is not a number above 0"),
        ({"tolerance": True}, "tolerance True is not a number above 0"),
        ({"parameters": ["depth"]}, "parameters is not a dict"),
        ({"test": [TABLE, TRUTH]}, "test is a list of two"),
        ({"test": (TABLE, TRUTH.astype(str))}, "test: y holds '0', '1', and the classes .* 0, 1"),
        ({"train": (TABLE, TRUTH + 5)}, "train: y holds 5, 6, and the classes .* 0, 1"),
        ({"test": (TABLE, [np.nan, *TRUTH[1:]])}, "test: 1 of 20 values of y are missing"),
        ({"test": (TABLE, np.array([None, *TRUTH[1:]], object))}, "the first in row 0"),
        ({"calibration": (TABLE, TRUTH.astype(str))}, "calibration: y holds '0', '1'"),
    ],
)
def test_a_mistake_is_refused_in_our_words_and_leaves_nothing(tmp_path, model, options, said):
    with pytest.raises(Invalid, match=said) as refused:
        pack(tmp_path, model, **options)
    assert refused.value.hint
    assert not list(tmp_path.iterdir())


def test_a_class_in_place_of_its_instance_is_refused(tmp_path):
    with pytest.raises(Invalid, match="LogisticRegression is a class, not a model") as refused:
        pack(tmp_path, LogisticRegression)
    assert "LogisticRegression(...).fit(X, y)" in refused.value.hint


def test_a_regressor_takes_no_truth_that_is_missing(tmp_path):
    model = LinearRegression().fit(TABLE, TRUTH)
    with pytest.raises(Invalid, match="test: 2 of 20 values of y are missing, the first in row 3"):
        pack(tmp_path, model, test=(TABLE, [0, 0, 0, np.nan, np.nan, *range(15)]))


def test_some_labels_that_the_model_does_not_know_are_packed(tmp_path, model):
    """A new class in production is a finding for the gates, and not a mistake."""
    truth = TRUTH.copy()
    truth[0] = 7
    assert pack(tmp_path, model, test=(TABLE, truth)).test_data()[1][0] == 7


def test_held_out_rows_without_their_truth_are_warned_of(tmp_path, model):
    with pytest.warns(BasculeWarning, match="test has no truth: .* pass test="):
        pack(tmp_path, model, test=TABLE)


def test_one_training_row_is_warned_of_and_two_are_not(tmp_path, model):
    with pytest.warns(BasculeWarning, match="train has one row"):
        pack(tmp_path, model, train=TABLE[:1])
    pack(tmp_path, model, train=TABLE[:2], overwrite=True)


# -- what errors and warnings look like --


def test_a_traceback_shows_the_next_step():
    assert Invalid("it is wrong", hint="mend it").__notes__ == ["hint: mend it"]
    assert not hasattr(Invalid("it is wrong"), "__notes__")


def test_a_bundle_with_rows_that_were_accepted_before_is_rebuilt(tmp_path, model, monkeypatch):
    """Version 0.1 packed a truth with missing values."""
    monkeypatch.setattr("bascule.packing.packing.check_rows", lambda *_: None)
    bundle = pack(tmp_path, model, train=(TABLE, TRUTH), test=(TABLE, [np.nan, *TRUTH[1:]]))
    monkeypatch.undo()
    assert bascule.rebuild(bundle.path, train=(TABLE, TRUTH)).same


@pytest.mark.parametrize("name", [None, 7])
def test_a_name_that_is_not_text_is_refused_before_anything_is_read(model, name):
    with pytest.raises(Invalid, match=f"model name: {name} is not text"):
        bascule.pack(model, name=name, train=TABLE)


# -- progress --


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pack_that_takes_long_shows_one_line_on_a_terminal_and_clears_it(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    screen = Terminal()
    with progress.progress_line("pack", screen) as tell:
        tell._timer.join()
        tell("compiled")
        tell.step("measuring", 2, 3)
    lines = screen.getvalue().split("\r\x1b[K")
    assert lines == ["", lines[1], "pack: compiled", "pack: measuring (2 of 3)", ""]


def test_a_notebook_shows_one_line_and_keeps_how_long_the_work_took(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    stream_type = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stdout", screen := stream_type())
    with progress.progress_line("report") as tell:
        tell._timer.join()
        tell("counts")
    lines = [line for line in screen.getvalue().split("\r") if line.strip()]
    assert lines == ["report: starts", "report: counts", "report took 0 s\n"]


@pytest.mark.parametrize(("screen", "quiet_s"), [(Terminal(), 60.0), (io.StringIO(), 0.0)])
def test_a_short_pack_and_a_pipe_show_nothing(screen, quiet_s, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_S", quiet_s)
    with progress.progress_line("pack", screen) as tell:
        tell("compiled")
    assert screen.getvalue() == ""
