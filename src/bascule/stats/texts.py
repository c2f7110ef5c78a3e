"""How far apart two texts are. Pure."""

from __future__ import annotations


def edit_distance(first: str, other: str) -> float:
    """Levenshtein's distance over the length of the longer text: 0 for equal texts, at most 1.

    Bit vectors (Myers 1999, in the form of Hyyrö 2003): a step a character of the longer text, on
    integers of as many bits as the shorter one has characters.
    """
    long, short = (first, other) if len(first) >= len(other) else (other, first)
    if not short:
        return float(bool(long))
    places: dict[str, int] = {}
    for at, letter in enumerate(short):
        places[letter] = places.get(letter, 0) | 1 << at
    every, last = (1 << len(short)) - 1, 1 << (len(short) - 1)
    rises, falls, distance = every, 0, len(short)
    for letter in long:
        known = places.get(letter, 0) | falls
        same = ((rises + (known & rises)) ^ rises) | known
        up, down = falls | (every & ~(rises | same)), rises & same
        distance += bool(up & last) - bool(down & last)
        up = up << 1 | 1
        rises, falls = (down << 1 | ~(up | same)) & every, up & same
    return distance / len(long)
