"""Every room is entered through its front door: the names in its `__init__.pyi`."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sources import tree_of

SOURCE = Path(__file__).parents[2] / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "bascule").rglob("*.py"))
}
ROOMS = {name for name, path in FILES.items() if path.with_suffix(".pyi").exists()}


def entered():
    """Each import of a room's module from outside of the room: importer, module, line."""
    for importer, path in FILES.items():
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                module = module if module in FILES else node.module
                room = module.rpartition(".")[0]
                if room in ROOMS and module not in ROOMS and not f"{importer}.".startswith(room):
                    yield importer, module, node.lineno, node.module == room


def test_no_module_is_imported_past_the_front_door_of_its_room():
    deep = [
        (importer, module, line) for importer, module, line, by_door in entered() if not by_door
    ]
    assert deep == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_front_door_gives_every_name_that_it_declares(room):
    door = importlib.import_module(room)
    declared = ast.parse(FILES[room].with_suffix(".pyi").read_text())
    names = [
        alias.name
        for node in ast.walk(declared)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(names) == sorted(door.__all__)
    assert all(getattr(door, name) is not None for name in names)


def test_front_doors_load_nothing_behind_them_until_a_name_is_used():
    code = (
        "import bascule, sys; before = set(sys.modules)\n"
        "for room in sys.argv[1:]: __import__(room)\n"
        "print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", code, *ROOMS]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    loaded = {name for name in ended.stdout.split() if name.startswith("bascule.")}
    assert loaded <= ROOMS
