"""`/devices`: what each device runs, which are stuck since when, and rollouts over them."""

from __future__ import annotations

from fastapi import Request, Response

from bascule.console.site import Crumb, PageRouter, context_of, render

router = PageRouter()
_SHOWN, _ROLLOUTS = 200, 10


@router.page("GET /devices", "read", "*")
def devices(request: Request, group: str | None = None) -> Response:
    """The page; stuck devices come first."""
    fleet = context_of(request).fleet()
    listed = sorted(fleet.devices(group or None), key=lambda one: (not one.stuck_on, one.name))
    return render(
        request, "devices.html", "Devices", crumbs=[Crumb("Devices")], devices=listed[:_SHOWN],
        more=len(listed) - _SHOWN, rollouts=fleet.rollouts()[:_ROLLOUTS],
    )  # fmt: skip
