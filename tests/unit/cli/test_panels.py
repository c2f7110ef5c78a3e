"""The table of commands says where each is, and a module loads when it is asked for."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys

import pytest
import typer
import typer.main
from typer.testing import CliRunner

import bascule.cli
from bascule.cli.commands import DAY_ONE, GROUPS, PANELS, app

EVERY_NAME = [name for _, _, names, groups in PANELS for name in (*names, *groups)]


def test_every_command_stands_in_its_panel_of_the_help():
    panel_of = {name: row[0] for row in PANELS for name in (*row[2], *row[3])}
    shown = typer.main.get_group(app).commands
    assert set(shown) == set(panel_of)
    for name, command in shown.items():
        assert command.rich_help_panel == panel_of[name]
        assert command.name == name


def test_the_help_has_commands_before_groups_each_in_the_order_of_the_table():
    assert list(typer.main.get_group(app).commands) == [
        *(name for _, _, names, _ in PANELS for name in names),
        *(name for _, _, _, groups in PANELS for name in groups),
    ]


def test_every_group_of_a_module_is_in_the_table():
    made = {
        (one.name, name.removesuffix("_group"))
        for one in pkgutil.iter_modules(bascule.cli.__path__)
        if one.name != "__main__"
        for name in vars(importlib.import_module(f"bascule.cli.{one.name}"))
        if name.endswith("_group")
    }
    assert made == {(module, name) for _, module, _, groups in PANELS for name in groups}


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_group_has_commands_of_its_own_and_a_command_has_none(name):
    command = typer.main.get_group(app).commands[name]
    assert bool(getattr(command, "commands", ())) == (name in GROUPS)


def test_a_command_loads_no_module_of_another():
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import sys, json; from bascule.cli.commands import app; import atexit;"
            "atexit.register(lambda: print(json.dumps(list(sys.modules)))); app(['snippet', '-h'])",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = json.loads(done.stdout.splitlines()[-1])
    theirs = {f"bascule.cli.{module}" for _, module, *_ in PANELS}
    assert theirs.intersection(loaded) == {"bascule.cli.calling"}


@pytest.mark.parametrize("arguments", [["--help"], []], ids=["help", "nothing"])
def test_the_help_is_one_screen_that_explains_the_first_day_and_names_every_command(arguments):
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments).stdout
    assert len(shown.splitlines()) <= 40
    assert max(map(len, shown.splitlines())) <= 80
    assert set(re.findall(r"[a-z-]+", shown)) >= set(EVERY_NAME)
    day = shown[shown.index("In the order of a day:") : shown.index("More:")]
    assert re.findall(r"^  ([a-z-]+)", day, re.MULTILINE) == list(DAY_ONE)
    assert len(DAY_ONE) <= 12
