"""Names of modules in texts ("module:name", lazily loaded tables) look down as imports do."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "bascule").rglob("*.py"))
}
UPWARD = {
    ("bascule.api", "bascule.cli"),  # `bascule.serve` starts the command in a process of its own
    ("bascule.batch.asked", "bascule.api"),  # what `bascule.batch.run` opens its names with
}
_MODULE = re.compile(r"\bbascule(?:\.[a-z_]+)+")


def floors():
    """By room: the number of its layer, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in contracts["contracts"] if one["name"].startswith("A room looks"))
    layers = enumerate(contract["layers"])
    return {room.strip(): floor for floor, layer in layers for room in layer.split("|")}


def named():
    """Each module of another room that a text of a module names: importer, room, module."""
    for importer, path in FILES.items():
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or id(node) in docs:
                continue
            for name in _MODULE.findall(node.value) if isinstance(node.value, str) else ():
                parts = name.split(".")
                while parts and ".".join(parts) not in FILES:
                    parts.pop()
                if len(parts) > 1 and importer != "bascule" and parts[1] != importer.split(".")[1]:
                    yield importer, parts[1], ".".join(parts)


def test_a_module_that_is_named_in_a_text_is_in_a_room_below():
    floor = floors()
    found = list(named())
    up = {
        (importer, module)
        for importer, room, module in found
        if floor[importer.split(".")[1]] >= floor[room]
    }
    assert up == UPWARD
    assert {"bascule.catalogue.sqlite", "bascule.registry.stores.files"} <= {
        module for _, _, module in found
    }
