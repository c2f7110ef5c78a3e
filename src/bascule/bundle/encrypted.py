"""Answers of linear models on rows that the server cannot read: CKKS (Cheon et al. 2017).

The client encrypts by TenSEAL, each column, 4,096 rows a ciphertext. The server multiplies a column
by its weight and adds up, which takes no key at all; the client decrypts the margins and applies
the link. What the server learns is how many rows there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining import LINKS, open_explainer, read_explanation
from bascule.core import Columns, DType, Invalid, MissingExtra

if TYPE_CHECKING:
    from bascule.bundle.loaded import Bundle

ROWS_AT_ONCE = 4_096
_DEGREE, _BITS, _SCALE = 2 * ROWS_AT_ONCE, (60, 40, 60), 2.0**40
"""128 bits of security (HomomorphicEncryption.org standard, table 1), and one multiplication."""
_LINEAR = 1e-6


class EncryptedRows(msgspec.Struct, frozen=True):
    """What a client sends: a context without a key, and the ciphertexts of each column."""

    context: bytes
    rows: int
    columns: dict[str, list[bytes]]


class EncryptedMargins(msgspec.Struct, frozen=True):
    """What a server answers: ciphertexts of each output's margins, and the link to apply."""

    rows: int
    link: str
    answer: str
    outputs: dict[str, list[bytes]]


def new_client_key(path: Path) -> None:
    """Make a client's key, in a file that only its owner reads; it must not be there yet."""
    context = _tenseal().context(
        _tenseal().SCHEME_TYPE.CKKS, poly_modulus_degree=_DEGREE, coeff_mod_bit_sizes=list(_BITS)
    )
    context.global_scale = _SCALE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(context.serialize(save_secret_key=True))


def encrypt_rows(key: Path, columns: Mapping[str, NDArray[Any]]) -> EncryptedRows:
    """Numbers encrypted by a client's key; raises `Invalid` where a value is missing or a text."""
    context = _tenseal().context_from(key.read_bytes())
    numbers = {}
    for name, values in columns.items():
        if values.dtype.kind not in "iufb" or not np.isfinite(values).all():
            raise Invalid(
                f"{name}: only numbers that are there can be encrypted",
                hint="fill in missing values first",
            )
        numbers[name] = values.astype(np.float64)
    rows = len(next(iter(numbers.values())))
    encrypted = {
        name: [
            _tenseal().ckks_vector(context, part.tolist()).serialize() for part in _parts(values)
        ]
        for name, values in numbers.items()
    }
    bare = context.serialize(
        save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return EncryptedRows(bare, rows, encrypted)


def _parts(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [values[at : at + ROWS_AT_ONCE] for at in range(0, len(values), ROWS_AT_ONCE)]


class EncryptedModel:
    """The weights of a bundle whose margins are linear in its input columns."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises `Invalid` where the margins are not linear, or a column is no number."""
        explanation = read_explanation(bundle.path, bundle.manifest)
        inputs = bundle.signature.inputs
        if explanation is None or explanation.method != "linear" or bundle.signature.is_matrix:
            raise Invalid(
                "only linear models with named columns answer encrypted rows",
                hint="pack a linear model with explanations, on a table",
            )
        if any(field.dtype is DType.BYTES or field.shape for field in inputs):
            raise Invalid("a column is no number", hint="pack a model of numbers alone")
        self._explanation = explanation
        self._explainer = open_explainer(bundle.path, bundle.manifest, explanation)
        places = {field.name: np.array([0, 1, -3], field.dtype.numpy) for field in inputs}
        at = self._explainer.attributions(places)
        self.weights = at[1] - at[0]
        if np.abs(at[2] - at[0] + 3 * self.weights).max() > _LINEAR * np.abs(at).max():
            raise Invalid(
                "the model is not linear in a column: it is changed before",
                hint="leave out imputation, bins and splines",
            )
        if not self.weights.any(axis=0).all():
            raise Invalid("an output depends on no column", hint="there is nothing to compute")
        self.intercepts = self._explainer.base + at[0].sum(axis=0)

    def answer(self, encrypted: EncryptedRows) -> EncryptedMargins:
        """The margins of encrypted rows; raises `Invalid` where a column is not there."""
        names = self._explainer.columns
        if set(encrypted.columns) != set(names):
            raise Invalid(f"the columns are not {', '.join(names)}", hint="encrypt these columns")
        context = _tenseal().context_from(encrypted.context)
        outputs: dict[str, list[bytes]] = {name: [] for name in self._explainer.outputs}
        for part in range(-(-encrypted.rows // ROWS_AT_ONCE)):
            values = [
                _tenseal().ckks_vector_from(context, encrypted.columns[name][part])
                for name in names
            ]
            for place, name in enumerate(outputs):
                outputs[name].append(self._margin(values, place).serialize())
        about = self._explanation
        return EncryptedMargins(encrypted.rows, about.link, about.answer, outputs)

    def _margin(self, values: Sequence[Any], place: int) -> Any:
        weights = self.weights[:, place].tolist()
        # A weight of 0 would give away a ciphertext without noise, and adds nothing.
        terms = [value * weight for value, weight in zip(values, weights, strict=True) if weight]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total + float(self.intercepts[place])


def decrypt_answers(key: Path, margins: EncryptedMargins) -> Columns:
    """The answers, by the name of the model's output: shape (rows, places)."""
    context = _tenseal().context_from(key.read_bytes())
    columns = [
        np.concatenate(
            [np.array(_tenseal().ckks_vector_from(context, part).decrypt()) for part in parts]
        )
        for parts in margins.outputs.values()
    ]
    return {margins.answer: LINKS[margins.link](np.stack(columns, axis=1)[: margins.rows])}


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError:
        raise MissingExtra(
            "encrypted rows need TenSEAL", hint="pip install 'bascule[encrypted]'"
        ) from None
    return tenseal
