"""The extra outputs of one version: what requests ask for, and how it is added to their answers.

They are computed from the request's own rows and its own answer. Without threads or loops, so that
a device can check and answer requests as a server does; `extras_thread` bounds what a server runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bascule.bundle.extras import Extra, ExtraRequest, read_requests
from bascule.bundle.programs import place_of
from bascule.core import BasculeError, Invalid, ModelFailed
from bascule.serving.calls import Answer, Call, Outcome


class Extras:
    """The extra outputs of one version, and what requests ask of them."""

    def __init__(self, extras: Sequence[Extra] = ()) -> None:
        self._extras = tuple(extras)
        self._by_field = {field.name: extra for extra in extras for field in extra.fields}
        self.fields = tuple(field for extra in extras for field in extra.fields)
        self.names = frozenset(self._by_field)
        self.by_default = tuple(extra.by_default for extra in extras if extra.by_default)

    def read(self, parameters: Mapping[str, Any], protocol: str) -> tuple[ExtraRequest, ...]:
        """The extras that the `parameters` of a request ask for; raises `Invalid`."""
        return read_requests(self._extras, parameters, protocol)

    def schema(self, protocol: str) -> dict[str, Any]:
        """The JSON Schema of each parameter that a request of a protocol may have."""
        return {
            parameter.name: parameter.schema()
            for extra in self._extras
            if extra.fields and protocol in extra.places
            for parameter in extra.parameters
        }

    def check(self, outputs: Iterable[str], requests: Sequence[ExtraRequest]) -> None:
        """Raise `Invalid` where a listed output is of an extra that is not requested."""
        for name in outputs:
            extra = self._by_field.get(name)
            if extra is not None and all(request.extra is not extra for request in requests):
                raise Invalid(
                    f"outputs: {name} requires parameters.{extra.name}",
                    hint=f"send it in parameters, or leave {name} out",
                )

    def check_none(self, requests: Sequence[ExtraRequest]) -> None:
        """Raise `Invalid` where an answer in parts is asked for extras; the defaults are not."""
        if requests and requests != self.by_default:
            raise Invalid(
                "parameters: an answer in parts has no extra outputs",
                hint="leave them out, or ask for the whole answer",
            )

    def instead_of(self, requests: Sequence[ExtraRequest]) -> tuple[ExtraRequest, ...]:
        """The same extras of this version, for a request to another; without those it lacks."""
        own = {extra.name: extra for extra in self._extras if extra.fields}
        return tuple(
            request._replace(extra=own[request.extra.name])
            for request in requests
            if request.extra.name in own
        )

    def for_every_request(self, name: str, first: Any) -> tuple[Extras, ExtraRequest]:
        """These, with one of them in every answer, and the request for it; raises `Invalid`."""
        extra = next(extra for extra in self._extras if extra.name == name)
        made = extra.for_every_request(first)
        assert made.by_default is not None
        return Extras([made if one is extra else one for one in self._extras]), made.by_default

    def metadata(self) -> dict[str, Any]:
        """What the metadata of the model says of its extras."""
        return {key: value for extra in self._extras for key, value in extra.metadata().items()}


NO_EXTRAS = Extras()


def needed(call: Call) -> tuple[str, ...] | None:
    """The outputs that the program must give, so that the extras of a call can be added."""
    if call.outputs is None:
        return None
    extra_names = {field.name for request in call.extras for field in request.extra.fields}
    own = [name for name in call.outputs if name not in extra_names]
    for request in call.extras:
        if _adds(request, call.outputs):
            own += [name for name in request.extra.needs if name not in own]
    return tuple(own)


def added(answer: Answer, call: Call) -> Outcome:
    """The answer with the extras that its call asks for; an error where one fails."""
    every = dict(answer.outputs)
    names = dict.fromkeys(call.outputs or every)
    for request in call.extras:
        if not _adds(request, call.outputs):
            continue
        extra = request.extra
        try:
            more = extra.add(answer.inputs or call.columns, answer.outputs, request.settings)
        except BasculeError as problem:
            return ModelFailed(f"the answer has no {extra.name}: {problem.message}")
        except Exception as problem:
            import logging  # a megabyte, which a device that only answers has no use for

            logging.getLogger(__name__).exception("the extra output %s failed", extra.name)
            return ModelFailed(f"the answer has no {extra.name}", reason=place_of(problem))
        every |= more
        if request.always or call.outputs is None:
            names |= dict.fromkeys(more)
    return Answer({name: every[name] for name in names}, answer.by, None, answer.inputs)


def _adds(request: ExtraRequest, outputs: tuple[str, ...] | None) -> bool:
    fields = request.extra.fields
    return request.always or outputs is None or any(field.name in outputs for field in fields)
