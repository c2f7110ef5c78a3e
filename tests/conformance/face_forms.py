"""The forms of every face, and the recorded exchanges."""

from __future__ import annotations

from pathlib import Path

import conformance_face as face

from bascule.serving.protocols import FACES

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "faces"


def forms(load):
    """`FACE/FORM` to each form; a face without any is a failing test."""
    made = {}
    for name in FACES:
        module = load(HERE / "faces" / f"{name}.py", f"conformance_face_{name}")
        made.update({f"{name}/{form}": value for form, value in module.FORMS.items()})
    return made


def write_golden(folder, worker):
    """Record what every form sends, and what is answered."""
    for name, form in FORMS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        request = form.ask(face.FIXED_ROWS)
        file.with_suffix(".request").write_bytes(request.sent)
        file.with_suffix(".answer").write_bytes(worker.ask(request).raw)


FORMS: dict[str, face.Form] = {}
