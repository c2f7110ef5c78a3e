"""Backups: a catalogue, its bundles and the ledger of a home in one verified file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
