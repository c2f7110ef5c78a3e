"""Which code a fitted model needs beside the libraries that Bascule knows.

A pickle names modules. The caller of `pack` names them too, in `code`: their own sources as paths,
which the bundle keeps, and installed packages by name, whose versions it records. Nothing else may
be in the pickle.
"""

from __future__ import annotations

import ast
import io
import os
import pickle
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bascule.bundle import take
from bascule.bundle.originals import MODEL, distribution_of, installed_version
from bascule.bundle.programs import ChildProgram
from bascule.core import Invalid, Program, is_there
from bascule.packing.imported import Rows
from bascule.packing.statements import parity

_KNOWN = frozenset((
    "catboost", "joblib", "lightgbm", "numpy", "pandas", "polars", "pyarrow", "scipy", "sklearn",
    "threadpoolctl", "xgboost",
))  # fmt: skip
"""Packages that need no naming: their own estimators are packed without a pickle."""
_PROTOCOL = 5
_COMPARED_ROWS = 256
_SAVED_WITHIN = 1e-5


@dataclass(frozen=True, slots=True)
class Code:
    """What the caller named.

    Attributes:
        paths: Files and folders of sources.
        packages: Installed packages, by the name that is imported or installed.
    """

    paths: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def modules(self) -> frozenset[str]:
        """The modules that the sources are imported as."""
        whole = [path.resolve() for path in self.paths]
        return frozenset(path.stem if path.is_file() else path.name for path in whole)

    def has(self, root: str) -> bool:
        """Whether the top-level module is named."""
        names = {_plain(name) for name in self.packages}
        return root in self.modules or not names.isdisjoint(
            (_plain(root), _plain(distribution_of(root)))
        )


@dataclass(frozen=True, slots=True)
class Pickled:
    """A model as a pickle, and what opens it.

    Attributes:
        data: The pickle.
        requires: Distributions that it needs, with their versions.
    """

    data: bytes
    requires: dict[str, str]


def read_code(code: str | Path | Iterable[str | Path]) -> Code:
    """Tell paths from packages.

    Raises:
        Invalid: A name is neither a file or folder nor an installed package.
    """
    named = [code] if isinstance(code, str | Path) else list(code)
    paths: list[Path] = []
    packages: list[str] = []
    for one in named:
        text = str(one)
        if is_there(Path(text)):
            paths.append(Path(text))
        elif _is_installed(text):
            packages.append(text)
        else:
            raise Invalid(
                f"code {text!r} is neither a file or folder nor an installed package",
                hint="pass the path of a .py file or of a package's folder, or a package's name",
                field="code",
            )
    return Code(tuple(paths), tuple(packages))


def pickled(model: Any, code: Code, problem: str) -> Pickled:
    """The model as a pickle, if everything that it names is known or named in `code`.

    Args:
        model: A fitted estimator.
        code: What the caller named.
        problem: Why the model cannot be saved without a pickle; the message where code is missing.

    Raises:
        Invalid: The model needs code that is not named, or that has no name; the hint is the line
            to write.
    """
    data, roots = _pickle(model)
    needed = sorted(root for root in roots if _is_foreign(root))
    imported = _imports(code)
    needed += sorted(root for root in imported - set(needed) if _home(root) is not None)
    if not needed and not code.packages:
        needed = ["sklearn"]
    missing = [_named(root) for root in needed if not code.has(root)]
    if missing:
        names = list(dict.fromkeys([*map(_shown, code.paths), *code.packages, *missing]))
        options = " ".join(f"--code {name}" for name in names)
        raise Invalid(problem, hint=f"pass code={names!r} ({options})", field="code")
    used = {root for root in roots | imported if root not in code.modules and _home(root) is None}
    return Pickled(data, _versions(used - sys.stdlib_module_names))


def _pickle(model: Any) -> tuple[bytes, set[str]]:
    """The model's pickle and the top-level modules that it names.

    It is pickled, read and pickled again. Then equal texts are one object, however the model was
    made, and equal models have equal pickles.
    """
    noting = _Noting(model)
    again = _Noting(pickle.loads(noting.data))  # what this process holds already
    return again.data, noting.roots


class _Noting(pickle.Pickler):
    """A pickler that notes the modules of what it saves by name."""

    def __init__(self, model: Any) -> None:
        self.roots: set[str] = set()
        made = io.BytesIO()
        super().__init__(made, _PROTOCOL)
        try:
            self.dump(model)
        except Invalid:
            raise
        except Exception as problem:  # an object may refuse in any way
            raise Invalid(
                f"the model cannot be pickled: {problem}",
                hint="replace the part that holds a lock, a connection or an open file",
            ) from None
        self.data = made.getvalue()

    def reducer_override(self, value: Any) -> Any:
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not (isinstance(module, str) and isinstance(name, str)):
            module, name = type(value).__module__, type(value).__qualname__
        if "<" in name or module in ("__main__", "__mp_main__"):
            raise _nameless(module, name)
        self.roots.add(module.partition(".")[0])
        return NotImplemented


def _nameless(module: str, name: str) -> Invalid:
    short = name.rpartition(".")[2]
    if "<" not in name:
        said = f"{name} is defined in the script or notebook itself, which no other process imports"
        line = f"move {name} to a file"
        used = name
    else:
        said = f"the model holds {name} of {module}, which has no name that can be imported"
        line = "write it as a function at the top of a file"
        used = "FUNCTION" if short == "<lambda>" else short
    return Invalid(
        said,
        hint=f"{line}, for example features.py; import it (from features import {used}), fit the "
        "model with it, and pass code=['features.py'] (--code features.py)",
        field="code",
    )


def _imports(code: Code) -> set[str]:
    """The top-level modules that the sources import, without their own."""
    found: set[str] = set()
    for path in code.paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError) as problem:
                raise Invalid(
                    f"code {file} is not Python: {problem}",
                    hint=f"mend it until python -m py_compile {file} says nothing",
                    field="code",
                ) from None
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - code.modules - sys.stdlib_module_names


def _is_foreign(root: str) -> bool:
    return root not in _KNOWN and root not in sys.stdlib_module_names and not root.startswith("_")


def _named(root: str) -> str:
    """How `code` names a module: its path where it is not installed, else its name."""
    home = _home(root)
    return root if home is None else _shown(home)


def _shown(path: Path) -> str:
    shown = os.path.relpath(path)
    return str(path) if shown.startswith("..") else shown


def _home(root: str) -> Path | None:
    """The file or folder of a module that is not installed; None for others, and for none."""
    if root in sys.stdlib_module_names:
        return None
    module = sys.modules.get(root)
    file = getattr(module, "__file__", None)
    folders = list(getattr(module, "__path__", ()))
    if module is None:
        try:
            spec = find_spec(root)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        file, folders = spec.origin, list(spec.submodule_search_locations or ())
    place = Path(folders[0]) if folders else Path(file) if file else None
    if place is None or any(place.is_relative_to(home) for home in _site()):
        return None
    return place


def _site() -> Sequence[Path]:
    """Where distributions are installed."""
    known = (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        site.getusersitepackages(),
    )
    return [Path(one) for one in (*known, *site.getsitepackages()) if one]


def _is_installed(name: str) -> bool:
    if installed_version(name) != "none":
        return True
    return name.isidentifier() and installed_version(distribution_of(name)) != "none"


def _versions(roots: set[str]) -> dict[str, str]:
    named = {distribution_of(root) for root in roots}
    found = {name: installed_version(name) for name in sorted(named)}
    return {name: version for name, version in found.items() if version != "none"}


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def source_files(code: Iterable[str | Path]) -> dict[str, bytes]:
    """The sources of files and packages, by their path in the archive.

    Raises:
        Invalid: There is no such file or folder.
    """
    parts: dict[str, bytes] = {}
    for place in map(Path, code):
        if is_there(place, Path.is_file):
            parts[f"code/{place.name}"] = place.read_bytes()
        elif is_there(place, Path.is_dir):
            whole = place.resolve()
            for file in sorted(whole.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    name = file.relative_to(whole.parent).as_posix()
                    parts[f"code/{name}"] = file.read_bytes()
        else:
            raise Invalid(
                f"code {place} is not there",
                hint="pass the path of a .py file or of a package's folder",
                field="code",
            )
    return parts


def to_archive(parts: Mapping[str, bytes]) -> bytes:
    """An archive without times or compression, its parts in the order of their names."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(parts):
            archive.writestr(zipfile.ZipInfo(name), parts[name])
    return made.getvalue()


def archive_of(made: Pickled, code: Code) -> bytes:
    """The pickle and the sources that it needs, as the file of a bundle."""
    return to_archive({MODEL: made.data, **source_files(code.paths)})


def check_child(live: Program, child: ChildProgram, rows: Rows) -> None:
    """Refuse a model that answers otherwise in a fresh process, as one that reads a variable does.

    Raises:
        Invalid: It does, or cannot be loaded there.
    """
    few = take(rows.columns, slice(_COMPARED_ROWS))
    judged = parity.compare(
        live.run(few), child.run(few), tolerance=_SAVED_WITHIN, program="a fresh process"
    )
    if not judged.passed:
        raise Invalid(
            f"the model depends on more than it holds: {judged.reason}",
            hint="keep what its functions use in the files that `code` names, and not in variables "
            "that a script sets",
            field="code",
        )
