"""The forms of every protocol, and the recorded exchanges."""

from __future__ import annotations

import re
from pathlib import Path

import conformance_protocol as protocol

from bascule.serving.protocols.table import PROTOCOLS

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "protocols"


def forms(load):
    """`FACE/FORM` to each form; a protocol of rows without any is a failing test."""
    made = {}
    for name in PROTOCOLS:
        module = load(HERE / "protocols" / f"{name}.py", f"conformance_protocol_{name}")
        made.update({f"{name}/{form}": value for form, value in module.FORMS.items()})
    return made


def write_golden(folder, worker):
    """Record what every form sends, and what is answered."""
    for name, form in FORMS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        request = form.ask(protocol.FIXED_ROWS)
        file.with_suffix(".request").write_bytes(request.sent)
        file.with_suffix(".answer").write_bytes(without_made_id(worker.ask(request).raw))


def without_made_id(answer):
    """An answer without the id that the server makes where a client sends none."""
    return re.sub(rb"(?:X-Request|Bascule)-Id: [0-9a-f]{16}-[0-9a-f]+\r\n", b"", answer)


FORMS: dict[str, protocol.Form] = {}
