"""A model of river as JSON, and served: copied into the bundle, whose environment has river alone.

The JSON is a table of objects, the model first; `[4]` in it stands for the fifth. Each is taken
apart as pickle does. Reading makes objects of river's own model classes and of a few plain types,
and calls nothing else: no file, however it was changed, runs other code.

A random generator whose owner has no seed is not kept: reading seeds it, so that equal models have
equal bytes.
"""

import copy
import importlib
import json
import types
from collections import Counter, OrderedDict, defaultdict, deque
from functools import partial
from random import Random
from statistics import NormalDist
from typing import Any

import numpy as np

_PACKAGES = frozenset((
    "_river_rust", "active", "anomaly", "base", "cluster", "compose", "conf", "covariance", "drift",
    "ensemble", "facto", "feature_extraction", "feature_selection", "forest", "imblearn",
    "linear_model", "metrics", "model_selection", "multiclass", "multioutput", "naive_bayes",
    "neighbors", "optim", "preprocessing", "proba", "rules", "sketch", "stats", "time_series",
    "tree", "utils",
))  # fmt: skip
"""Of river: none that reads files or downloads."""
_CONTAINERS: dict[str, Any] = {
    kind.__name__: kind for kind in (dict, list, set, tuple, frozenset)
}  # fmt: skip
_CALLED = (Counter, OrderedDict, defaultdict, deque, partial)
_PLAIN: dict[str, Any] = {
    f"{plain.__module__}:{plain.__qualname__}": plain
    for plain in (
        *_CALLED, bool, dict, float, int, list, set, str, NormalDist, copy.copy, copy.deepcopy,
    )
}  # fmt: skip


def saved(model: Any) -> bytes:
    """The model as JSON. Raises `TypeError` for what is neither of river nor plain."""
    return json.dumps(_Writer(model).nodes, separators=(",", ":")).encode()


def opened(data: bytes, seed: int = 0) -> Any:
    """The model; `seed` is for generators without one of their own.

    Raises `ValueError` where the data names code that is not of river's models.
    """
    return _Reader(json.loads(data), seed).value([0])


class _Writer:
    def __init__(self, model: Any) -> None:
        self._places: dict[int, int] = {}
        self._objects: list[Any] = []  # all of them live on, so that no `id` is used twice
        self._without_seed: list[Any] = []
        self._ref(model)
        self.nodes = [self._node(value) for value in self._objects]  # which grows meanwhile
        for generator in self._without_seed:
            self.nodes[self._places[id(generator)]]["data"] = None

    def _ref(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) not in self._places:
            self._places[id(value)] = len(self._objects)
            self._objects.append(value)
        return [self._places[id(value)]]

    def _refs(self, values: Any) -> list[Any]:
        return [self._ref(value) for value in values or ()]

    def _pairs(self, pairs: Any) -> list[Any]:
        return self._refs(part for pair in pairs or () for part in pair)

    def _node(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if kind is dict:
            return {"is": "dict", "pairs": self._pairs(value.items())}
        if kind.__name__ in _CONTAINERS and kind in _CONTAINERS.values():
            items = self._refs(value)
            is_set = kind in (set, frozenset)
            return {"is": kind.__name__, "items": sorted(items, key=repr) if is_set else items}
        if kind is Random:
            return {"is": "random", "data": value.getstate()}
        if kind is bytes:
            return {"is": "bytes", "data": value.decode("latin-1")}
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            shape = "array" if isinstance(value, np.ndarray) else "scalar"
            order = "F" if value.flags.fnc else "C"
            data = value.tolist()
            return {"is": shape, "of": value.dtype.str, "order": order, "data": data}
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            return {"is": "name", "of": _name_of(value)}
        if kind is types.MethodType:
            return {"is": "method", "of": value.__name__, "args": self._refs([value.__self__])}
        return self._instance(value)

    def _instance(self, value: Any) -> dict[str, Any]:
        _name_of(type(value))
        make, args, state, items, pairs = [*value.__reduce_ex__(2), None, None, None][:5]
        kind = "call"
        if make.__name__ == "__newobj__":
            kind, make, args = "new", args[0], args[1:]
        if isinstance(state, tuple) and not hasattr(value, "__setstate__"):
            state = {name: part for parts in state for name, part in (parts or {}).items()}  # slots
        if isinstance(state, dict):
            if state.get("seed", 0) is None:
                self._without_seed += [part for part in state.values() if isinstance(part, Random)]
            state = {name: self._ref(part) for name, part in state.items()}
        else:
            state = self._ref(state)
        return {
            "is": kind, "of": _name_of(make), "args": self._refs(args), "state": state,
            "items": self._refs(items), "pairs": self._pairs(pairs),
        }  # fmt: skip


class _Reader:
    def __init__(self, nodes: list[dict[str, Any]], seed: int) -> None:
        self._nodes, self._seed = nodes, seed
        self._made: dict[int, Any] = {}
        self._filled = set[int]()
        places = range(len(nodes))
        self._values([place] for place in places)
        for place in places:  # before the items: a key may be an object with a hash of its state
            if nodes[place]["is"] in ("call", "new"):
                self._set_state(self._made[place], nodes[place]["state"])
        for place in places:
            self._fill(place)

    def value(self, ref: Any) -> Any:
        if not isinstance(ref, list):
            return ref
        (place,) = ref
        if place not in self._made:
            self._made[place] = self._make(place, self._nodes[place])
        return self._made[place]

    def _values(self, refs: Any) -> list[Any]:
        return [self.value(ref) for ref in refs]

    def _make(self, place: int, node: dict[str, Any]) -> Any:
        """The object, empty where it can be filled afterwards: it may be in itself."""
        kind, name = node["is"], node.get("of", "")
        data: Any = node.get("data")
        if kind in ("tuple", "frozenset"):
            return _CONTAINERS[kind](self._values(node["items"]))
        if kind in _CONTAINERS:
            return _CONTAINERS[kind]()
        if kind == "random":
            generator = Random(f"{self._seed} {place}")
            if data is not None:
                generator.setstate((data[0], tuple(data[1]), data[2]))
            return generator
        if kind == "bytes":
            return data.encode("latin-1")
        if kind in ("array", "scalar"):
            if np.dtype(name).kind not in "biuf":  # texts of any length would fill the memory
                raise ValueError(f"an array of {name} is not read")
            array = np.array(data, name, order=node["order"])
            return array if kind == "array" else array[()]
        if kind == "name":
            return _named(name)
        args = self._values(node["args"])
        if kind == "method":
            function = getattr(type(args[0]), name)
            _name_of(function, ValueError)
            return types.MethodType(function, args[0])
        named = _named(name)
        is_called = named in _CALLED or name.startswith("river._river_rust.")
        if not isinstance(named, type) or (kind == "call" and not is_called):
            raise ValueError(f"{name} is not called")
        if kind == "new":
            return named.__new__(named, *args)
        for ref in node["args"]:
            if isinstance(ref, list):
                self._fill(ref[0])
        return named(*args)

    def _set_state(self, value: Any, state: Any) -> None:
        if isinstance(state, dict):
            state = {name: self.value(part) for name, part in state.items()}
        else:
            state = self.value(state)
        if state is not None and hasattr(value, "__setstate__"):
            value.__setstate__(state)
            return
        for name, part in (state or {}).items():
            object.__setattr__(value, name, part)  # also of slots

    def _fill(self, place: int) -> None:
        node, value = self._nodes[place], self._made[place]
        if place in self._filled or node["is"] not in ("dict", "list", "set", "call", "new"):
            return
        self._filled.add(place)
        if items := self._values(node.get("items", ())):
            value.update(items) if isinstance(value, set) else value.extend(items)
        pairs = self._values(node.get("pairs", ()))
        for key, part in zip(pairs[::2], pairs[1::2], strict=True):
            value[key] = part


def _name_of(value: Any, problem: type[Exception] = TypeError) -> str:
    """The name of a plain type, or of a class or function of river's models; raises for others."""
    name = f"{value.__module__}:{value.__qualname__}"
    root, _, rest = value.__module__.partition(".")
    if name not in _PLAIN and (root != "river" or rest.partition(".")[0] not in _PACKAGES):
        raise problem(f"the model holds {name}, which is not of river's models")
    return name


def _named(name: str) -> Any:
    if name in _PLAIN:
        return _PLAIN[name]
    module, _, place = name.partition(":")
    _name_of(types.SimpleNamespace(__module__=module, __qualname__=place), ValueError)
    value: Any = importlib.import_module(module)
    for part in place.split("."):
        value = getattr(value, part)
    if _name_of(value, ValueError) != name:  # modules and classes hold others too
        raise ValueError(f"{name} is another's name")
    return value


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows; a value that is missing is left out, as river has it."""
    return [
        {
            name: value
            for name, value in zip(columns, row, strict=True)
            if value is not None and value == value
        }
        for row in zip(*columns.values(), strict=True)
    ]


class Model:
    """See `bascule.PythonModel`."""

    def load(self, folder: str) -> None:
        with open(f"{folder}/model.json", "rb") as file:
            self.model, self.classes = opened(file.read())

    def predict(self, columns: dict[str, Any]) -> dict[str, Any]:
        rows = rows_of({name: column.tolist() for name, column in columns.items()})
        if not self.classes:
            return {"prediction": np.array([float(self.model.predict_one(row)) for row in rows])}
        keys = (False, True) if len(self.classes) == 2 else self.classes
        chances = np.zeros((len(rows), len(keys)))
        for place, row in enumerate(rows):
            shares = self.model.predict_proba_one(row)
            chances[place] = [shares.get(key, 0.0) for key in keys]
        labels = np.array(self.classes)[chances.argmax(axis=1)]
        return {"label": labels, "probabilities": chances}
