"""Names in the docstrings of the source lead to what they name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

from tests.sources import tree_of

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
def read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of a file: every text that stands alone, also below values; and the names it defines."""
    tree = tree_of(path)
    texts = (
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
    return tuple(texts), tuple(names_in(tree.body))


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
        full |= {f"{module}.{name}" for name in read(path)[1]}
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
        for text in read(path)[0]
        for name in _DOTTED.findall(text)
        if not resolves(name)
    ]
    assert not lost, "\n".join(lost)


_INTEGRATIONS = ("bascule_airflow", "bascule_dagster", "bascule_prefect")
_OF_PAGES = re.compile(
    r"(?<![\w./@-])(bascule(?:_client)?(?:\.[A-Za-z_]\w*)+)(?![\w/]|\.\w)|"
    r"^from (bascule[\w.]*) import (\w+(?:, \w+)*)$", re.MULTILINE,
)  # fmt: skip
_NO_PYTHON = re.compile(r"bascule\.(v1\.|digest$|service$|sock$|dist-info$)")
FRESH = """
import sys
from importlib import import_module
import bascule, bascule_client

def value_of(name):
    module, _, last = name.partition(":")
    if last:  # it is imported so
        return getattr(import_module(module), last)
    first, *parts = name.split(".")
    try:
        value = sys.modules[first]
        for part in parts:
            value = getattr(value, part)
    except AttributeError:
        import_module(name)  # the name of a module alone may be told too

for name in sys.stdin.read().split():
    for module in [*sys.modules]:  # as if no name before had imported anything
        parent, _, child = module.rpartition(".")
        if parent.startswith("bascule"):
            vars(sys.modules[parent]).pop(child, None)
    try:
        value_of(name)
    except (ImportError, AttributeError) as problem:
        print(f"{name}: {problem}")
"""


def names_in_pages() -> set[str]:
    """The names that README, docs, examples and public docstrings tell; `MODULE:NAME` imported."""
    root = SRC.parent
    pages = [root / "README.md"]
    for folder in ("docs", "examples", "integrations", "packages"):
        pages += (root / folder).rglob("*.md")
    texts = [page.read_text() for page in pages]
    texts += (text for path in SRC.rglob("*.py") for text in read(path)[0])
    found = set()
    for text in texts:
        for name, module, imported in _OF_PAGES.findall(text):
            found |= {name} if name else {f"{module}:{one}" for one in imported.split(", ")}
    files = _FILES | {"sh", "yaml", "yml", "json", "html"}
    ours = {one for one in found if not one.startswith(_INTEGRATIONS)}
    return {
        one for one in ours if one.rpartition(".")[2] not in files and not _NO_PYTHON.match(one)
    }


def test_every_name_of_the_docs_is_there_in_a_fresh_process():
    """`import bascule; bascule.batch.run` needs no other import before it."""
    names = names_in_pages()
    assert {"bascule.batch.run", "bascule.pack", "bascule.core.errors"} <= names
    done = subprocess.run(
        [sys.executable, "-c", FRESH], input="\n".join(sorted(names)), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert not done.stdout, done.stdout


def test_a_name_resolves_by_its_end_and_not_by_a_part_of_it():
    assert resolves("packing.packing.pack")
    assert resolves("serving.worker_silent_s")
    assert resolves("asyncio.run")
    for moved in ("bundle.pack.packing", "serving.silent_s", "acking.pack", "bascule.nothing"):
        assert not resolves(moved)
