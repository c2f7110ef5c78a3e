"""Applies a document over the control API of a server."""

from __future__ import annotations

from bascule.configuring.applying import Applied
from bascule.configuring.document import Document
from bascule.configuring.operations import CONFIGURE
from bascule.operations import Remote
from bascule_client.control import ControlClient


def apply_remotely(
    document: Document, client: ControlClient, *, by: str, reason: str = "", dry_run: bool = False
) -> Applied:
    """See `applying.apply`; the server compares, authorises and makes the changes."""
    wanted = {"document": document.to_json(), "reason": reason, "dry_run": dry_run}
    return Remote(client).ask(CONFIGURE, wanted, by=by)
