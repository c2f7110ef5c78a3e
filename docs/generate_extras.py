"""Writes `docs/reference/extras.md` from the extra outputs: `python docs/generate_extras.py`.

A test compares the page with what this makes, so an extra output cannot change without its page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bascule.bundle.extras import Extra, declared_extras

PAGE = Path(__file__).parent / "reference" / "extras.md"

_TOP = """\
# Extra outputs

<!-- Written by docs/generate_extras.py. Change the extra output, then run it again. -->

Fields that a request adds to the answer of a model by its parameters: `parameters` over
[HTTP](http.md#request), [gRPC](grpc.md) and Vertex AI, `params` over `/invocations` and Azure ML,
and `parameters=` of `Bundle.predict` and `Client.predict`, `--parameter NAME=VALUE` of `bascule
predict` and `bascule batch run`, `parameters` of a batch job. The first parameter asks for the
output; `null` switches off a default. The [OpenAPI document](http.md#openapi) has the parameters
that a served model supports.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_TOP, *(line for extra in declared_extras() for line in _section(extra))])


def _section(extra: type[Extra]) -> Iterator[str]:
    yield f"## {extra.name}\n"
    yield "| parameter | value | example | what it says |\n|---|---|---|---|"
    for one in extra.parameters:
        example = "" if one.usual is None else f"`{json.dumps(one.usual)}`"
        yield f"| `{one.name}` | {one.expected} | {example} | {one.about} |"
    columns = "; ".join(f"`{name}`: {_listed(fields)}" for name, fields in extra.outputs.items())
    yield f"\n- Fields, by the name that lists them in a batch job: {columns}."
    yield f"- Where it can be requested: {_listed(extra.places)}."
    if extra.files:
        lack, remedy = extra.lack
        yield f"- It needs {_listed(extra.files)} in the bundle. Else {lack}: {remedy}."
    yield ""


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page())
