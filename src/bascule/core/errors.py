"""The kinds of error that Bascule raises, from where every room takes them.

They are defined in `bascule_client.errors`: a client that is installed alone raises the same kinds,
and `except Invalid` must catch both. Two sets of kinds, one derived from the other, would do so in
one direction only.
"""

from __future__ import annotations

from bascule_client.errors import KINDS as KINDS
from bascule_client.errors import BasculeError as BasculeError
from bascule_client.errors import Conflict as Conflict
from bascule_client.errors import Invalid as Invalid
from bascule_client.errors import MissingExtra as MissingExtra
from bascule_client.errors import ModelFailed as ModelFailed
from bascule_client.errors import NoRoom as NoRoom
from bascule_client.errors import NotFound as NotFound
from bascule_client.errors import Overloaded as Overloaded
from bascule_client.errors import Refused as Refused
from bascule_client.errors import TimedOut as TimedOut
from bascule_client.errors import TooLarge as TooLarge
from bascule_client.errors import Unauthenticated as Unauthenticated
from bascule_client.errors import Unavailable as Unavailable
from bascule_client.errors import Unconvertible as Unconvertible
from bascule_client.errors import Untrusted as Untrusted
