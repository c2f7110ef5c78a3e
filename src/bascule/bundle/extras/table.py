"""The table of extra outputs: a line adds one. What requests, forms and commands ask of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bascule.bundle.disk import Manifest
from bascule.bundle.extras.extra import Extra, ExtraRequest, Parameter
from bascule.core import Columns, Invalid, load_named

EXTRAS: dict[str, str] = {
    "confidence": "bascule.bundle.extras.confidence:Confidence",
    "explain": "bascule.bundle.extras.explain:Explain",
}
"""The class of each extra output, by its name."""


def declared_extras(manifest: Manifest | None = None) -> list[type[Extra]]:
    """Every extra output; those that a bundle has the files for, where one is named."""
    classes: list[type[Extra]] = [load_named(place) for place in EXTRAS.values()]
    return [one for one in classes if manifest is None or one.is_supported(manifest)]


def open_extras(
    path: Path, manifest: Manifest, defaults: Mapping[str, Any] | None = None
) -> tuple[Extra, ...]:
    """Every extra output of the table, for one bundle.

    Args:
        path: The bundle's folder, verified.
        manifest: Of it.
        defaults: The first parameter of an extra output where a request has none, by its name.

    Raises:
        Invalid: The bundle cannot support a default.
    """
    default_of = (defaults or {}).get
    return tuple(kind.open(path, manifest, default_of(kind.name)) for kind in declared_extras())


def read_requests(
    extras: Iterable[Extra], parameters: Mapping[str, Any], place: str = ""
) -> tuple[ExtraRequest, ...]:
    """What the `parameters` of a request ask for.

    Args:
        extras: Of one bundle.
        parameters: By name; those that are of no extra output are ignored.
        place: Where they were sent, of `PLACES`; empty for Python.

    Raises:
        Invalid: They are malformed; or the bundle, or the place, does not support them.
    """
    requests = []
    for extra in extras:
        request = extra.read(parameters)
        if request is None:
            continue
        if request.always and place and place not in extra.places:
            raise Invalid(
                f"parameters.{extra.name}: it cannot be asked for over {place}",
                hint=f"ask over {', '.join(extra.places)}",
            )
        requests.append(request)
    return tuple(requests)


def with_extras(requests: Sequence[ExtraRequest], inputs: Columns, outputs: Columns) -> Columns:
    """The outputs of a model, with the extra outputs after them; see `Extra.add`."""
    answer = dict(outputs)
    for request in requests:
        answer |= request.extra.add(inputs, outputs, request.settings)
    return answer


def parameters_in(place: str) -> list[Parameter]:
    """Every parameter that can be given in a place, for its form."""
    kinds = declared_extras()
    return [one for kind in kinds if place in kind.places for one in kind.parameters]


def read_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of forms and commands from texts; raises `Invalid`, and empty is none."""
    known = {one.name: one for kind in declared_extras() for one in kind.parameters}
    unknown = next((name for name in texts if name not in known), None)
    if unknown is not None:
        raise Invalid(
            f"{unknown[:64]}: no extra output has such a parameter",
            hint=f"there are {', '.join(known)}",
        )
    return {name: known[name].check(text, is_text=True) for name, text in texts.items() if text}


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """The parameters of a command from `NAME=VALUE`; raises `Invalid`."""
    return read_texts({name: text for name, _, text in (pair.partition("=") for pair in pairs)})
