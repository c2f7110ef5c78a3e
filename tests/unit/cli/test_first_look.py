"""What a new user sees: help, tables in a pipe, progress, `show`, `card --json`, `doctor`."""

import ast
import importlib.metadata
import json
import re
from pathlib import Path

import pytest
import typer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import bascule
from bascule.cli import screen
from bascule.cli.commands import app
from bascule.cli.doctor import extras


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    X, y = load_iris(return_X_y=True, as_frame=True)
    return bascule.pack(
        LogisticRegression(max_iter=500).fit(X, y), name="iris", train=(X, y), test=(X, y),
        to=tmp_path_factory.mktemp("packed") / "iris", measure=False,
    )  # fmt: skip


# -- help --


def texts(command, path=()):
    """Every help text of a command and its subcommands."""
    yield " ".join(path), command.help or ""
    for param in command.params:
        yield f"{' '.join(path)} {param.name}", getattr(param, "help", None) or ""
    for name, inner in getattr(command, "commands", {}).items():
        yield from texts(inner, (*path, name))


def test_no_help_text_holds_brackets_that_the_terminal_takes_for_markup():
    """`[gates] criteria` was shown as ` criteria`."""
    for where, text in texts(typer.main.get_command(app)):
        assert not re.search(r"\[[a-z_ ]+\]", text), where


# -- tables --


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("200", 200), ("", 160), ("x", 160)])
def test_a_table_in_a_pipe_has_the_width_of_columns_or_160(monkeypatch, capsys, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    screen.print_table(("name", "words"), [("a", "word " * 60)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == width


# -- progress --


def test_what_takes_long_is_named_before_it_is_done(capsys):
    with screen.stages(quiet=False) as tell:
        tell("compiled [to] ONNX")
        tell.step("timing the programs", 0, 6)
        tell.step("timing the programs", 1, 6)
        tell("sealed")
    assert capsys.readouterr().err.splitlines() == [
        "compiled [to] ONNX", "timing the programs", "sealed",
    ]  # fmt: skip


def test_packing_says_that_it_measures_while_it_does(iris, tmp_path):
    said = []

    class Progress:
        def __call__(self, line):
            said.append(line)

        def step(self, what, done, of):
            said.append((what, done, of))

    X, y = load_iris(return_X_y=True, as_frame=True)
    bascule.pack(
        LogisticRegression(max_iter=500).fit(X, y), name="iris", train=X, to=tmp_path / "iris",
        progress=Progress(),
    )  # fmt: skip
    timing = [one for one in said if one[0] == "timing the programs by batch size"]
    assert [one[1:] for one in timing] == [(place, 6) for place in range(6)]
    assert ("measuring memory", 0, 1) in said
    assert said[-1].startswith("sealed as")


# -- show and card --


def test_show_takes_about_ten_lines_and_full_shows_the_rest(run, iris):
    run("push", iris.path)
    run("check", "iris/1", "-c", "accuracy >= 0.9")
    run("card", "iris/1")
    out = run("show", "iris/1")[1]
    lines = out.splitlines()
    assert len(lines) <= 12
    assert lines[0].startswith("iris/1  sha256:")
    assert any(line.startswith("inputs     sepal length (cm), ") for line in lines)
    assert any(re.fullmatch(r"gates      passed: accuracy >= 0.9 \(0.9\d*\)", x) for x in lines)
    full = run("show", "iris/1", "--full")[1]
    assert len(full.splitlines()) > 30
    assert "baseline of 150 training rows" in full


def test_a_failed_gate_is_shown_with_its_reason(run, iris):
    run("push", iris.path)
    run("check", "iris/1", "-c", "accuracy > 1", "-c", "size <= 1 GB")
    out = run("show", "iris/1")[1]
    assert "gates      failed: accuracy > 1 (" in out
    assert "size" not in out.partition("gates")[2].splitlines()[0]


def test_the_card_is_a_document_for_programs(run, iris, tmp_path):
    code, out, _ = run("card", iris.path, "--json", "-o", tmp_path / "card.html")
    assert code == 0
    card = json.loads(out)
    assert card["digest"] == iris.digest
    assert "Quality" in [one["title"] for one in card["sections"]]
    assert card["overview"]["training rows"] == "150"
    assert (tmp_path / "card.html").exists()


# -- doctor --


def test_the_doctor_looks_at_every_extra_of_the_distribution(run):
    named = importlib.metadata.metadata("bascule").get_all("Provides-Extra")
    assert set(extras()) == set(named)
    found = {one["what"] for one in json.loads(run("doctor", "--json")[1])}
    assert {f"extra {name}" for name in named} <= found


def test_an_unknown_name_of_the_package_is_an_error_to_type_checkers():
    """A `__getattr__` of the module that a type checker sees gives it every name."""
    tree = ast.parse(Path(bascule.__file__).read_text())
    seen = [one.name for one in tree.body if isinstance(one, ast.FunctionDef)]
    assert "__getattr__" not in seen
    with pytest.raises(AttributeError, match="packk"):
        bascule.packk  # noqa: B018
