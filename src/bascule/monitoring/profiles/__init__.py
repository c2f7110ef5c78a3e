"""Profiles of production: what a version was asked and answered on one UTC day, as sketches.

scribe: `Folding` adds rows, and writes a file for each window; the ledger's manifest names it
reader: `read_windows` merges the files of one version and day, over restarts and hosts
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
