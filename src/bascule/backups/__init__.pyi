from .archive import Manifest as Manifest
from .restoring import Restored as Restored, restore as restore, settle as settle
from .rewriting import rewrite as rewrite
from .taking import BackedUp as BackedUp, back_up as back_up
