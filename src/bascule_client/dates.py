"""Dates and times of a model as texts in ISO 8601, the form in which every protocol carries them.

A tensor of dates is BYTES, since the Open Inference Protocol has no type for them. A text has one
spelling inside: what a request writes in another is rewritten, so that equal moments are equal
texts. Values are kept to the microsecond, as Python and pandas 3 do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Dates(StrEnum):
    """What a column of dates holds."""

    DAY = "day"
    LOCAL = "local"
    INSTANT = "instant"

    @property
    def hint(self) -> str:
        """How to write such a value."""
        return _HINTS[self]

    @property
    def example(self) -> str:
        """A value in its one spelling."""
        return _EXAMPLES[self]


_EXAMPLES = {
    Dates.DAY: "2024-03-01",
    Dates.LOCAL: "2024-03-01T12:30:00",
    Dates.INSTANT: "2024-03-01T12:30:00Z",
}
_HINTS = {
    Dates.DAY: "send a day, such as 2024-03-01",
    Dates.LOCAL: "send a time without an offset, such as 2024-03-01T12:30:00: the model was "
    "trained on times without a zone",
    Dates.INSTANT: "send a time with its offset from UTC, such as 2024-03-01T12:30:00Z",
}


def canonical_date(text: str, dates: Dates) -> str:
    """The one spelling of a date.

    Raises:
        ValueError: It is no date in ISO 8601, has an offset where the column has none, or the
            other way round. A day may be written as its midnight, and a local midnight as its day.
    """
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is None) == (dates is Dates.INSTANT):
        raise ValueError("the offset from UTC is missing or is one too many")
    if dates is Dates.INSTANT:
        try:
            return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
        except OverflowError:  # the first or the last hours of the calendar
            raise ValueError("the time is outside of the calendar") from None
    if dates is Dates.LOCAL:
        return moment.isoformat()
    if moment.time() != datetime.min.time():
        raise ValueError("a time of day, where the column holds days")
    return moment.date().isoformat()


def texts_of(values: NDArray[Any], dates: Dates) -> NDArray[Any]:
    """datetime64 values, those of an instant in UTC, as texts; None for NaT.

    Raises:
        ValueError: A year is outside of 1 to 9999.
    """
    moments = values.astype("M8[D]" if dates is Dates.DAY else "M8[us]").tolist()
    return texts_of_objects(moments, dates)


def texts_of_objects(moments: Sequence[Any], dates: Dates) -> NDArray[Any]:
    """Python's dates or times, those of an instant in UTC, as texts; None stays None."""
    suffix = "Z" if dates is Dates.INSTANT else ""
    texts = np.empty(len(moments), object)
    for row, moment in enumerate(moments):
        if moment is None:
            continue
        if isinstance(moment, int):  # numpy's number for a year that Python has no date of
            raise ValueError("a year is outside of 1 to 9999")  # noqa: TRY004
        if isinstance(moment, datetime):
            moment = moment.replace(tzinfo=None)
        texts[row] = moment.isoformat() + suffix
    return texts


def moments_of(texts: NDArray[Any]) -> NDArray[np.datetime64]:
    """Texts in their one spelling as datetime64 in microseconds, of an instant in UTC."""
    plain = [None if text is None else text.removesuffix("Z") for text in texts.tolist()]
    return np.array(plain, "M8[us]")
