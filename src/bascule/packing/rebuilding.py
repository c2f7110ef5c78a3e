"""Rebuild: pack a bundle again from what is recorded, and compare.

What a bundle holds is taken from it: its original, what was asked of `pack`, and the held-out rows
where they were kept. The training rows are not in it; the caller passes them, and their digest must
be the recorded one. Everything else is made anew, compiled, calibrated,
profiled, by the versions that are installed here. Equal digests then say that the bundle is what
its record says; others are explained file by file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle import Bundle, conform, disk, load, read_truth
from bascule.bundle.disk import TRUTHS, Difference, Facts, differences
from bascule.bundle.explaining import read_explanation
from bascule.bundle.features import declared
from bascule.bundle.originals import Frame
from bascule.core import Columns, Invalid, Scratch, counted
from bascule.packing.explaining import SAMPLED_BACKGROUND
from bascule.packing.flavors import reopener
from bascule.packing.imported import Rows
from bascule.packing.lineage import provenance
from bascule.packing.packing import InputRows, Request, seal

_DEFAULT_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of packing again.

    Attributes:
        packed: The digest of the bundle.
        rebuilt: The digest that packing again gave.
        differences: What is not the same; empty where the digests are equal.
    """

    packed: str
    rebuilt: str
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether it is the same bundle."""
        return self.packed == self.rebuilt

    def to_json(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "packed": self.packed,
            "rebuilt": self.rebuilt,
            "differences": [one.to_json() for one in self.differences],
        }


def rebuild(
    path: str | Path,
    *,
    train: Any = None,
    test: Any = None,
    calibration: Any = None,
    to: str | Path | None = None,
    statements: Sequence[disk.Statement] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Rebuilt:
    """Pack a bundle again from what is recorded, and compare.

    Args:
        path: The bundle.
        train: The rows that it was packed with, as they were handed to `pack`.
        test: The held-out rows, where the bundle does not hold them.
        calibration: The rows that it was calibrated on, where they were of their own.
        to: Where to leave what was rebuilt, a bundle without statements; nowhere if None.
        statements: Its statements; those in its folder if None.
        progress: Called with a short sentence when a stage is done.

    Raises:
        Invalid: Rows are needed and were not given, or are not those that were recorded.
        Untrusted: The original was saved with another version than the one that is installed.
        Unconvertible: The original is of a kind that cannot be packed again, or a step of it has
            no converter here.
        Conflict: `to` exists.
    """
    bundle = load(path)
    reopen = reopener(bundle.manifest.original, bundle.path)
    tell = progress or (lambda _: None)
    known = _provenance(bundle.statements() if statements is None else statements)
    rows = _rows(bundle, known, {"train": train, "test": test, "calibration": calibration})
    tell("every row is as recorded")
    model = reopen(
        disk.read_file(bundle.path, bundle.manifest, bundle.manifest.original.file), bundle.manifest
    )
    with _place(to) as draft:
        sealed = seal(draft, model, rows, _request(bundle, tell))
        environment = (draft / disk.ENVIRONMENT).read_text(encoding="utf-8")
    recorded = disk.read_file(bundle.path, bundle.manifest, disk.ENVIRONMENT).decode()
    packed = Facts(bundle.manifest, recorded, known.get("made_with") or {})
    again = Facts(sealed.manifest, environment, provenance.tools())
    return Rebuilt(bundle.digest, sealed.manifest.digest, differences(packed, again))


@contextmanager
def _place(to: str | Path | None) -> Iterator[Path]:
    """Where to pack again: the folder that becomes `to`, or one that is gone afterwards."""
    if to is not None:
        with disk.drafting(to) as draft:
            yield draft
        return
    with Scratch("bascule-rebuild-") as folder:
        yield folder


def _provenance(statements: Sequence[disk.Statement]) -> Mapping[str, Any]:
    said = [one.body for one in statements if one.kind == "provenance"]
    if not said:
        raise Invalid(
            "nothing is recorded of what the bundle was made from",
            hint="a bundle is rebuilt from its provenance statement; take one that has it",
        )
    return said[0]  # what `pack` wrote; a later one is an unverified claim


def _request(bundle: Bundle, tell: Callable[[str], None]) -> Request:
    """What `pack` was asked for, as far as it left a trace in the digest."""
    manifest = bundle.manifest
    tolerances = [program.tolerance for program in manifest.programs]
    tolerances += [parity.tolerance for parity in bundle.parities.values()]
    return Request(
        name=manifest.name,
        tolerance=(tolerances or [_DEFAULT_TOLERANCE])[0],
        keep_test=disk.TEST_DATA in manifest.files,
        baseline=disk.BASELINE in manifest.files,
        outliers=disk.OUTLIER_SCORER in manifest.files,
        serve_original=manifest.serves == disk.ORIGINAL,
        allow_non_finite=manifest.allows_non_finite,
        explain=_explain(bundle),
        features=declared(bundle.path, manifest),
        is_rebuilt=True,
        tell=tell,
    )


def _explain(bundle: Bundle) -> bool | int:
    explanation = read_explanation(bundle.path, bundle.manifest)
    if explanation is None:
        return False
    rows = explanation.background_rows
    # Told to take as many, trees would take them where they had none to take by themselves.
    is_usual = explanation.method == "sampling" and rows == SAMPLED_BACKGROUND
    return True if is_usual else rows or True


def _rows(bundle: Bundle, known: Mapping[str, Any], given: Mapping[str, Any]) -> InputRows:
    recorded = {what: known.get(what) for what in given}
    calibration = bundle.calibration
    has_own = calibration is not None and calibration.source == "calibration"
    if recorded["calibration"] is None and has_own:
        recorded["calibration"] = {}  # packed before its digest was recorded
    made: dict[str, Any] = {}
    for what, told in recorded.items():
        made[what] = None
        if told is None:
            _refuse_extra(what, given[what])
        elif what == "test" and given[what] is None and (held := bundle.test_data()) is not None:
            made[what] = _handed_over(bundle, Rows(*held))
        elif given[what] is None:
            raise _missing(what, told)
        else:
            made[what] = _handed_over(bundle, _verified(bundle, what, given[what], told))
    return InputRows(**made)


def _refuse_extra(what: str, rows: Any) -> None:
    if rows is not None:
        raise Invalid(
            f"{what}: the bundle was packed without such rows",
            hint=f"leave {what} out",
            field=what,
        )


def _missing(what: str, told: Mapping[str, Any]) -> Invalid:
    return Invalid(
        f"the {what} rows are missing: the bundle was packed with {_described(told)}, and does not "
        "hold them",
        hint=f"pass {what}=... (--{what} FILE)",
        field=what,
    )


def _verified(bundle: Bundle, what: str, data: Any, told: Mapping[str, Any]) -> Rows:
    """The rows, when they are those that were recorded."""
    table, truth = data if isinstance(data, tuple) else (data, None)
    columns = conform(table, bundle.signature)
    if truth is None and told.get("truth"):
        raise Invalid(
            f"the {what} rows were packed with their truth, and come without it",
            hint=f"pass {what}=(X, y) (--target COLUMN)",
            field=what,
        )
    if truth is not None:
        truth = read_truth(truth, TRUTHS.get(bundle.task, ()))
        if told.get("truth"):
            truth = _in_type(truth, str(told["truth"]))
    if told and not told.get("truth", True):
        truth = None  # it was packed without
    if "sha256" in told:
        found = provenance.data_digest(columns, truth)
        if found != told["sha256"]:
            count = len(next(iter(columns.values())))
            raise Invalid(
                f"the {what} rows are not those that the bundle was packed with: {count:,} rows, "
                f"{found}, and recorded are {_described(told)}",
                hint="give the same file, with the same column for the truth",
                field=what,
            )
    return Rows(columns, truth)


def _in_type(truth: Any, dtype: str) -> Any:
    """A truth as it was: files keep whole numbers wider, and texts as objects."""
    try:
        return truth.astype(np.dtype(dtype))
    except (TypeError, ValueError):
        return truth


def _described(told: Mapping[str, Any]) -> str:
    return f"{counted(told['rows'], 'row')}, {told['sha256']}" if told else "such rows"


def _handed_over(bundle: Bundle, rows: Rows) -> Any:
    """The rows in the container that they came in, which is a part of what was recorded."""
    table = _container(bundle, rows.columns)
    if rows.truth is None:
        return table
    if rows.truth.ndim == 2:  # its columns have names, after which the outputs are called
        names = [target.name for target in bundle.targets] or TRUTHS[bundle.task]
        return table, dict(zip(names, rows.truth.T, strict=True))
    return table, rows.truth


def _container(bundle: Bundle, columns: Columns) -> Any:
    recipe, signature = bundle.manifest.original.frame, bundle.signature
    if recipe.get("container") in ("pandas", "polars"):
        return Frame.from_json(recipe).build(columns)
    if not signature.is_matrix:
        return dict(columns)
    matrix = _matrix(str(recipe.get("dtype", "")), columns)
    return dict(zip(signature.columns, matrix.T, strict=True)) if signature.columns else matrix


def _matrix(dtype: str, columns: Columns) -> Any:
    """The training matrix in the type that it had.

    A whole number that may be missing is asked for as a double. Either the recipe says what it
    was, or it says that the model is handed floats, which it is not where it was trained on
    doubles.
    """
    ((name, values),) = columns.items()
    whole = dtype if dtype and np.dtype(dtype).kind in "biu" else ""
    if dtype == "float32" and values.dtype == np.float64:
        whole = "int64"
    return Frame("numpy", {}, whole).build({name: values}) if whole else values
