"""Execution providers of ONNX Runtime, as `serving.providers` names them.

The parity of a bundle is that of the processor (CPU). So a program on another provider is compared
with itself on the processor when it is loaded, and is not served where it differs too much. No
claim on batches holds there either.
"""

from __future__ import annotations

import logging
from pathlib import Path

from bascule.bundle import Bundle, open_program, recombined
from bascule.bundle.disk import Manifest, ProgramEntry
from bascule.bundle.programs import ONNX
from bascule.bundle.statements import USUAL, in_batches, row_differences
from bascule.core import Columns, Invalid, Program
from bascule.serving.limits import Limits

log = logging.getLogger(__name__)

_ROWS = 64
_BATCH_ROWS = 16


def providers_of(entry: ProgramEntry | None, limits: Limits) -> tuple[str, ...]:
    """The providers that run a program: none for the processor, and for other kinds than ONNX."""
    is_onnx = entry is not None and entry.kind == ONNX and entry.features is None
    return limits.providers if is_onnx else ()


class ProviderCheck:
    """Compares a program on other providers with the same one on the processor.

    The processor is asked first and its session is gone after that, so that what the other one
    adds to the memory of this process is what it takes.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        name: str,
        example: Columns,
        providers: tuple[str, ...],
    ) -> None:
        self._name = f"{manifest.name}: program {name} on {', '.join(providers)}"
        parity = Bundle(path, manifest).parities.get(name)
        self._tolerance = USUAL if parity is None else parity.tolerance
        self._rows = recombined(example, _ROWS)
        on_processor = open_program(path, manifest, name=name)
        self._expected = in_batches(on_processor, self._rows, _BATCH_ROWS)

    def compare(self, program: Program) -> None:
        """Log by how much the program differs.

        Raises:
            Invalid: By more than the tolerance that the bundle was packed with, or in a label that
                is no tie.
        """
        answers = in_batches(program, self._rows, _BATCH_ROWS)
        distances, labels, ties = row_differences(self._expected, answers, self._tolerance, 0, None)
        other_labels = int((labels & ~ties).sum())
        measured = (
            f"{self._name} differs from the processor by up to {distances.max():.2g} in "
            f"{len(distances)} rows made of its example, {other_labels} other labels; the "
            f"tolerance is {self._tolerance:g}"
        )
        if distances.max() > self._tolerance or other_labels:
            hint = "take the provider out of serving.providers, or pack with a larger tolerance="
            raise Invalid(measured, hint=hint)
        log.info("%s", measured)
