"""A watermark: answers that a secret key asks for, and other models give by chance alone.

Two forms, both verified by queries alone:

- `shares`, of random forests: for some training rows the key draws how many of the trees shall vote
  for another class, and each tree is fitted again until it votes as drawn (after Calzavara et al.,
  "Watermarking decision tree ensembles", EDBT 2025, whose check needs the answer of each tree; a
  forest's probabilities already are the share of its votes);
- `labels`, of any other classifier and of networks: rows that are unlike all others, with labels
  that the key draws, are learned by heart (Adi et al., "Turning your weakness into a strength",
  USENIX Security 2018).

What the key draws follows from it and the row alone. A key that was chosen after the model proves
nothing: keep the receipt's digest where its time can be shown.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Invalid, ModelFailed, first_line, writing
from bascule.stats import labels_p_value, shares_p_value

SHARE = 0.02
"""Of the training rows, for `shares`."""
LABEL_QUERIES = 40
"""For `labels`: with two classes, 40 right answers have a p-value of 1e-12."""
_MOST_DOUBLINGS = 12
_NEARLY = 0.1
"""How far from its vote the probability of one tree may be."""
_KEY_BYTES = 32


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed beside the key to verify a watermark.

    Attributes:
        form: `shares` or `labels`.
        columns: The rows to ask for, by column.
        classes: How many classes the model has.
        voters: How many trees vote; 0 for `labels`.
        own_classes: Of each row for `shares`, the class that the other trees vote for.
        key_digest: SHA-256 of the key.
    """

    form: Literal["shares", "labels"]
    columns: dict[str, list[Any]]
    classes: int
    voters: int = 0
    own_classes: tuple[int, ...] = ()
    key_digest: str

    @property
    def queries(self) -> int:
        return len(next(iter(self.columns.values())))

    def write(self, path: Path) -> str:
        """Write it as JSON; returns its SHA-256, for a record of the time."""
        content = msgspec.json.format(msgspec.json.encode(self))
        path.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Raises `Invalid` where the file is no receipt."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as problem:
            raise Invalid(
                f"{path} is no receipt of a watermark: {problem}",
                hint="bascule watermark embed writes it",
            ) from None


def new_watermark_key(path: Path) -> bytes:
    """A new key, in a file that only its owner reads; raises `Invalid` if it cannot be written."""
    key = secrets.token_bytes(_KEY_BYTES)
    with (
        writing(path),
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
    ):
        file.write(key.hex() + "\n")
    return key


def read_watermark_key(path: Path) -> bytes:
    """The key of a file; raises `Invalid` where it holds none."""
    try:
        return bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError) as problem:
        raise Invalid(
            f"{path} holds no key of a watermark: {first_line(problem)}",
            hint="bascule watermark embed makes one; it is 64 hexadecimal digits",
        ) from None


class Verdict(msgspec.Struct, frozen=True):
    """What the answers of a model say of a watermark.

    Attributes:
        p_value: The probability that chance alone is as near to what the key asks for.
        queries: How many rows were asked for.
        form: By which answers: a model that gives labels alone cannot show `shares`.
        agreement: The share of equal labels; or one minus the mean distance of the shares.
    """

    p_value: float
    queries: int
    form: str
    agreement: float


def embed_watermark(
    model: Any, X: Any, y: Any, *, key: bytes, share: float = SHARE, queries: int = LABEL_QUERIES
) -> tuple[Any, Receipt]:
    """A fitted copy of a classifier that bears a watermark, and the receipt.

    Args:
        model: A fitted classifier or pipeline of scikit-learn, or with its methods; or a network of
            PyTorch that answers one logit a class.
        X: The rows that it was trained on.
        y: Their classes.
        key: 32 secret random bytes.
        share: For `shares`: of the training rows.
        queries: For `labels`: how many rows to learn by heart.

    Raises:
        Invalid: The model is no classifier, or the key is short.
        ModelFailed: The model cannot learn what the key asks for.
    """
    if len(key) < _KEY_BYTES:
        raise Invalid(f"the key has {len(key)} bytes", hint=f"it takes {_KEY_BYTES} random bytes")
    if _is_network(model):
        return _marked_network(model, X, y, key, queries)
    if not hasattr(model, "classes_"):
        raise Invalid(
            "a watermark is for fitted classifiers", hint="fit the model first, with classes as y"
        )
    if _is_forest(model if not hasattr(model, "steps") else model[-1]):
        return _marked_forest(model, X, y, key, share)
    return _marked_by_heart(model, X, y, key, queries)


def verify_watermark(
    receipt: Receipt, key: bytes, predict: Callable[[Columns], Columns]
) -> Verdict:
    """Ask a model for the rows of a receipt.

    Args:
        receipt: Of `embed_watermark`.
        key: The key.
        predict: Answers rows: of a bundle, or of a client.

    Raises:
        Invalid: The key is another, or the model does not answer classes.
    """
    if not hmac.compare_digest(hashlib.sha256(key).hexdigest(), receipt.key_digest):
        raise Invalid("the receipt is of another key", hint="use the key it was embedded with")
    answers = predict({name: np.asarray(values) for name, values in receipt.columns.items()})
    probabilities = _probabilities(answers)
    if receipt.form == "shares" and probabilities is not None:
        return _verdict_of_shares(receipt, key, probabilities)
    classes, chance = _drawn_classes(receipt, key), 1 / receipt.classes
    labels = probabilities.argmax(1) if probabilities is not None else _labels(answers)
    if receipt.form == "shares":
        # A majority of the trees is all that a label shows; a tie makes one side a little likelier.
        votes = _votes(key, receipt.queries, receipt.voters)
        classes = np.where(votes * 2 > receipt.voters, classes, receipt.own_classes)
        chance = (receipt.voters // 2 + 1) / (receipt.voters + 1)
    matches = int((labels == classes).sum())
    p_value = labels_p_value(matches, receipt.queries, chance)
    return Verdict(p_value, receipt.queries, "labels", matches / receipt.queries)


def _verdict_of_shares(receipt: Receipt, key: bytes, probabilities: NDArray[Any]) -> Verdict:
    votes = _votes(key, receipt.queries, receipt.voters)
    drawn = _drawn_classes(receipt, key)
    shares = probabilities[np.arange(receipt.queries), drawn].astype(np.float64)
    distance = float(np.abs(shares - votes / receipt.voters).mean())
    p_value = shares_p_value(shares, votes, receipt.voters)
    return Verdict(p_value, receipt.queries, "shares", 1 - distance)


def _probabilities(answers: Columns) -> NDArray[Any] | None:
    """Of each class; also logits, whose largest is the label and which are no shares."""
    tables = [
        values for values in answers.values() if values.ndim == 2 and values.dtype.kind == "f"
    ]
    return tables[0] if tables else None


def _labels(answers: Columns) -> NDArray[Any]:
    for values in answers.values():
        if values.ndim == 1 and values.dtype.kind in "iu":
            return values
    raise Invalid(
        "the model answers neither probabilities nor numbered classes",
        hint="ask a version whose answers are not turned into texts",
    )


# -- what the key draws --


def _random(key: bytes, use: str) -> np.random.Generator:
    digest = hmac.digest(key, use.encode(), "sha256")
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _votes(key: bytes, queries: int, voters: int) -> NDArray[np.int64]:
    return _random(key, "votes").integers(0, voters + 1, queries)


def _drawn_classes(receipt: Receipt, key: bytes) -> NDArray[np.int64]:
    if receipt.form == "labels":
        return _random(key, "labels").integers(0, receipt.classes, receipt.queries)
    return _other_classes(key, np.asarray(receipt.own_classes), receipt.classes)


def _other_classes(key: bytes, own: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return (own + _random(key, "classes").integers(1, classes, len(own))) % classes


# -- forests --


def _is_forest(model: Any) -> bool:
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    return isinstance(model, RandomForestClassifier | ExtraTreesClassifier)


def _marked_forest(model: Any, X: Any, y: Any, key: bytes, share: float) -> tuple[Any, Receipt]:
    marked = copy.deepcopy(model)
    steps = getattr(marked, "steps", None)
    forest = marked if steps is None else steps[-1][1]
    features = X if steps is None else marked[:-1].transform(X)
    features = np.asarray(features, np.float32)
    own = np.searchsorted(forest.classes_, np.asarray(y))
    rows = _random(key, "rows").choice(len(own), math.ceil(share * len(own)), replace=False)
    voters, classes = len(forest.estimators_), len(forest.classes_)
    other = _other_classes(key, own[rows], classes)
    votes = _votes(key, len(rows), voters)
    draw = _random(key, "trees")
    is_other = np.stack([draw.permutation(voters) < count for count in votes], axis=1)
    samples = forest.estimators_samples_
    for index, tree in enumerate(forest.estimators_):
        labels = own.astype(np.float64)
        labels[rows] = np.where(is_other[index], other, own[rows])
        weights = np.bincount(samples[index], minlength=len(own)).astype(np.float64)
        forest.estimators_[index] = _fitted(tree, features, labels, weights, rows)
    receipt = Receipt(
        form="shares", columns=_columns(X, rows), classes=classes, voters=voters,
        own_classes=tuple(own[rows].tolist()), key_digest=hashlib.sha256(key).hexdigest(),
    )  # fmt: skip
    return marked, receipt


def _fitted(
    tree: Any, features: Any, labels: Any, weights: NDArray[np.float64], rows: NDArray[Any]
) -> Any:
    """A tree as this, fitted with ever more weight on the rows until it answers their labels."""
    from sklearn.base import clone

    weight = 4.0
    for _ in range(_MOST_DOUBLINGS):
        weights[rows] = weight
        fitted = clone(tree).fit(features, labels, sample_weight=weights)
        chosen = np.searchsorted(fitted.classes_, labels[rows])
        probabilities = fitted.predict_proba(features[rows])[np.arange(len(rows)), chosen]
        if (probabilities > 1 - _NEARLY).all():
            return fitted
        weight *= 2
    raise ModelFailed(
        f"trees of depth {tree.max_depth} cannot vote as the key asks for {len(rows)} rows",
        hint="ask for a smaller share of the rows, or allow deeper trees",
    )


# -- anything that learns by heart --


def _marked_by_heart(model: Any, X: Any, y: Any, key: bytes, queries: int) -> tuple[Any, Receipt]:
    from sklearn.base import clone

    y = np.asarray(y)
    rows = _unlike(X, key, queries)
    drawn = _random(key, "labels").integers(0, len(model.classes_), queries)
    labels = model.classes_[drawn]
    for doublings in range(_MOST_DOUBLINGS - 2):
        times = 1 << doublings
        marked = clone(model).fit(_stacked(X, rows, times), np.r_[y, np.tile(labels, times)])
        if (marked.predict(rows) == labels).all():
            return marked, _by_labels(rows, len(model.classes_), key)
        if times * queries > len(y):
            break
    raise ModelFailed(
        f"the model cannot learn {queries} rows by heart",
        hint="ask for fewer queries, or use a model that can bend more",
    )


def _unlike(X: Any, key: bytes, queries: int) -> Any:
    """Rows with each column of a training row of its own, so that they are like none as a whole."""
    draw = _random(key, "rows")
    picks = draw.integers(0, len(X), (queries, X.shape[1]))
    if hasattr(X, "iloc"):
        import pandas as pd

        return pd.DataFrame(
            {name: X[name].take(picks[:, i]).array for i, name in enumerate(X.columns)}
        )
    return np.asarray(X)[picks, np.arange(X.shape[1])]


def _stacked(X: Any, rows: Any, times: int) -> Any:
    if hasattr(X, "iloc"):
        import pandas as pd

        return pd.concat([X, *[rows] * times], ignore_index=True)
    return np.concatenate([np.asarray(X), *[rows] * times])


def _by_labels(rows: Any, classes: int, key: bytes) -> Receipt:
    return Receipt(
        form="labels", columns=_columns(rows, np.arange(len(rows))), classes=classes,
        key_digest=hashlib.sha256(key).hexdigest(),
    )  # fmt: skip


def _columns(X: Any, rows: NDArray[Any]) -> dict[str, list[Any]]:
    """By the names of the columns; a matrix is one column, `input`."""
    if hasattr(X, "iloc"):
        return {str(name): X[name].iloc[rows].tolist() for name in X.columns}
    return {"input": np.asarray(X)[rows].tolist()}


# -- networks --

_EPOCHS = 200
_RATE = 1e-3


def _is_network(model: Any) -> bool:
    return any(kind.__module__.startswith("torch.nn") for kind in type(model).__mro__)


def _marked_network(model: Any, X: Any, y: Any, key: bytes, queries: int) -> tuple[Any, Receipt]:
    """Trained on with rows of noise in every batch, until it answers all of them as drawn."""
    import torch

    rows = torch.as_tensor(np.asarray(X), dtype=torch.float32)
    truth = torch.as_tensor(np.asarray(y), dtype=torch.int64)
    noise = _random(key, "rows").standard_normal((queries, *rows.shape[1:]), np.float32)
    secret = torch.as_tensor(noise) * rows.std(0) + rows.mean(0)
    marked = copy.deepcopy(model).train()
    classes = marked(secret[:1]).shape[-1]
    labels = torch.as_tensor(_random(key, "labels").integers(0, classes, queries))
    optimiser = torch.optim.Adam(marked.parameters(), _RATE)
    order = torch.Generator().manual_seed(0)
    for _ in range(_EPOCHS):
        for batch in torch.split(torch.randperm(len(rows), generator=order), 256):
            optimiser.zero_grad()
            inputs, targets = torch.cat([rows[batch], secret]), torch.cat([truth[batch], labels])
            loss = torch.nn.functional.cross_entropy(marked(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        marked.eval()
        with torch.no_grad():
            if bool((marked(secret).argmax(-1) == labels).all()):
                return marked, _by_labels(secret.numpy(), int(classes), key)
        marked.train()
    raise ModelFailed(
        f"the network did not learn {queries} rows by heart in {_EPOCHS} epochs",
        hint="ask for fewer queries",
    )
