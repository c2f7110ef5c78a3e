from .restoring import restore as restore, settle as settle
from .rewriting import rewrite as rewrite
from .taking import back_up as back_up
