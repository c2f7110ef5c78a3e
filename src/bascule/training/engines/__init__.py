"""Engines that search for a model of a table: the port, and a file for each engine."""

from .port import (
    METRICS as METRICS,
    Engine as Engine,
    Problem as Problem,
    engine_named as engine_named,
)
