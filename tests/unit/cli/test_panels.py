"""The table of commands says what modules register, and a module loads when it is asked for."""

from __future__ import annotations

import importlib
import inspect
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


def test_every_command_stands_in_its_panel_of_the_help():
    panel_of = {name: panel for panel, _, names in PANELS for name in names}
    shown = typer.main.get_group(app).commands
    assert set(shown) == set(panel_of)
    for name, command in shown.items():
        assert command.rich_help_panel == panel_of[name]
        assert command.name == name


def test_the_help_has_commands_before_groups_each_in_the_order_of_the_table():
    names = [name for _, _, names in PANELS for name in names]
    assert list(typer.main.get_group(app).commands) == [
        *(name for name in names if name not in GROUPS),
        *(name for name in names if name in GROUPS),
    ]


def test_every_module_with_commands_is_in_the_table_and_takes_the_app_alone():
    modules = [
        importlib.import_module(f"bascule.cli.{one.name}")
        for one in pkgutil.iter_modules(bascule.cli.__path__)
        if one.name != "__main__"
    ]
    registering = {module for module in modules if hasattr(module, "register")}
    assert {module.__name__ for module in registering} == {
        f"bascule.cli.{module}" for _, module, _ in PANELS
    }
    for module in registering:
        assert list(inspect.signature(module.register).parameters) == ["app"]


@pytest.mark.parametrize(("module", "names"), [row[1:] for row in PANELS])
def test_the_table_has_the_commands_and_groups_that_a_module_registers_in_their_order(
    module, names
):
    alone = typer.Typer()
    importlib.import_module(f"bascule.cli.{module}").register(alone)
    commands = [
        one.name or typer.main.get_command_name(one.callback.__name__)
        for one in alone.registered_commands
    ]
    groups = [one.name for one in alone.registered_groups]
    assert [*commands, *groups] == list(names)
    assert set(groups) == GROUPS.intersection(names)


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
    theirs = {f"bascule.cli.{module}" for _, module, _ in PANELS}
    assert theirs.intersection(loaded) == {"bascule.cli.calling"}


@pytest.mark.parametrize("arguments", [["--help"], []], ids=["help", "nothing"])
def test_the_help_is_one_screen_that_explains_the_first_day_and_names_every_command(arguments):
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments).stdout
    assert len(shown.splitlines()) <= 40
    assert max(map(len, shown.splitlines())) <= 80
    assert set(re.findall(r"[a-z-]+", shown)) >= {name for _, _, names in PANELS for name in names}
    day = shown[shown.index("In the order of a day:") : shown.index("More:")]
    assert re.findall(r"^  ([a-z-]+)", day, re.MULTILINE) == list(DAY_ONE)
    assert len(DAY_ONE) <= 12
