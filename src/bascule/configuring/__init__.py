"""Configuration as code: one document to what must change in a catalogue, and the changes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
