"""Answers of linear models on rows that the server cannot read: CKKS (Cheon et al. 2017).

The client encrypts by TenSEAL, each column, 4,096 rows a ciphertext. The server multiplies a column
by its weight and adds up, which takes no key at all; the client decrypts the margins and applies
the link. What the server learns is how many rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining import LINKS, open_explainer, read_explanation
from bascule.core import Columns, DType, Invalid, library, replacing

if TYPE_CHECKING:
    from bascule.bundle.loaded import Bundle

ROWS_AT_ONCE = 4_096
_DEGREE, _BITS, _SCALE = 2 * ROWS_AT_ONCE, (60, 40, 60), 2.0**40
"""128 bits of security (HomomorphicEncryption.org standard, table 1), and one multiplication."""
_LINEAR = 1e-6


class Encrypted(msgspec.Struct, frozen=True):
    """Rows, or the margins of their answers.

    Attributes:
        rows: How many.
        values: The ciphertexts of each column, or of the margins of each output.
        context: Of rows: what they were encrypted with, without a key.
        link: Of margins: what makes answers of them.
        answer: Of margins: the output of the model.
    """

    rows: int
    values: dict[str, list[bytes]]
    context: bytes = b""
    link: str = ""
    answer: str = ""


def new_client_key(path: Path) -> None:
    """Make a client's key, in a file that only its owner reads; it must not be there yet."""
    tenseal = library("tenseal", "encrypted")
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, _DEGREE, coeff_mod_bit_sizes=[*_BITS])
    context.global_scale = _SCALE
    with replacing(path, overwrite=False) as draft:
        draft.touch(0o600)
        draft.write_bytes(context.serialize(save_secret_key=True))


def encrypt_rows(key: Path, columns: Mapping[str, NDArray[Any]]) -> Encrypted:
    """Numbers encrypted by a client's key; raises `Invalid` where a value is missing or a text."""
    tenseal = library("tenseal", "encrypted")
    context = tenseal.context_from(key.read_bytes())
    encrypted: dict[str, list[bytes]] = {}
    for name, values in columns.items():
        if values.dtype.kind not in "iufb" or not np.isfinite(values).all():
            raise Invalid(
                f"{name}: only numbers that are there can be encrypted",
                hint="fill in missing values first",
            )
        encrypted[name] = [
            tenseal.ckks_vector(context, values[at : at + ROWS_AT_ONCE].tolist()).serialize()
            for at in range(0, len(values), ROWS_AT_ONCE)
        ]
    bare = context.serialize(
        save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return Encrypted(len(next(iter(columns.values()))), encrypted, context=bare)


def answer_encrypted(bundle: Bundle, rows: Encrypted) -> Encrypted:
    """The margins of encrypted rows.

    Raises:
        Invalid: The margins of the model are not linear in its input columns, a column is no
            number, or the rows have other columns.
    """
    explanation = read_explanation(bundle.path, bundle.manifest)
    inputs = bundle.signature.inputs
    are_numbers = not any(field.dtype is DType.BYTES or field.shape for field in inputs)
    if explanation is None or explanation.method != "linear" or not are_numbers:
        raise _not_linear()
    explainer = open_explainer(bundle.path, bundle.manifest, explanation)
    if set(rows.values) != set(explainer.columns):
        names = ", ".join(explainer.columns)
        raise Invalid(f"the columns are not {names}", hint="encrypt these columns")
    probes = {field.name: np.array([0, 1, -3], field.dtype.numpy) for field in inputs}
    at = explainer.attributions(probes)
    weights = at[1] - at[0]
    is_linear = np.abs(at[2] - at[0] + 3 * weights).max() <= _LINEAR * np.abs(at).max()
    if not is_linear or not weights.any(axis=0).all():
        raise _not_linear()
    intercepts = explainer.base + at[0].sum(axis=0)
    tenseal = library("tenseal", "encrypted")
    context = tenseal.context_from(rows.context)
    outputs: dict[str, list[bytes]] = {name: [] for name in explainer.outputs}
    for part in range(-(-rows.rows // ROWS_AT_ONCE)):
        values = [
            tenseal.ckks_vector_from(context, rows.values[name][part]) for name in explainer.columns
        ]
        for place, name in enumerate(outputs):
            # A weight of 0 would give away a ciphertext without noise, and adds nothing.
            pairs = zip(values, weights[:, place].tolist(), strict=True)
            terms = [value * weight for value, weight in pairs if weight]
            margin: Any = sum(terms, float(intercepts[place]))
            outputs[name].append(margin.serialize())
    return Encrypted(rows.rows, outputs, link=explanation.link, answer=explanation.answer)


def decrypt_answers(key: Path, margins: Encrypted) -> Columns:
    """The answers, by the name of the model's output: shape (rows, places)."""
    tenseal = library("tenseal", "encrypted")
    context = tenseal.context_from(key.read_bytes())
    columns = [
        np.concatenate([tenseal.ckks_vector_from(context, part).decrypt() for part in parts])
        for parts in margins.values.values()
    ]
    return {margins.answer: LINKS[margins.link](np.stack(columns, axis=1)[: margins.rows])}


def _not_linear() -> Invalid:
    return Invalid(
        "only models that are linear in named columns of numbers answer encrypted rows",
        hint="pack a linear model with explanations, without imputation, bins and splines",
    )
