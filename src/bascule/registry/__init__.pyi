from .differences import Change as Change
from .keys import CatalogueKeys as CatalogueKeys
from .registry import Registry as Registry, open_registry as open_registry
from .versions import Event as Event, Found as Found, Version as Version
