"""Names of modules in texts ("module:name", lazily loaded tables) look down as imports do."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

from tests.sources import tree_of

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "bascule").rglob("*.py"))
}
UPWARD = {
    ("bascule.api", "bascule.cli"),  # `bascule.serve` starts the command in a process of its own
    ("bascule.core.secrets", "bascule.security.vault"),  # what `vault:` in a setting is read with
    ("bascule.batch.asked", "bascule.api"),  # what `bascule.batch.run` opens its names with
}
_MODULE = re.compile(r"\bbascule(?:\.[a-z_]+)+")
_BESIDE_IMPORTS = re.compile(r"^(?!\s*(?:from|import)\b).*\bbascule\.[a-z]", re.MULTILINE)


def floors():
    """By room: the number of its layer, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in contracts["contracts"] if one["name"].startswith("A room looks"))
    layers = enumerate(contract["layers"])
    return {room.strip(): floor for floor, layer in layers for room in layer.split("|")}


def trees():
    """The tree of each module that names a module in another line than an import."""
    for importer, path in FILES.items():
        if _BESIDE_IMPORTS.search(path.read_text()):
            yield importer, tree_of(path)


def named():
    """Each module of another room that a text of a module names: importer, room, module."""
    for importer, tree in trees():
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


def _attribute_of(text):
    """The module and the attribute of a text `module:attribute`; None for any other text."""
    module, colon, attribute = text.partition(":")
    is_place = (
        colon and re.fullmatch(r"bascule(\.[a-z_0-9]+)+", module) and attribute.isidentifier()
    )
    return (module, attribute) if is_place else None


def _text_of(node, constants):
    """The text of a literal, or of an f-string of a module's own constants; empty for others."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(value, constants) for value in node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return constants.get(node.value.id, "{}")
    return "{}"


def _assigned(tree):
    """The constants of text at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield from ((name.id, str(node.value.value)) for name in node.targets)


@cache
def _defined(module):
    """What a module defines at its top."""
    return frozenset(_names_at_the_top(module))


def _names_at_the_top(module):
    for node in tree_of(FILES[module]).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (name.id for name in node.targets if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_every_text_that_names_an_object_names_one_that_is_there():
    """Of all tables of what is loaded when it is used: no library has to be installed for it."""
    named_objects = set()
    for _, tree in trees():
        constants = dict(_assigned(tree))
        named_objects |= {_attribute_of(_text_of(node, constants)) for node in ast.walk(tree)}
    named_objects.discard(None)
    missing = {
        (module, name)
        for module, name in named_objects
        if module not in FILES or name not in _defined(module)
    }
    assert missing == set()
    assert len(named_objects) > 100


LOADERS = {
    "bascule": "the lazy names of the package, which must import nothing",
    "bascule.bundle.originals.sklearn": "classes that a saved original names",
    "bascule.bundle.programs.host": "runs without this package; its classes are the author's",
    "bascule.bundle.programs.kinds": "asks modules of the table, not their objects",
    "bascule.cli.commands": "modules of commands",
    "bascule.console.site": "modules of pages",
    "bascule.core.names": "the one loader of `module:name`, and that of optional libraries",
    "bascule.packing.statements.cost": "a library that may not be installed",
    "bascule.training.served_river": "runs without this package; its classes are of river",
}
"""Modules that import by a text, and why they do not use `load_named`."""


def test_texts_are_loaded_in_one_way():
    importing = {module for module, path in FILES.items() if "import_module(" in path.read_text()}
    assert importing == set(LOADERS)


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
