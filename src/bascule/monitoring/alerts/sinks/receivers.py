"""A receiver of notifications as the settings describe it, and what its sink raises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from bascule.core import Invalid, Unavailable, secret_in
from bascule.monitoring.alerts.options import ReceiverOptions
from bascule.monitoring.alerts.routing import Notification


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver(ReceiverOptions):
    """Where notifications go, by the name of the receiver."""

    name: str

    def secret_of(self, name: str) -> str:
        """The value of a setting that may be in a variable or a file. Raises `Invalid`."""
        said: str = getattr(self, name)
        return secret_in(said, lambda why: self.wrong(name, why))

    def wrong(self, name: str, why: str) -> Invalid:
        """The error about a setting of this receiver."""
        return Invalid(f"alerts.receivers.{self.name}.{name}: {why}", hint="mend bascule.toml")

    def away(self, why: str, *, retry_after_s: float = 0.0) -> Unavailable:
        """The error of a receiver that does not take a notification now."""
        return Unavailable(
            f"receiver {self.name}: {why}",
            hint="it is tried again",
            retry_after_s=retry_after_s,
        )


class Sink(ABC):
    """Sends to one receiver. One instance serves one thread."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Return once the receiver has taken it.

        Raises:
            Unavailable: It has not, and may later; `facts["retry_after_s"]` is what it asks for.
            Invalid: A setting of the receiver is wrong.
        """
