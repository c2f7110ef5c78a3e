"""`bascule-edge`: the agent of a device.

In the process that serves, Python's own SHA-256 replaces OpenSSL, which takes 7 MB of memory; what
needs OpenSSL, TLS and signatures, is done by processes that end. msgspec does without
`typing_extensions`, which takes half a megabyte.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_ENROLMENT = "device.json"
_LEFT_OUT = ("_hashlib", "_ssl", "typing_extensions")


def main(arguments: list[str] | None = None, repository: Callable[..., Any] | None = None) -> int:
    """Run the command; 0 where it did what it was asked.

    Args:
        arguments: Of the command line.
        repository: Opens the repository; if None, the one of `fetching`.
    """
    args = _parser().parse_args(arguments)
    if args.command == "run" and not args.mqtt.startswith("mqtts:"):
        sys.modules.update(dict.fromkeys(_LEFT_OUT))  # type: ignore[arg-type]
    from bascule.core import BasculeError, load_named

    try:
        if args.command == "status":
            return _status(args.home)
        if args.command == "enroll":
            return _enroll(args.file, args.home)
        if args.command == "measure":
            return _measure(args.file)
        return _run(args, repository or load_named("bascule.edge.fetching:Repository"))
    except BasculeError as problem:
        hint = f"\nhint:  {problem.hint}" if problem.hint else ""
        sys.stderr.write(f"error: {problem.message}{hint}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bascule-edge", description="The agent of a device.")
    commands = parser.add_subparsers(dest="command", required=True)
    enroll = commands.add_parser("enroll", help="take the file of `bascule edge enroll`")
    enroll.add_argument("file", type=Path)
    enroll.add_argument("--home", required=True, type=Path, help="the folder of this device")
    run = commands.add_parser("run", help="follow a channel, and serve what it names")
    add = run.add_argument
    add("--repository", default="", help="the address of the signed repository")
    add("--channel", default="")
    add("--home", required=True, type=Path, help="the folder of this device")
    add("--root", type=Path, help="the repository's trusted root, if not HOME/root.json")
    add(
        "--device",
        default="",
        help="the name of this device; drawn at the first start, if not given",
    )
    add("--server", default="", help="where reports go")
    add("--key", default="", help="of the device at the server: env:NAME or file:PATH")
    add("--listen", default="127.0.0.1:8080", help="HOST:PORT of loopback, unix:PATH, or none")
    add("--mqtt", default="", help="mqtt[s]://[USER:${file:PATH}@]HOST[:PORT]/TOPIC")
    add("--mqtt-ca", help="the authorities of the broker's certificate, if not the system's")
    add("--require", action="append", default=[], help="a claim that passports must make")
    add("--require-key", action="append", default=[], help="a public key whose passports count")
    add("--plan", type=Path, help="a JSON file: look_s, hours, trial_requests...")
    measure = commands.add_parser("measure", help="time a model on this machine, as JSON")
    measure.add_argument("file", help="an archive of a bundle; - for standard input")
    status = commands.add_parser("status", help="what serves, and what was refused, as JSON")
    status.add_argument("--home", required=True, type=Path)
    return parser


def _run(args: argparse.Namespace, open_repository: Callable[..., Any]) -> int:
    from bascule.core import Invalid, MissingExtra, SignalEvent, secret_in
    from bascule.edge.agent import Agent
    from bascule.edge.deciding import read_plan
    from bascule.edge.device import Device
    from bascule.edge.serving import HttpServer

    enrolment = _enrolment(args.home)
    for name in ("repository", "channel", "device", "server"):
        setattr(args, name, getattr(args, name) or enrolment.get(name, ""))
    if not args.repository or not args.channel:
        hint = "bascule-edge enroll FILE, or --repository and --channel"
        raise Invalid("this device is not enrolled", hint=hint)
    stop = SignalEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.require and find_spec("cryptography") is None:
        hint = "pip install 'bascule-edge[signatures]'"
        raise MissingExtra("--require needs cryptography, to verify passports", hint=hint)
    device = Device(args.home)
    agent = Agent(
        device, open_repository(args.home, args.repository, args.root or args.home / "root.json"),
        args.channel, name=args.device, plan=read_plan(args.plan), server=args.server,
        key=secret_in(args.key) or enrolment.get("key", ""),
        claims=args.require, keys=args.require_key,
    )  # fmt: skip
    agent.start()
    served: list[Any] = []
    if args.listen != "none":
        served.append(HttpServer(device, args.listen))
        sys.stdout.write(json.dumps({"listening": served[0].address}) + "\n")
        sys.stdout.flush()
    if args.mqtt:
        from bascule.edge.messages import MqttBridge

        served.append(MqttBridge(device, args.mqtt, args.mqtt_ca))
    agent.run(stop)
    for part in served:
        part.close()
    return 0


def _enroll(file: Path, home: Path) -> int:
    """Keep key and addresses in the home, and the root that is trusted; twice is fine."""
    from bascule.core import Invalid, replacing, writing

    try:
        enrolment = json.loads(file.read_bytes())
        root, sentence = enrolment.pop("root"), "{device} follows {channel}".format_map(enrolment)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        hint = "give the file that `bascule edge enroll` has written"
        raise Invalid(f"{file} is no enrolment: {problem}", hint=hint) from None
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    for name, content in (("root.json", root), (_ENROLMENT, enrolment)):
        if content is not None:  # the server may have no repository of its own
            with replacing(home / name) as draft:
                draft.touch(0o600)
                draft.write_text(json.dumps(content), encoding="utf-8")
    sys.stdout.write(f"{sentence}: bascule-edge run --home {home}\n")
    return 0


def _enrolment(home: Path) -> dict[str, str]:
    from bascule.core import Untrusted

    try:
        enrolment: dict[str, str] = json.loads((home / _ENROLMENT).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise Untrusted(f"{home / _ENROLMENT} is damaged", hint="enroll again") from None
    return enrolment


def _measure(archive: str) -> int:
    import msgspec

    from bascule.edge.measuring import measure

    sys.stdout.write(f"{msgspec.json.encode(measure(archive)).decode()}\n")
    return 0


def _status(home: Path) -> int:
    import msgspec

    from bascule.core import NotFound
    from bascule.edge.slots import Home

    state = Home(home).read_state()
    if state is None:
        raise NotFound(f"no agent ran in {home}", hint="bascule-edge run")
    sys.stdout.write(json.dumps(msgspec.to_builtins(state), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
