from .differences import Change as Change
from .holding import Garbage as Garbage
from .keys import CatalogueKeys as CatalogueKeys
from .registry import Registry as Registry, open_registry as open_registry
from .versions import (
    ANYTHING as ANYTHING,
    Alias as Alias,
    Event as Event,
    Found as Found,
    Gates as Gates,
    Model as Model,
    Retirement as Retirement,
    Version as Version,
)
