"""Numbers and texts from JSON into arrays, for every protocol that speaks JSON.

Numbers are parsed straight into arrays (simdjson), in the type that the program reads; text and
whatever does not fit that road take a slower one that finds the exact place of the mistake. Every
value is checked against its field on the way.

Keys that are given twice are found here, because simdjson and msgspec have no option that refuses
them. Python's parser has a hook, and takes 1.4 ms for 1,000 objects of 11 keys. Here keys are
counted against colons, and looked at one by one only where the counts differ: 0.9 ms, of which
simdjson takes 0.6.
"""

from __future__ import annotations

import json
import math
import re
from array import array as plain_array
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import simdjson
from numpy.typing import NDArray

from bascule.core import Dates, DType, Field, Invalid, TooLarge, canonical_date

MAX_VALUES = 1 << 21
"""How many values one body may have, texts and other Python objects among them.

Two bytes of JSON may be one value, which takes 20 bytes in the parser and up to 40 as an object of
Python. And simdjson counts in 24 bits: pysimdjson 7.0.2 writes a list that has more elements beyond
its end."""
_KEEP_PARSER_BYTES = 1 << 20
"""Below it a body cannot have `MAX_VALUES`."""
_MAX_DEPTH = 800
"""Of lists and objects of a body that is refused: what each version of Python reads."""
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_WEIGHTS = {b",": 1, b":": 1, b"[": 2, b"{": 6}
"""What comes with each of these, in values: an empty list of Python is as large as two numbers."""
_PIECE_BYTES = 1 << 16
_NUMBER_PROBLEMS = ("NUMBER", "BIGINT")
_MAX_PARTS = 8
"""More keys than a body of rows has in any protocol: with more it is refused by its first strange
one, so that nobody need look inside."""
_CONTAINERS = frozenset((dict, list))
_FLAGS = {0: False, 1: True}
"""Truths as numbers, as which numpy and some languages write them."""
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_UP_TO_WORD = re.compile(
    rb'((?:[^"NI-]++|' + _TEXT + rb"|N(?!aN)|-?I(?!nfinity)|-(?!I))*+)(NaN|-?Infinity)?", re.DOTALL
)
_WORDS = {b"NaN": b"null"}
INFINITE: dict[str, Any] = {"Infinity": None}
"""Stands for an infinite number in values from JSON, CSV and NPY: no field takes an object, and the
reader of its field refuses it with its place."""
_INFINITE_JSON = json.dumps(INFINITE).encode()
_TEXT_OR_LARGE_WHOLE = re.compile(_TEXT + rb"|(?<![\d.eE+-])-?\d{19,}+(?![.eE])", re.DOTALL)
_from_buffer = np.frombuffer
_dot = np.vdot  # the one product of numpy that does not warn when it overflows
_FLOAT64 = np.dtype(np.float64)
_INT64 = np.dtype(np.int64)
_LARGEST = float(np.finfo(np.float64).max)


class JsonParser:
    """Parses bodies, reusing one parser: not for concurrent use.

    `NaN`, which JSON does not have and Python's clients write, is null, and `Infinity` is
    `INFINITE`; a whole number over 64 bits, as which some languages write any large number, is the
    nearest float.
    """

    def __init__(self, expects: str, *, takes_nan: bool = True) -> None:
        """`expects` is an example of a body; without `takes_nan`, NaN and Infinity are refused."""
        self._parser = simdjson.Parser()
        self._expects = expects
        self._takes_nan = takes_nan

    @cached_property
    def aside(self) -> JsonParser:
        """The same, for use beside this one: see `transports.offload`."""
        return JsonParser(self._expects, takes_nan=self._takes_nan)

    def parse(self, body: bytes) -> Any:
        """The document, as simdjson's lazy values; nothing of it may be kept.

        Raises:
            Invalid: It is not JSON.
            TooLarge: It has over `MAX_VALUES` values.
        """
        parser = self._parser
        if len(body) > _KEEP_PARSER_BYTES:
            _check_values(body)
            parser = simdjson.Parser()  # a large document must not keep its memory
        try:
            return parser.parse(body)
        except (ValueError, RuntimeError):
            # Not JSON; or something of the last document is still referenced, by a traceback for
            # example. A parser of its own tells the one from the other.
            self._parser = simdjson.Parser()
            return _parse_carefully(self._parser, body, self._expects, self._takes_nan)

    def plain(self, body: bytes) -> Any:
        """The document as Python's own values.

        Raises:
            Invalid: It is not JSON, or an object of it has a key twice.
        """
        document = self.parse(body)
        if isinstance(document, simdjson.Object):
            made = document.as_dict()
            inside = body.count(b":") - len(made)
            if inside and inside != sum(map(_keys_inside, made.values())):
                _check_parts(document, made, body)
            return made
        if isinstance(document, simdjson.Array):
            rows = document.as_list()
            if body.count(b":") != _keys_inside(rows):
                _check_rows(document, rows, "rows")
                if body.count(b"{") != _objects_inside(rows) and _may_lack_keys(rows, body):
                    _check_below(document, rows, "rows")
            return rows
        return document


def _check_values(body: bytes) -> None:
    """Raise `TooLarge` for a body of too many values, before any of them is made."""
    octets = np.frombuffer(body, np.uint8)
    weights = [(ord(sign), weight) for sign, weight in _WEIGHTS.items()]
    values = 0
    for start in range(0, len(octets), _PIECE_BYTES):
        piece = octets[start : start + _PIECE_BYTES]
        for sign, weight in weights:
            values += weight * int(np.count_nonzero(piece == sign))
        if values > MAX_VALUES:
            raise TooLarge(
                f"the body has over {MAX_VALUES} values, where a list counts as 2 and an object "
                "as 6",
                hint="send fewer rows a request, or numbers as bytes",
                limit=MAX_VALUES,
            )


def refuse_twice(value: Any, where: object) -> None:
    """Raise `Invalid` where an object of simdjson has a key twice, and nobody knows which is meant.

    Looked up, the first is found; as a dictionary, it has the last.
    """
    seen: set[str] = set()
    for key in value:
        if key in seen:
            raise Invalid(f"{where}: {key[:128]!r} is given twice", hint="send every key once")
        seen.add(key)


def _keys_inside(part: Any) -> int:
    """How many keys a part of a body has, if it is an object or a list of objects.

    Every key that was sent brought a colon: where there are as many colons, none was lost. There
    are more where texts have some, and then it is looked who had how many keys.
    """
    if type(part) is dict:
        return len(part)
    if type(part) is list and part and type(part[0]) is dict:
        return sum([len(row) for row in part if type(row) is dict])
    return 0


def _objects_inside(part: Any) -> int:
    """How many objects `_keys_inside` has looked into; each brought a brace."""
    if type(part) is dict:
        return 1
    if type(part) is list and part and type(part[0]) is dict:
        return sum([type(row) is dict for row in part])
    return 0


def _check_parts(document: Any, made: dict[str, Any], body: bytes) -> None:
    if len(made) < len(document):
        refuse_twice(document, "the body")
    if len(made) > _MAX_PARTS:
        return
    for name, part in made.items():
        if type(part) is dict:
            inner = _below(document, name, "the body")
            if len(part) < len(inner):
                refuse_twice(inner, name)
        elif type(part) is list:
            _check_rows(_below(document, name, "the body"), part, name)
    objects = 1 + sum(map(_objects_inside, made.values()))
    if body.count(b"{") != objects and _may_lack_keys(made, body):
        for name, part in made.items():
            if type(part) in _CONTAINERS:
                _check_below(_below(document, name, "the body"), part, name)


def _check_rows(items: Any, rows: list[Any], place: str) -> None:
    if not rows or type(rows[0]) is not dict:
        return
    with suppress(TypeError):  # something without a length is among them
        if sum(map(len, items)) == sum(map(len, rows)):
            return
    for index, item in enumerate(items):
        if isinstance(item, simdjson.Object):
            refuse_twice(item, f"{place}[{index}]")


def _may_lack_keys(made: Any, body: bytes) -> bool:
    """Whether fewer keys are left in all objects than there were colons: see `_keys_inside`."""
    keys = 0
    rest = [made]
    while rest:
        values = rest.pop()
        if type(values) is dict:
            keys += len(values)
            values = values.values()
        if not _CONTAINERS.isdisjoint(map(type, values)):
            rest += [value for value in values if type(value) in _CONTAINERS]
    return keys != body.count(b":")


def _check_below(found: Any, made: Any, place: str) -> None:
    """Look into every object, however deep: a value may be one, such as `{"b64": "..."}`.

    By iterators that are kept, and not by calls: Python nests fewer of those than JSON may nest.
    """
    below = [_containers(found, made, place)]
    while below:
        inner = next(below[-1], None)
        if inner is None:
            below.pop()
        else:
            below.append(_containers(*inner))


def _containers(found: Any, made: Any, place: str) -> Iterator[tuple[Any, Any, str]]:
    """The lists and objects in one: as simdjson has them, as Python does, and their places."""
    if type(made) is dict:
        if len(made) < len(found):
            refuse_twice(found, place)
        for key, value in made.items():
            if type(value) in _CONTAINERS:
                yield _below(found, key, place), value, f"{place}.{key[:64]}"
    elif not _CONTAINERS.isdisjoint(map(type, made)):
        for index, (inner, value) in enumerate(zip(found, made, strict=True)):
            if type(value) in _CONTAINERS:
                yield inner, value, f"{place}[{index}]"


def _below(found: Any, key: str, place: str) -> Any:
    """What is under a key of an object of simdjson, which looks up no key that has a NUL."""
    if "\0" in key:
        raise Invalid(f"{place}: a key has the character NUL", hint="send keys without it")
    return found[key]


# -- what the quick parser does not read --


def _parse_carefully(parser: Any, body: bytes, expects: str, takes_nan: bool) -> Any:
    document, problem = _tried(parser, body)
    said = body
    if problem and (b"NaN" in body or b"Infinity" in body):
        said = _UP_TO_WORD.sub(_in_json, body)
        document, problem = _tried(parser, said)
        if not (problem or takes_nan):
            reason = "the body has NaN or Infinity as a value, and JSON has no such number"
            raise Invalid(reason, hint="leave the field out for its default")
    if problem.startswith(_NUMBER_PROBLEMS) and len(body) <= _KEEP_PARSER_BYTES:
        document, problem = _tried(parser, _TEXT_OR_LARGE_WHOLE.sub(_as_float, said))
    if problem:
        raise _unreadable(body, problem, expects)
    return document


def _tried(parser: Any, body: bytes) -> tuple[Any, str]:
    """The document, or what is wrong in the parser's words."""
    try:
        return parser.parse(body), ""
    except (ValueError, RuntimeError) as error:
        return None, str(error)


def _in_json(match: re.Match[bytes]) -> bytes:
    return match[1] + _WORDS.get(match[2], _INFINITE_JSON) if match[2] else match[1]


def _as_float(match: re.Match[bytes]) -> bytes:
    said = match[0]
    if said.startswith(b'"') or (len(said) <= 20 and -(2**63) <= int(said) < 2**64):
        return said
    value = float(said)
    return repr(value).encode() if math.isfinite(value) else said


def _unreadable(body: bytes, problem: str, expects: str) -> Invalid:
    """The refusal of a body, in words that do not depend on who parses it."""
    hint = f"send JSON, for example {expects}"
    if not body.strip():
        return Invalid("the body is empty", hint=hint)
    try:
        what = _first_mistake(body, problem)
    except _NoNumber as found:
        what = str(found)
        hint = "send null for a missing number, and numbers below 1.8e308"
    return Invalid(f"the body is not JSON: {what}", hint=hint)


class _NoNumber(Exception):
    """A number that JSON has, or the type of all its numbers, does not."""


def _first_mistake(body: bytes, problem: str) -> str:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"byte {error.start} is not UTF-8"
    is_short = len(body) <= _KEEP_PARSER_BYTES
    if problem.startswith("DEPTH") or (is_short and _depth(body) > _MAX_DEPTH):
        return "it is nested too deeply"
    if not is_short:
        return "it is cut off, or malformed"
    try:
        json.loads(text, parse_float=_finite, parse_int=_finite)
    except json.JSONDecodeError as error:
        rest = text[error.pos :]
        place = len(body) - len(rest.encode())
        if not rest.strip():
            return f"it ends after {len(body)} bytes, and is not complete"
        return f"{rest[:16]!r} at byte {place} is not what can stand there"
    if problem.startswith("STRING"):
        return "a text in it has an escape that stands for no character"
    return "it cannot be read"


def _depth(body: bytes) -> int:
    """How deep lists and objects are nested. Versions of Python differ in what they can read."""
    brackets = np.frombuffer(_TEXTS.sub(b"", body), np.uint8)
    steps = np.isin(brackets, list(b"[{")).astype(np.int64) - np.isin(brackets, list(b"]}"))
    return int(steps.cumsum().max(initial=0))


def _finite(digits: str) -> None:
    if math.isinf(float(digits)):
        raise _NoNumber(f"the number {digits[:32]} is too large")


class Place(Protocol):
    """Where in a request some values stand; put into words only when something is wrong there."""

    def __str__(self) -> str:
        """The list of values."""

    def value(self, position: int) -> str:
        """One of its values, counted in the order of the rows."""


def count_mismatch(found: int, expected: int, where: Place) -> Invalid:
    return Invalid(
        f"{where}: {found} values, where the shape makes {expected}",
        hint="shape and data must agree",
    )


class Listed:
    """A list of Python values, such as was gathered row by row, for a reader of values."""

    __slots__ = ("_values",)

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def as_buffer(self, *, of_type: str) -> plain_array[Any]:
        """The numbers; raises `TypeError` where there is anything else."""
        kinds = set(map(type, self._values))
        try:
            if of_type == "d" and kinds <= {int, float}:
                return plain_array("d", self._values)
            if of_type == "i" and kinds == {int}:
                return plain_array("q", self._values)
        except OverflowError:
            pass
        raise TypeError(of_type)

    def as_list(self) -> list[Any]:
        """The values as they are."""
        return self._values


ValuesReader = Callable[[Any, int, Place], NDArray[Any]]
"""From a list, the count of its values and what to call it, to a flat array."""


def values_reader(field: Field, target: DType) -> ValuesReader:
    """From a JSON list to a flat array of the program's type, each value checked."""
    if field.dtype.is_float:
        return _floats(field, target)
    if field.dtype.is_integer:
        return _integers(field, target.numpy)
    return _objects(field, target)


def _floats(field: Field, target: DType) -> Callable[[Any, int, Place], NDArray[Any]]:
    dtype = target.numpy
    low, high = bounds_of(field, target)
    largest = min(-low, high)
    narrow = largest < float(np.finfo(np.float64).max)
    # The sum of the squares is below the square of the largest only if every value is below it;
    # it is one quick call, where looking at every value is three.
    largest_squared = square_below(largest)
    wide = dtype.itemsize == 8
    known = known_numbers(field)

    def read(data: Any, count: int, where: Place) -> NDArray[Any]:
        try:
            array = _from_buffer(data.as_buffer(of_type="d"), _FLOAT64)
        except (TypeError, ValueError):
            array = _floats_one_by_one(flat(data.as_list()), field, where)
        if len(array) != count:
            raise count_mismatch(len(array), count, where)
        if known is not None:
            check_known(array, known, field, where)
        if not narrow or (wide and count == 1 and low <= array[0] <= high):
            return array
        if not _dot(array, array) <= largest_squared:  # true of NaN too, which is looked at there
            check_bounds(array, field, target, where)
        return array.astype(dtype, copy=False)

    return read


def bounds_of(field: Field, target: DType) -> tuple[float, float]:
    """The least and the largest number that the model takes and the program can hold.

    A number beyond the largest of FP32 or FP16 is held where it rounds to it: 3.4028235e38, for
    example, which is how the largest FP32 is usually written.
    """
    largest = _LARGEST if target is DType.FP64 else _largest_rounded(target)
    if field.bounds is None:
        return -largest, largest
    low, high = field.bounds
    return max(float(low), -largest), min(float(high), largest)


@cache
def _largest_rounded(target: DType) -> float:
    """The largest double that rounds to a finite number of a narrower type."""
    info = np.finfo(target.numpy)
    half_step = 2.0 ** (info.maxexp - info.nmant - 2)
    return math.nextafter(float(info.max) + half_step, 0.0)


def square_below(largest: float) -> float:
    """A sum of squares that is at most this one has no number beyond `largest`, nor NaN."""
    if largest < 0:
        return -1.0
    return (1 - 1e-15) * (largest * largest if largest < 1e154 else _LARGEST)


def check_bounds(array: NDArray[Any], field: Field, target: DType, where: Place) -> None:
    """Raise `Invalid` for the first number that is beyond `bounds_of`; NaN is none."""
    low, high = bounds_of(field, target)
    beyond = np.flatnonzero((array < low) | (array > high))
    if not len(beyond):
        return
    place = int(beyond[0])
    if field.bounds is not None and not field.bounds[0] <= array[place] <= field.bounds[1]:
        raise Invalid(
            f"{where.value(place)}: {array[place]:g} is a number that the model refuses",
            hint=f"it takes {low:g} to {high:g}",
        )
    raise Invalid(
        f"{where.value(place)}: {array[place]:g} does not fit {target.value}",
        hint=f"the model computes in {target.value}, and its largest number is "
        f"{min(high, float(np.finfo(target.numpy).max)):g}",
    )


def _floats_one_by_one(values: list[Any], field: Field, where: Place) -> NDArray[np.float64]:
    made = np.empty(len(values), np.float64)
    for place, value in enumerate(values):
        if value is None and field.nullable:
            made[place] = np.nan
        elif type(value) is float or type(value) is int or (field.booleans and value in (0, 1)):
            made[place] = value
        else:
            raise wrong_value(value, place, field, where)
    return made


def _integers(field: Field, target: np.dtype[Any]) -> Callable[[Any, int, Place], NDArray[Any]]:
    least, most = whole_bounds_of(field)
    is_full = field.dtype is DType.INT64 and field.bounds is None
    known = known_numbers(field)

    def read(data: Any, count: int, where: Place) -> NDArray[Any]:
        try:
            array = _from_buffer(data.as_buffer(of_type="i"), _INT64)
        except (TypeError, ValueError):
            array = _integers_one_by_one(flat(data.as_list()), field, where)
        if len(array) != count:
            raise count_mismatch(len(array), count, where)
        if not is_full and count and (array.min() < least or array.max() > most):
            place = int(np.argmax((array < least) | (array > most)))
            raise wrong_value(int(array[place]), place, field, where)
        if known is not None:
            check_known(array, known, field, where)
        return array.astype(target, copy=False)

    return read


def whole_bounds_of(field: Field) -> tuple[int, int]:
    """The least and the largest number of a field of whole numbers."""
    info = np.iinfo(field.dtype.numpy)
    least, most = (int(info.min), int(info.max)) if field.bounds is None else field.bounds
    return int(least), int(most)


def known_numbers(field: Field) -> NDArray[Any] | None:
    """The categories of a field as `check_known` wants them; None where it has none."""
    return None if field.categories is None else np.array(field.categories)


def check_known(array: NDArray[Any], known: NDArray[Any], field: Field, where: Place) -> None:
    """Raise `Invalid` for the first value that is no category; a missing one is allowed."""
    strange = np.flatnonzero(~(np.isin(array, known) | (array != array)))
    if len(strange):
        place = int(strange[0])
        raise not_a_category(str(array[place].item()), place, field, where)


def _integers_one_by_one(values: list[Any], field: Field, where: Place) -> NDArray[Any]:
    # 3.0 is a whole number: languages that have one kind of number cannot write it otherwise.
    least, most = whole_bounds_of(field)
    made: list[int] = []
    for place, value in enumerate(values):
        whole = value
        # One below the least of INT64 rounds to it, so that number is not taken as a float.
        if type(value) is float and value.is_integer() and value != -(2.0**63):
            whole = int(value)
        if type(whole) is not int or not least <= whole <= most:
            raise wrong_value(value, place, field, where)
        made.append(whole)
    return np.array(made, np.uint64 if field.dtype is DType.UINT64 else np.int64)


def _objects(field: Field, target: DType) -> Callable[[Any, int, Place], NDArray[Any]]:
    wanted = bool if field.dtype is DType.BOOL else str
    nullable = field.nullable and target is not DType.BOOL
    allowed = None if field.categories is None else frozenset(field.categories)

    def read(data: Any, count: int, where: Place) -> NDArray[Any]:
        values = data.as_list()
        if values and type(values[0]) is list:
            values = flat(values)
        if len(values) != count:
            raise count_mismatch(len(values), count, where)
        if wanted is bool:
            values = [_FLAGS.get(v, v) if type(v) in (int, float) else v for v in values]
        for place, value in enumerate(values):
            if type(value) is not wanted and not (value is None and nullable):
                raise wrong_value(value, place, field, where)
            if allowed is not None and value is not None and value not in allowed:
                raise not_a_category(str(value), place, field, where)
        if field.dates is not None:
            values = spelled_dates(values, field.dates, where)
        array = np.empty(count, object)
        array[:] = values
        return array if target is DType.BYTES else array.astype(target.numpy)

    return read


def flat(values: list[Any]) -> list[Any]:
    """The values of nested lists, in order. Without recursion: a body may nest very deeply."""
    made: list[Any] = []
    open_lists = [iter(values)]
    while open_lists:
        for value in open_lists[-1]:
            if type(value) is list:
                open_lists.append(iter(value))
                break
            made.append(value)
        else:
            open_lists.pop()
    return made


_JSON_WORDS: dict[type, str] = {str: "a text", dict: "an object", list: "a list"}


def wrong_value(value: Any, place: int, field: Field, where: Place) -> Invalid:
    """The refusal of a value that is not of the field's type."""
    if value is None:
        return missing_value(place, where)
    if value == INFINITE:
        return infinite_value(place, field, where)
    found = _JSON_WORDS.get(type(value)) or json.dumps(value)
    return Invalid(
        f"{where.value(place)}: {found}, where the model takes {_taken(field)}",
        hint="send a value of that type",
    )


def missing_value(place: int, where: Place) -> Invalid:
    """The refusal of null in JSON, and of NaN in bytes."""
    return Invalid(
        f"{where.value(place)} is null or NaN, and the model does not take missing values there",
        hint="send a value",
    )


def infinite_value(place: int, field: Field, where: Place) -> Invalid:
    """The refusal of an infinite number, in whatever form it is sent."""
    return Invalid(
        f"{where.value(place)} is infinite, where the model takes {_taken(field)}",
        hint="send null or NaN for a missing number" if field.nullable else "send a finite number",
    )


def _taken(field: Field) -> str:
    if not (field.dtype.is_float or field.dtype.is_integer):
        return "text" if field.dtype is DType.BYTES else "true or false"
    taken = "numbers" if field.dtype.is_float else f"whole numbers of {field.dtype.value}"
    return taken if field.bounds is None else taken + " from {:g} to {:g}".format(*field.bounds)


def spelled_dates(texts: list[Any], dates: Dates, where: Place) -> list[str | None]:
    """The texts of a column of dates, each in its one spelling; raises `Invalid`."""
    spelled: list[str | None] = []
    for place, text in enumerate(texts):
        try:
            spelled.append(None if text is None else canonical_date(text, dates))
        except ValueError:
            raise Invalid(
                f"{where.value(place)}: {str(text)[:64]!r} is no date that the model takes there",
                hint=dates.hint,
            ) from None
    return spelled


def not_a_category(value: str, place: int, field: Field, where: Place) -> Invalid:
    """The refusal of a value that is none of the field's categories."""
    known = [str(category) for category in field.categories or ()]
    shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    return Invalid(
        f"{where.value(place)}: {value[:64]!r} is not a category of the model",
        hint=f"it knows {shown}",
    )
