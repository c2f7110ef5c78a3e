"""Yesterday's bundles stay readable: a change of the format that breaks this needs a new schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import bascule
from bascule.bundle.originals import is_as_saved
from bascule.core.errors import Untrusted
from bascule.core.fields import DType, Field

OWN_CODE = Path(__file__).parents[2] / "golden" / "bundle_own_code"
OWN_CODE_DIGEST = "sha256:1c00dbdc8359d772ee72ace3424641228ac510ec3e32a924b7b6662008951dcd"
GOLDEN = Path(__file__).parents[2] / "golden" / "bundle_v1"
DIGEST = "sha256:ef3a349cbc4a58cbd74bc2df5206c8c5ae10259c413f8d23bcc51a5f56804acc"


def test_the_first_format_is_read_with_the_digest_it_had():
    bundle = bascule.load(GOLDEN)
    assert bundle.digest == DIGEST
    assert bundle.name == "golden"
    assert bundle.task == "classification"
    assert bundle.classes == ("late", "on time")
    assert bundle.signature.inputs == (
        Field("carrier", DType.BYTES, nullable=True),
        Field("wind", DType.FP64, nullable=True),
        Field("rain", DType.BOOL),
    )
    assert bundle.signature.outputs == (
        Field("label", DType.BYTES),
        Field("probabilities", DType.FP64, (2,)),
    )


def test_the_first_format_answers_as_it_did():
    bundle = bascule.load(GOLDEN)
    columns, truth = bundle.test_data()
    answer = bundle.predict(columns)
    assert answer["label"].tolist() == truth.tolist()
    late = 0.5943247863706251
    np.testing.assert_allclose(
        answer["probabilities"][:, 0], [1 - late] * 3 + [late] * 3, rtol=1e-12
    )


def test_what_was_said_of_the_first_format_is_understood():
    bundle = bascule.load(GOLDEN)
    assert bundle.parity.passed
    assert bundle.parity.rows == 9
    assert set(bundle.cost.latency_us) == {"onnx", "original"}
    (provenance,) = bundle.statements("provenance")
    assert provenance.by == "bascule"
    assert provenance.body["train"]["rows"] == 60


def test_a_model_with_code_of_its_own_is_read_with_the_digest_it_had():
    bundle = bascule.load(OWN_CODE)
    assert bundle.digest == OWN_CODE_DIGEST
    assert bundle.manifest.original.format == "sklearn-pickle"
    assert bundle.manifest.serves == "original"
    assert bundle.signature.inputs == (Field("input", DType.FP64, (2,)),)


def test_its_pickle_answers_as_it_did_or_says_which_versions_it_needs():
    bundle = bascule.load(OWN_CODE)
    columns, truth = bundle.test_data()
    may_refuse = () if is_as_saved(bundle.manifest.original) else (Untrusted,)
    why = ""
    try:
        answer = bundle.predict(columns)
    except may_refuse as refused:
        why = refused.message
    if why:
        assert "was saved with" in why
        return
    assert answer["label"].tolist() == truth.tolist()
    np.testing.assert_allclose(
        answer["probabilities"][:2, 1], [0.6589328366320388, 0.8246458315069002], rtol=1e-9
    )
