"""Applies a document over the control API of a server."""

from __future__ import annotations

from bascule.configuring.applying import Applied
from bascule.configuring.document import Document
from bascule_client.control import ControlClient, path_of


def apply_remotely(
    document: Document, client: ControlClient, *, by: str, reason: str = "", dry_run: bool = False
) -> Applied:
    """See `applying.apply`; the server compares, authorises and makes the changes."""
    wanted = {"document": document.to_json(), "reason": reason, "dry_run": dry_run}
    said = client.ask("PUT", path_of("configuration"), wanted, user=by)
    changes = [(one["place"], one["sentence"]) for one in said["changes"]]
    return Applied(changes, not said["applied"], dict(said["tokens"]))
