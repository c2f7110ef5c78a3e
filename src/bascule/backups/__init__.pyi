from .archive import Manifest as Manifest, rewrite as rewrite
from .restoring import Restored as Restored, restore as restore, settle as settle
from .taking import BackedUp as BackedUp, back_up as back_up
