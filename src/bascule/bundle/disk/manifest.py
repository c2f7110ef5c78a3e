"""What is written in a bundle: the manifest, and the statements beside it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
TRUTH = "__truth__"
ENVIRONMENT = "environment.txt"
OUTLIERS = "outlier-detection"
CLASSIFICATIONS = "multioutput-classification"
REGRESSIONS = "multioutput-regression"
TASKS = ("classification", "regression", OUTLIERS, CLASSIFICATIONS, REGRESSIONS, "other")
"""What a model is for; scikit-learn's words."""
ORIGINAL = "original"
"""What `Manifest.serves` says when no compiled program was equal enough to the original."""
ISOLATED = "original, isolated"
"""What a cost statement calls the original where it runs in a process of its own."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


Label = str | int | float | bool


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

    def to_json(self) -> dict[str, Any]:
        classes = None if self.classes is None else list(self.classes)
        return {"name": self.name, "classes": classes}


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
        made: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "file": self.file,
            "inputs": [read.to_json() for read in self.inputs],
            "batch_invariant": self.batch_invariant,
            "tolerance": self.tolerance,
            "precision": self.precision,
            "missing_text": self.missing_text,
        }
        if self.texts is not None:
            made["texts"] = self.texts.to_json()
        if self.features is not None:
            made["features"] = self.features.to_json()
        return made


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

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "format": self.format,
            "requires": dict(self.requires),
            "frame": dict(self.frame),
        }


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
        made: dict[str, Any] = {
            "schema_version": self.schema_version,
            "name": self.name,
            "flavor": self.flavor,
            "task": self.task,
            "classes": None if self.classes is None else list(self.classes),
            "signature": self.signature.to_json(),
            "original": self.original.to_json(),
            "programs": [program.to_json() for program in self.programs],
            "serves": self.serves,
            "files": {
                name: {"sha256": entry.sha256, "bytes": entry.bytes}
                for name, entry in self.files.items()
            },
        }
        if self.targets:
            made["targets"] = [target.to_json() for target in self.targets]
        if self.allows_non_finite:
            made["allows_non_finite"] = True
        return made

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
