"""Engines that search for a model of a table: the port, and a file for each engine."""

from .port import (
    ENGINES as ENGINES,
    SEARCHED as SEARCHED,
    Engine as Engine,
    Problem as Problem,
    engine_named as engine_named,
)
