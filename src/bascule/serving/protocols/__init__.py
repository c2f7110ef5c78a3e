"""The faces of the server: each turns the bytes of one protocol into calls, and answers back.

One file each, one line each in the table. A face speaks of models through `serving.plane.Plane`,
makes a `serving.calls.Call` of a request, and has `ServedModel.answer` run it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from bascule.serving.plane import Face

FACES: dict[str, str] = {
    "oip": "bascule.serving.protocols.oip_rest:OipRest",
}
"""Faces by name; imported when a server starts that has them."""


def open_faces(names: Iterable[str] = tuple(FACES)) -> list[Face]:
    """The faces of these names, in that order."""
    made: list[Face] = []
    for name in names:
        module, _, kind = FACES[name].partition(":")
        made.append(getattr(import_module(module), kind)())
    return made
