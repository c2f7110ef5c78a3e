"""Looks into a skops archive before skops does.

skops asks which *types* a file holds. That is not enough for a file from anybody: the same type may
be built in several ways, one of which calls it with arguments from the file (`numpy.memmap` called
so opens, and empties, any file), and a trusted type may hold numbers that its compiled code
follows without a look. So every node is held to a rule for its loader, every array is measured by
its header before it is read, and the nodes of trees are followed before a tree is made of them.

What is checked here needs no import of the classes that are named. See `structures` for what is
checked on the estimator afterwards, before it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bascule.bundle.disk import (
    FREE_ARCHIVE_BYTES,
    MAX_ARCHIVE_BYTES,
    MAX_ARCHIVE_GROWTH,
    MAX_ARCHIVE_MEMBERS,
    MAX_ARRAY_HEADER_BYTES,
    MAX_NODES,
    MAX_SCHEMA_BYTES,
)
from bascule.bundle.originals.structures import check_nodes
from bascule.core import Untrusted

_SCHEMA = "schema.json"
_OLDEST_PROTOCOL = 2
"""Older ones are read by code that is kept for old files, and looked at less."""

_NEVER = ("tests", "conftest", "datasets", "externals", "experimental", "_build_utils", "testing")
_SCIPY_OBJECTS = ("scipy.interpolate.", "scipy.sparse.")
_PLAIN_TYPES = frozenset(
    (
        "collections.OrderedDict",
        "collections.defaultdict",
        *(
            f"builtins.{kind.__name__}"
            for kind in (str, int, float, bool, list, tuple, dict, set, object)
        ),
    )
)
_SCALARS = frozenset(f"numpy.{kind.__name__}" for kind in np.sctypeDict.values())
_RANDOM = ("numpy.random.",)
_LOSSES = ("sklearn._loss._loss.", "sklearn.linear_model._sgd_fast.")

BOOSTED = frozenset(
    (
        "catboost.core.CatBoostClassifier",
        "catboost.core.CatBoostRanker",
        "catboost.core.CatBoostRegressor",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRanker",
        "lightgbm.sklearn.LGBMRegressor",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRFClassifier",
        "xgboost.sklearn.XGBRFRegressor",
        "xgboost.sklearn.XGBRanker",
        "xgboost.sklearn.XGBRegressor",
    )
)
"""Boosted trees inside a pipeline. What skops keeps of them is their library's own format, which
holds no code, and plain values. Their readers are not as careful as ours, so a server opens such an
original in a process of its own only."""

_Rule = Callable[[str], bool]


def _one_of(*names: str) -> _Rule:
    return frozenset(names).__contains__


def _under(*prefixes: str) -> _Rule:
    return lambda name: name.startswith(prefixes)


def is_own_class(name: str) -> bool:
    """Whether a class of that name may be made from attributes: scikit-learn's, and few others."""
    if any(part in _NEVER for part in name.split(".")):
        return False
    return name.startswith(("sklearn.", *_SCIPY_OBJECTS))


_RULES: Mapping[str, _Rule] = {
    "JsonNode": lambda _: True,
    "CachedNode": lambda _: True,
    "DictNode": _one_of("builtins.dict", "collections.OrderedDict", "sklearn.utils._bunch.Bunch"),
    "DefaultDictNode": _one_of("collections.defaultdict"),
    "ListNode": _one_of("builtins.list"),
    "SetNode": _one_of("builtins.set", "builtins.frozenset"),
    "TupleNode": _one_of("builtins.tuple", "sklearn.impute._iterative._ImputerTriplet"),
    "SliceNode": _one_of("builtins.slice"),
    "BytesNode": _one_of("builtins.bytes"),
    "BytearrayNode": _one_of("builtins.bytearray"),
    "TypeNode": lambda name: name in _PLAIN_TYPES or name in _SCALARS or is_own_class(name),
    "FunctionNode": lambda _: True,  # functions are asked for by name, where types are
    "PartialNode": _one_of("functools.partial"),
    "NdArrayNode": lambda name: name == "numpy.ndarray" or name in _SCALARS,
    "MaskedArrayNode": _under("numpy.ma."),
    "DTypeNode": _one_of("numpy.dtype"),
    "RandomStateNode": _under(*_RANDOM),
    "RandomGeneratorNode": _under(*_RANDOM),
    "SparseMatrixNode": _under("scipy.sparse."),
    "ObjectNode": lambda name: name in BOOSTED or is_own_class(name),
    "TreeNode": _one_of("sklearn.tree._tree.Tree"),
    "LossNode": _under(*_LOSSES),
}
"""What each loader of skops may make. Those that are not here call what the file names: methods,
operators, constructors."""


def check_archive(data: bytes, file: str, *, boosted: bool = True) -> None:
    """Raise `Untrusted` when skops should not be given these bytes.

    Args:
        data: The archive.
        file: What to call it.
        boosted: Whether it may hold what `BOOSTED` names.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _Check(archive, len(data), file, boosted=boosted).run()
    except Untrusted:
        raise
    except RecursionError:
        raise Untrusted(f"{file} cannot be read: it is nested too deep", file=file) from None
    except Exception as problem:  # a damaged archive may raise anything
        raise Untrusted(f"{file} cannot be read: {problem}", file=file) from None


class _Check:
    def __init__(self, archive: zipfile.ZipFile, size: int, file: str, *, boosted: bool) -> None:
        self._archive = archive
        self._size = size
        self._file = file
        self._boosted = boosted
        self._used_bytes = 0
        self._nodes = 0
        self._by_id: dict[Any, tuple[Mapping[str, Any], bytes]] = {}
        self._members: dict[str, bytes] = {}

    def run(self) -> None:
        members = self._archive.infolist()
        if len(members) > MAX_ARCHIVE_MEMBERS:
            raise self._refused(f"holds {len(members):,} files, and {MAX_ARCHIVE_MEMBERS:,} may be")
        if len({member.filename for member in members}) != len(members):
            raise self._refused("holds two files of one name")
        self._count(sum(member.file_size for member in members))
        if self._archive.getinfo(_SCHEMA).file_size > MAX_SCHEMA_BYTES:
            raise self._refused(f"holds a {_SCHEMA} of more than {MAX_SCHEMA_BYTES:,} bytes")
        schema = json.loads(self._archive.read(_SCHEMA))
        protocol = schema["protocol"]
        if not isinstance(protocol, int) or protocol < _OLDEST_PROTOCOL:
            raise self._refused(f"is in protocol {protocol} of skops, which is too old")
        # What is counted from here on is what is read, once for each time that it is used.
        self._used_bytes = 0
        self._note(schema)
        for node in self._walk(schema):
            self._node(node)

    def _count(self, size: int) -> None:
        self._used_bytes += size
        allowed = min(MAX_ARCHIVE_BYTES, max(FREE_ARCHIVE_BYTES, MAX_ARCHIVE_GROWTH * self._size))
        if self._used_bytes > allowed:
            raise self._refused(
                f"unpacks to more than {allowed:,} bytes, from {self._size:,}",
                hint="the file was made to fill the memory; do not use it",
            )

    def _walk(self, value: Any) -> Iterator[Mapping[str, Any]]:
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                if "__loader__" in part:
                    self._nodes += 1
                    if self._nodes > MAX_NODES:
                        raise self._refused(f"holds more than {MAX_NODES:,} parts")
                    yield part
                waiting.extend(part.values())
            elif isinstance(part, list):
                waiting.extend(part)

    def _note(self, value: Any) -> bytes:
        """A digest of what a node says; raises where two of one number say different things.

        skops takes the first node of a number for every later one, and ignores the later's content.
        In an honest file a repeated part may have other files, with the same bytes.
        """
        digest = hashlib.blake2b(digest_size=16)
        if isinstance(value, list):
            for part in value:
                digest.update(self._note(part))
        elif isinstance(value, dict):
            for name, part in value.items():
                if name == "__id__":
                    continue
                digest.update(name.encode())
                if name == "file" and "__loader__" in value:
                    digest.update(self._digest_of_member(str(part)))
                else:
                    digest.update(self._note(part))
            self._number(value, digest.digest())
        else:
            digest.update(repr(value).encode())
        return digest.digest()

    def _number(self, node: Mapping[str, Any], said: bytes) -> None:
        number = node.get("__id__")
        if number is None or "__loader__" not in node or node["__loader__"] == "CachedNode":
            return
        _, first = self._by_id.setdefault(number, (node, said))
        if first != said:
            raise self._refused("holds two parts under one number")

    def _digest_of_member(self, name: str) -> bytes:
        if name not in self._members:
            self._members[name] = hashlib.sha256(self._archive.read(name)).digest()
        return self._members[name]

    def _node(self, node: Mapping[str, Any]) -> None:
        loader = str(node["__loader__"])
        name = f"{node['__module__']}.{node['__class__']}"
        rule = _RULES.get(loader)
        if rule is None or not rule(name):
            raise self._refused(
                f"holds {name}, which is not trusted as a {loader}",
                hint="build the model from scikit-learn's own estimators",
            )
        if name in BOOSTED and not self._boosted:
            raise self._refused(f"holds {name}, which is not inspected as a whole")
        if "file" in node:
            self._array(node)
        if loader == "TreeNode":
            self._tree(node)

    def _array(self, node: Mapping[str, Any]) -> None:
        name = str(node["file"])
        self._count(self._archive.getinfo(name).file_size)
        if node["__loader__"] == "NdArrayNode":
            self._header(self._archive.read(name), name)
        elif node["__loader__"] == "SparseMatrixNode":
            with zipfile.ZipFile(io.BytesIO(self._archive.read(name))) as inner:
                for member in inner.infolist():
                    self._count(member.file_size)
                for member in inner.infolist():
                    self._header(inner.read(member), f"{name}/{member.filename}")

    def _header(self, data: bytes, name: str) -> None:
        """The array that the header promises has to be the one that follows it."""
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        elif version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        else:
            raise self._refused(f"holds {name} in version {version} of numpy's form")
        shape, _, dtype = read(stream, max_header_size=MAX_ARRAY_HEADER_BYTES)
        if dtype.hasobject:
            raise self._refused(f"holds {name}, an array of pickled objects")
        if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise self._refused(f"holds {name}, whose header does not fit what follows it")

    def _tree(self, node: Mapping[str, Any]) -> None:
        """What `Tree` is made of, before it is: its constructor trusts its arguments."""
        features, classes, outputs = self._value(node["__reduce__"]["args"])
        state = self._value(node["content"])
        classes = np.asarray(classes)
        if not (
            type(features) is int
            and type(outputs) is int
            and 0 < features < 2**31
            and classes.shape == (outputs,)
            and classes.dtype.kind in "iu"
            and classes.min(initial=1) >= 1
        ):
            raise self._refused("holds a tree whose inputs and outputs make no sense")
        nodes, values = np.asarray(state["nodes"]), np.asarray(state["values"])
        if nodes.ndim != 1 or nodes.dtype.names is None or int(state["node_count"]) != len(nodes):
            raise self._refused("holds a tree whose nodes are no nodes")
        if values.shape != (len(nodes), outputs, int(classes.max(initial=1))):
            raise self._refused("holds a tree with values for other nodes than it has")
        depth = check_nodes(
            nodes["left_child"],
            nodes["right_child"],
            nodes["feature"],
            leaves=nodes["left_child"] == -1,
            features=features,
            file=self._file,
        )
        if int(state["max_depth"]) != depth:
            raise self._refused(f"holds a tree of depth {depth} that says {state['max_depth']}")

    def _value(self, node: Any) -> Any:
        """The value of a node that holds numbers, arrays, and tuples and dicts of them."""
        loader = node["__loader__"]
        if loader == "CachedNode":
            return self._value(self._cached(node["__id__"]))
        if loader == "JsonNode":
            return json.loads(node["content"])
        if loader == "TupleNode":
            return tuple(self._value(part) for part in node["content"])
        if loader == "DictNode":
            return {name: self._value(part) for name, part in node["content"].items()}
        if loader == "NdArrayNode" and node.get("type") == "numpy":
            data = self._archive.read(str(node["file"]))
            self._header(data, str(node["file"]))
            return np.load(io.BytesIO(data), allow_pickle=False)
        raise self._refused(f"holds a tree made of a {loader}")

    def _cached(self, number: Any) -> Mapping[str, Any]:
        found = self._by_id.get(number)
        if found is None:
            raise self._refused("refers to a part that it does not hold")
        return found[0]

    def _refused(self, what: str, hint: str = "") -> Untrusted:
        return Untrusted(f"{self._file} {what}", hint=hint, file=self._file)
