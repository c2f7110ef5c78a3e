"""Names in the docstrings of the source lead to what they name."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import bascule
from bascule.settings import Settings

SRC = Path(__file__).parents[2] / "src"
_DOTTED = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)`(?!`)")
_FILES = {"binpb", "dvc", "ll", "lock", "md", "proto", "toml", "txt"}
_OF_OTHERS = {
    *sys.stdlib_module_names, "aten", "grpc", "mlflow", "models", "nn", "numpy", "org",
    "realm_access", "sklearn", "torch",
}  # fmt: skip
"""First parts of names that are not of this project."""
_PLACEHOLDERS = {"FIELD", "NAME"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Every text that stands alone: of modules, classes and functions, and below values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield text


def names_in(body: list[ast.stmt]) -> Iterator[str]:
    """What a module or a class defines, with the members of its classes."""
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                yield name
                for member in names_in(node.body):
                    yield f"{name}.{member}"
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        yield f"{name}.{inner.attr}"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from (one.id for one in ast.walk(target) if isinstance(one, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom(names=aliases):  # of a front door
                yield from (alias.asname or alias.name for alias in aliases)


def settings_in(kind: type, place: str = "") -> Iterator[str]:
    """The names of all settings with their sections."""
    for field in fields(kind):
        yield f"{place}{field.name}"
        made = getattr(kind(), field.name, None)
        if is_dataclass(made):
            yield from settings_in(type(made), f"{place}{field.name}.")


@cache
def known() -> frozenset[str]:
    """Every name that there is, and each end of it: of `a.b.c` also `b.c`."""
    full = set(settings_in(Settings)) | {f"bascule.{name}" for name in bascule.__all__}
    for path in [*SRC.rglob("*.py"), *SRC.rglob("*.pyi")]:
        module = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        full.add(module)
        full |= {f"{module}.{name}" for name in names_in(tree_of(path).body)}
    ends = set()
    for name in full:
        parts = name.split(".")
        ends |= {".".join(parts[start:]) for start in range(len(parts))}
    return frozenset(ends)


def resolves(name: str) -> bool:
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    is_other = first in _OF_OTHERS or last in _FILES or last in _PLACEHOLDERS
    return is_other or name in known()


def test_every_dotted_name_in_a_docstring_is_the_name_of_something():
    """Found by its end, as people write it; a name that moved is to be mended."""
    lost = [
        f"{path.relative_to(SRC)}: `{name}`"
        for path in sorted(SRC.rglob("*.py"))
        for text in docstrings(tree_of(path))
        for name in _DOTTED.findall(text)
        if not resolves(name)
    ]
    assert not lost, "\n".join(lost)


def test_a_name_resolves_by_its_end_and_not_by_a_part_of_it():
    assert resolves("bundle.packing.pack")
    assert resolves("serving.worker_silent_s")
    assert resolves("asyncio.run")
    for moved in ("bundle.pack.packing", "serving.silent_s", "acking.pack", "bascule.nothing"):
        assert not resolves(moved)
