"""`bascule edge devices`, `groups`, `enroll`, `revoke`, `rollout`: what devices run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Ref
from bascule.cli.screen import print_either, print_json, print_table, say_sentences, when
from bascule.core import Invalid, NotFound, replacing, seconds_of

if TYPE_CHECKING:
    from bascule.fleet import Device, FleetBook, StoredDeviceRollout

_Group = Annotated[str, typer.Option(help="Devices that follow the channel of this name.")]


def devices(
    group: Annotated[str | None, typer.Option(help="Of this group alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices: what each runs, and what it refused since when; those come first."""
    listed = sorted(_fleet().devices(group), key=lambda device: not device.stuck_on)
    if as_json:
        print_json([asdict(device) for device in listed])
        return
    rows = [
        [
            device.name, device.group, "revoked" if device.revoked_at else device.version,
            when(device.seen_at) if device.seen_at else "never", f"{device.bytes_received:,}",
            f"{device.stuck_on} since {when(device.stuck_since)}: {device.stuck_reason}"
            if device.stuck_since else "",
        ]
        for device in listed
    ]  # fmt: skip
    heads = ("device", "group", "runs", "last report", "bytes received", "stuck on")
    print_table(heads, rows, right=("bytes received",), empty="no device is enrolled")


def groups(as_json: AsJson = False) -> None:
    """List the groups and the versions that their devices run, with those that are stuck."""
    members: dict[tuple[str, str], list[Device]] = {}
    for device in _fleet().devices():
        if device.revoked_at is None:
            members.setdefault((device.group, device.version), []).append(device)
    listed: list[dict[str, Any]] = [
        {
            "group": group, "runs": version, "devices": len(devices),
            "stuck": sum(bool(device.stuck_on) for device in devices),
            "bytes received": sum(device.bytes_received for device in devices),
        }
        for (group, version), devices in sorted(members.items())
    ]  # fmt: skip
    if as_json:
        print_json(listed)
        return
    heads = ("group", "runs", "devices", "stuck", "bytes received")
    rows = [
        [f"{value:,}" if isinstance(value, int) else value for value in row.values()]
        for row in listed
    ]
    print_table(heads, rows, right=heads[2:], empty="no device is enrolled")


def rows(
    device: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
) -> None:
    """Print the rows that a device has sampled, as JSON: a list for each report."""
    print_json([asdict(sampled) for sampled in _fleet().rows(device)])


def enroll(
    device: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    repository: Annotated[str, typer.Option(help="Where devices find the signed repository.")],
    group: _Group = "stable",
    reports: Annotated[
        str, typer.Option(help="Where devices send reports.", show_default="that of --server")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a device known, and write DEVICE.json for it: key, trusted root and addresses."""
    target = Path(f"{device}.json")
    if target.exists():
        raise Invalid(f"{target} is there already", hint="move it away")
    with replacing(target, overwrite=False) as draft:
        draft.touch(mode=0o600)  # before the key is made: it is shown once
        enrolled = _fleet().enroll(device, group, by=context.user())
        content = {
            "device": device, "channel": group, "repository": repository, "key": enrolled.key,
            "server": reports or context.stores.get("server", ""),
            "root": json.loads(enrolled.root),
        }  # fmt: skip
        draft.write_text(json.dumps(content, indent=2))
    line = f"wrote {target}: give it to {device}, and to no other"
    print_either({"device": device, "group": group, "file": str(target)}, line, as_json=as_json)


def revoke(
    device: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """End the key of a device."""
    ended = _fleet().revoke(device, by=context.user())
    print_either(asdict(ended), f"{device} may report no more", as_json=as_json)


def start(
    model: Ref,
    group: _Group = "stable",
    phases: Annotated[str, typer.Option(help="Percent of the devices.")] = "1,10,50,100",
    hold: Annotated[str, typer.Option(help="How long a phase lasts at least.")] = "1d",
    as_json: AsJson = False,
) -> None:
    """Have a version go to the devices of a group; it halts where it harms them."""
    try:
        shares = tuple(float(part) / 100 for part in phases.split(","))
    except ValueError:
        raise Invalid(f"--phases {phases}", hint="for example 1,10,50,100") from None
    hold_s = seconds_of(hold, "--hold")
    begun = _fleet().begin(model, group, by=context.user(), phases=shares, hold_s=hold_s)
    _print(begun, as_json=as_json)


def show(
    rollout: Annotated[str, typer.Argument(help="Its id; default: the latest.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show where a rollout stands, and what each look saw."""
    for stored in _fleet().rollouts():
        if rollout in ("", stored.id):
            _print(stored, as_json=as_json)
            return
    raise NotFound(f"there was no rollout {rollout}", hint="bascule edge rollout start MODEL")


def abort(
    rollout: Annotated[str, typer.Argument(help="Its id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take a rollout back: its devices return to what the others run."""
    _print(_fleet().abort(rollout, by=context.user()), as_json=as_json)


def _print(stored: StoredDeviceRollout, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(stored))
        return
    plan, state = stored.plan, stored.state
    say_sentences(f"{stored.id}: {plan.candidate} in place of {plan.stable}: {state.sentence}")
    rows = [
        [
            f"{plan.phases[look.phase]:.0%}", when(look.at), f"{look.bad} of {look.exposed}",
            f"{look.others_bad} of {look.others}", str(look.unknown),
        ]
        for look in state.looks
    ]  # fmt: skip
    if rows:
        print_table(("phase", "look", "sick", "sick of those that stay", "not taken"), rows)


def _fleet() -> FleetBook:
    if context.is_remote():
        from bascule.fleet import RemoteFleet

        return RemoteFleet(context.control_client())
    from bascule.app import open_fleet

    return open_fleet(context.settings())


device_rollouts = context.group_of("Have a version go to devices in phases.", start, show, abort)
