"""Whether a model answers by code of its author's, where the library that it is of has its own.

A subclass, or a function that is set on the object, may change what any method answers: in every
row or in few that no comparison holds. So the method that is resolved decides, and not the class.
"""

from __future__ import annotations

from typing import Any

_NOT_ANSWERING = (
    "__", "_abc_", "_get_param_names", "_more_tags", "_repr", "_sklearn_", "evals_result",
    "explain_weights", "feature_importances", "fit", "get_metadata_routing", "get_param",
    "get_xgb_params", "load_model", "partial_fit", "plot", "save_model", "score", "set_",
)  # fmt: skip
"""How the names of methods begin that train, describe or keep a model, and answer no rows."""
_ANSWERING = ("predict", "predict_proba", "decision_function", "transform")
_OTHERS = ("builtins", "abc", "typing")


def own_methods(model: Any, homes: tuple[str, ...]) -> list[str]:
    """The names of a library's methods in place of which the model has others, sorted.

    Args:
        model: An object of a class of the library, or of one that is derived from it.
        homes: Top-level packages whose code is the library's.
    """
    kinds = type(model).__mro__
    library = [kind for kind in kinds if _home(kind) in homes]
    own = [kind for kind in kinds if _home(kind) not in (*homes, *_OTHERS)]
    names = {name for kind in own for name in vars(kind)}
    names |= {name for name, held in getattr(model, "__dict__", {}).items() if callable(held)}
    own_names = {
        name
        for name in names
        if not name.startswith(_NOT_ANSWERING)
        and any(hasattr(vars(kind).get(name), "__get__") for kind in library)
    }
    if _home(kinds[0]) in homes:  # a class may have been given another function as well
        resolved = ((name, getattr(model, name, None)) for name in _ANSWERING)
        own_names |= {name for name, method in resolved if not _is_of(method, (*homes, *_OTHERS))}
    return sorted(own_names)


def _is_of(method: Any, homes: tuple[str, ...]) -> bool:
    module = getattr(method, "__module__", None)
    return not module or module.partition(".")[0] in homes


def _home(kind: type) -> str:
    return kind.__module__.partition(".")[0]
