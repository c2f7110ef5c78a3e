"""Every command stands in a panel of the help, and modules register theirs in one way."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import bascule.cli
from bascule.cli.commands import PANELS, app


def test_every_command_stands_in_a_panel_of_the_help():
    panels = list(dict(PANELS))
    shown = [*app.registered_commands, *app.registered_groups]
    assert shown
    assert all(one.rich_help_panel in panels for one in shown)
    for panel in panels:
        assert any(one.rich_help_panel == panel for one in shown), panel


def test_every_module_with_commands_is_in_the_table_and_takes_the_app_alone():
    modules = [
        importlib.import_module(f"bascule.cli.{one.name}")
        for one in pkgutil.iter_modules(bascule.cli.__path__)
        if one.name != "__main__"
    ]
    registering = {module for module in modules if hasattr(module, "register")}
    assert registering == {module for _, module in PANELS}
    for module in registering:
        assert list(inspect.signature(module.register).parameters) == ["app"]
