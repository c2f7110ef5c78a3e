"""Links: from the sums that are explained to what the model answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Link = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From margins, shape (rows, outputs), to answers, shape (rows, places)."""


def _softmax(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _logit(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """One margin is of the second of two classes; several are each of a class of its own."""
    shares = 1 / (1 + np.exp(-margins))
    return np.hstack([1 - shares, shares]) if shares.shape[1] == 1 else shares


LINKS: Mapping[str, Link] = MappingProxyType(
    {"identity": np.asarray, "logit": _logit, "softmax": _softmax, "log": np.exp}
)
"""By name. The name is that of the inverse, as in generalised linear models: `logit` says that the
margin is the logit of the answer."""


def differences(
    link: str, margins: NDArray[np.float64], answers: NDArray[Any]
) -> NDArray[np.float64]:
    """By row: the largest difference of the linked margins from the model's own answers.

    Of answers larger than 1 it is relative to them. Infinite where the shapes differ; NaN where
    one of the two is.
    """
    own = np.asarray(answers, np.float64)
    own = own.reshape(len(own), math.prod(own.shape[1:]))
    with np.errstate(over="ignore"):
        linked = LINKS[link](margins)
    if linked.shape != own.shape:
        return np.full(len(margins), np.inf)
    return np.asarray(np.max(np.abs(linked - own) / np.maximum(1.0, np.abs(own)), axis=1))
