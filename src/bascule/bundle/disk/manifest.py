"""What is written in a bundle: the manifest, and the statements beside it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from bascule.bundle.disk.reading import shaped
from bascule.bundle.texts import Texts
from bascule.core import Field, Signature, canonical_json, sha256_bytes

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
CARD = "card.md"
STATEMENTS = "statements"
EXAMPLE = "data/example.json"
TEST_DATA = "data/test.parquet"
CALIBRATION = "data/calibration.json"
BASELINE = "data/baseline.json"
OUTLIER_SCORER = "data/outliers.json"
EXPLAINING = "data/explaining.json"
EXPLAINING_ARRAYS = "data/explaining.npz"
FEATURES = "data/features.json"
TRUTH = "__truth__"
ENVIRONMENT = "environment.txt"
OUTLIERS = "outlier-detection"
CLASSIFICATIONS = "multioutput-classification"
REGRESSIONS = "multioutput-regression"
RANKING = "ranking"
SURVIVAL = "survival"
GENERATION = "generation"
"""The task, and the format of an original that an engine answers."""
TASKS = (
    "classification", "regression", OUTLIERS, CLASSIFICATIONS, REGRESSIONS, RANKING, SURVIVAL,
    GENERATION, "other",
)  # fmt: skip
"""What a model is for; scikit-learn's words."""
TRUTHS = {RANKING: ("relevance", "group"), SURVIVAL: ("time", "event")}
"""By task: the columns of a truth that has two. `event` is 1, or 0 where the time is censored."""
ORIGINAL = "original"
"""What `Manifest.serves` says when no compiled program was equal enough to the original."""
ISOLATED = "original, isolated"
"""What a cost statement calls the original where it runs in a process of its own."""


def generates_text(signature: Signature) -> bool:
    """Whether a model answers requests for text, in the form of `GENERATION`."""
    inputs, outputs = ([field.name for field in of] for of in (signature.inputs, signature.outputs))
    return inputs == ["request"] and outputs == ["text", "chunk"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


Label = str | int | float | bool


def _fields_json(value: Any, *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass as JSON values, without those of `optional` that are empty."""
    held = {one.name: getattr(value, one.name) for one in fields(value)}
    return {name: _json(part) for name, part in held.items() if part or name not in optional}


def _json(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return _fields_json(value)
    if isinstance(value, Mapping):
        return {name: _json(part) for name, part in value.items()}
    return [_json(part) for part in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class Target:
    """One of the several things that a model predicts.

    Attributes:
        name: What its outputs are called after: `prediction.NAME`, or `label.NAME` and
            `probabilities.NAME`.
        classes: Its labels in the order of its probabilities; None where it is a number.
    """

    name: str
    classes: tuple[Label, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProgramEntry:
    """One compiled program.

    Attributes:
        name: What statements call it.
        kind: How to run it: `onnx` or `llvm`.
        file: Its path inside the bundle.
        inputs: What it reads; the signature's inputs, but for the dtypes.
        batch_invariant: Whether a row's answer has the same bits in every batch.
        tolerance: The parity that it was held to.
        precision: How it computes, for people to read.
        missing_text: The text that stands for a missing one inside the program.
        texts: How texts are prepared for it; None where it counts no words.
        features: What it reads of the model's own steps, which run in front of it in a process of
            their own; None where it reads the inputs themselves.
    """

    name: str
    kind: str
    file: str
    inputs: tuple[Field, ...]
    batch_invariant: bool
    tolerance: float
    precision: str = ""
    missing_text: str | None = None
    texts: Texts | None = None
    features: Field | None = None

    def to_json(self) -> dict[str, Any]:
        return _fields_json(self, optional=("texts", "features"))


@dataclass(frozen=True, slots=True)
class OriginalEntry:
    """The model as it was trained, and how to hand it a table as it was trained on.

    Attributes:
        file: Its path inside the bundle.
        format: `skops`, `onnx`, or another of those in `bundle.originals.saved`.
        requires: Distribution names and the exact versions that it was saved with.
        frame: How its flavor rebuilds the container of the training data.
    """

    file: str
    format: str
    requires: Mapping[str, str]
    frame: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model is. The digest of its canonical JSON is the bundle's identity.

    `classes` are a classifier's, `targets` those of a model with several outputs.
    `allows_non_finite` says that NaN and infinite values are answers of this model, not failures.
    """

    name: str
    flavor: str
    task: str
    classes: tuple[Label, ...] | None
    signature: Signature
    original: OriginalEntry
    programs: tuple[ProgramEntry, ...]
    serves: str
    files: Mapping[str, FileEntry]
    targets: tuple[Target, ...] = ()
    allows_non_finite: bool = False
    schema_version: int = SCHEMA_VERSION
    digest_on_disk: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        without_digest = replace(self, digest_on_disk="")
        optional = ("targets", "allows_non_finite", "digest_on_disk")
        made = _fields_json(without_digest, optional=optional)
        return {"schema_version": self.schema_version, **made}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """What `to_json` wrote; raises `Untrusted` where it is something else."""
        return replace(shaped(value, cls, MANIFEST, what="a manifest"), digest_on_disk="")

    @property
    def digest(self) -> str:
        """The bundle's identity: of the bytes that were read, or else that would be written."""
        if self.digest_on_disk:
            return self.digest_on_disk
        return sha256_bytes(canonical_json(self.to_json()))

    @property
    def served(self) -> ProgramEntry | None:
        """The compiled program that runs everywhere; None when the original answers."""
        return self.program(self.serves)

    def program(self, name: str) -> ProgramEntry | None:
        """The compiled program of that name."""
        return next((entry for entry in self.programs if entry.name == name), None)

    @property
    def size_bytes(self) -> int:
        """What its files take on disk."""
        return sum(entry.bytes for entry in self.files.values())


@dataclass(frozen=True, slots=True)
class Statement:
    """Something said about a bundle: a measurement, a verdict, where it came from."""

    kind: str
    subject: str
    at: str
    by: str
    body: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "subject": self.subject,
            "at": self.at,
            "by": self.by,
            "body": dict(self.body),
        }

    @property
    def file_name(self) -> str:
        digest = sha256_bytes(canonical_json(self.to_json())).removeprefix("sha256:")
        return f"{self.kind}-{digest[:12]}.json"
