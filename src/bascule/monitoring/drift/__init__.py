"""Drift of a table against a bundle's baseline, within a budget of false alarms.

`comparing` is the story and the only part that runs a model; `deciding` decides; `stats.two_sample`
and `stats.detectors` test.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
