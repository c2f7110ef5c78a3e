"""Stumbles of a first hour: a forgotten quote, an empty cell, long sentences, empty lists."""

import io
import subprocess
import sys
from datetime import timedelta

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from tests.tiers import first_of

import bascule
from bascule.batch.table_files import read_rows, read_stream
from bascule.cli import screen
from bascule.core import Invalid, length_of

# -- an unquoted criterion --


@pytest.mark.parametrize(
    ("typed", "file"),
    first_of([("-c roc_auc>=0.5", "=0.5"), ("-c roc_auc >= 0.5", "="), ("-c roc_auc>0.5", "0.5")]),
)
def test_an_unquoted_criterion_is_told_which_file_the_shell_made(tmp_path, typed, file):
    done = subprocess.run(
        f"{sys.executable} -m bascule.cli check no.bundle {typed}",
        shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip

    assert (tmp_path / file).exists()
    assert f"a file called '{file}'" in done.stderr
    assert "quote the criterion" in done.stderr
    assert done.returncode in (2, 3)


def test_output_that_is_sent_to_a_file_on_purpose_is_not_warned_of(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m bascule.cli check no.bundle -c 'roc_auc >= 0.5' > report.txt",
        shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip

    assert "went into a file" not in done.stderr


# -- CSV --

ROWS = "age,region\n31,north\n44,\n,south\n"


def test_an_empty_cell_of_a_csv_is_missing_as_in_pandas(tmp_path):
    """It was the text '', which no baseline has: `drift --current` raised a false alarm."""
    file = tmp_path / "rows.csv"
    file.write_text(ROWS)

    table = read_rows(file, "--current")

    assert table["region"].to_pylist() == ["north", None, "south"]
    assert pd.read_csv(file)["region"].isna().tolist() == table["region"].is_null().to_pylist()


def test_an_empty_cell_of_standard_input_is_missing_too():
    table = read_stream(io.BytesIO(ROWS.encode()))

    assert table["region"].to_pylist() == ["north", None, "south"]
    assert table["age"].to_pylist() == [31, 44, None]


# -- a terminal --


class Terminal(io.StringIO):
    def isatty(self):
        return True


SENTENCE = "Income: 69% wider than the baseline; 5 % to 95 %: 1.976e+04 to 6.014e+04"


@pytest.mark.parametrize(("width", "lines"), [(len(SENTENCE), 1), (len(SENTENCE) - 1, 2)])
def test_a_terminal_breaks_long_sentences_between_words(monkeypatch, width, lines):
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))

    screen.say_sentences(SENTENCE)

    said = shown.getvalue().splitlines()
    assert len(said) == lines
    assert " ".join(said) == SENTENCE


def test_a_pipe_gets_each_sentence_on_one_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    screen.say_sentences(SENTENCE)
    assert capsys.readouterr().out == SENTENCE + "\n"


# -- nothing yet --


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("endpoints", "show"), "no endpoint has a plan; bascule deploy MODEL/VERSION makes one"),
        (("rollout", "status"), "no rollouts; bascule deploy MODEL/VERSION --strategy canary"),
        (("ledger", "status"), "no answers yet: bascule serve records them"),
        (("ledger", "query", "SELECT id FROM predictions"), "no rows; bascule ledger status"),
    ],
)
def test_an_empty_list_says_what_fills_it(tmp_path, monkeypatch, command, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BASCULE_MONITORING__LEDGER", "on")

    code, shown, _ = command(*words)

    assert (code, said in shown) == (0, True), shown


def test_missing_truths_among_texts_are_refused_before_they_are_stored(tmp_path):
    """pyarrow raised a `TypeError` of its own."""
    X = pd.DataFrame({"age": range(20)})
    y = pd.Series(["no", "yes"] * 10, dtype=object)
    model = LogisticRegression().fit(X, y)

    with pytest.raises(Invalid, match="test: 10 of 20 values of y are missing"):
        bascule.pack(
            model, name="a", train=X, test=(X, y.where(y == "yes", float("nan"))), to=tmp_path / "a"
        )


# -- lengths of time --


@pytest.mark.parametrize(
    ("given", "days"), [("7d", 7), ("24h", 1), ("0", 0), (timedelta(hours=12), 0.5)]
)
def test_a_length_of_time_is_a_text_or_a_timedelta(given, days):
    assert length_of(given, "since") == timedelta(days=days)


@pytest.mark.parametrize("given", ["7", "yesterday", 7, None])
def test_a_length_of_time_without_its_unit_is_refused(given):
    """`--since 7` was seven seconds."""
    with pytest.raises(Invalid, match=r"since:? .* is not a length of time") as refused:
        length_of(given, "since")
    assert "7d" in refused.value.hint


def test_alerts_from_python_are_those_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path))
    assert bascule.alerts() == []


def test_the_ledger_is_shown_by_its_home(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path))
    monkeypatch.setenv("BASCULE_MONITORING__LEDGER", "on")
    assert repr(bascule.open_ledger()) == f"Ledger({str(tmp_path)!r})"
