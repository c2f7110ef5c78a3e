"""The database of a home or a team: transactions, migrations, events, leases, changes.

Rooms above define their tables on `metadata` and reach them in `Catalogue.read` and
`Catalogue.write`. Importing this room imports no database library.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
