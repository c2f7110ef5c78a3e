"""The ledger: every answer by prediction id, from a worker's memory to tables that SQL can ask.

worker: `SpoolWriter` appends blocks of raw columns to the spool
scribe: `Scribe` turns them into Parquet segments, and commits both by one manifest
reader: `Ledger` asks the segments of the last manifest, and what the spool has beyond it
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
