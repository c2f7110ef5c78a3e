"""What a control process shows of its settings, and a trial of its receivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bascule.core import NotFound

if TYPE_CHECKING:
    from bascule.monitoring.alerts.sinks import Receiver


@dataclass(frozen=True, slots=True)
class SettingsShown:
    """What a control process shows of its settings.

    Attributes:
        sections: Values by section and name, without secrets.
        receivers: Reads the receivers of notifications.
    """

    sections: Mapping[str, Mapping[str, Any]]
    receivers: Callable[[], Sequence[Receiver]]

    def try_receiver(self, name: str) -> str:
        """Send a notification for trial; why the receiver has not taken it, empty if it has.

        Raises:
            NotFound: There is no such receiver.
        """
        from bascule.monitoring.alerts import try_receivers

        every = self.receivers()
        found = [one for one in every if one.name == name]
        if not found:
            names = ", ".join(one.name for one in every)
            raise NotFound(
                f"there is no receiver {name!r}",
                hint=f"receivers are {names}" if names else "add [alerts.receivers.NAME]",
            )
        return try_receivers(found, datetime.now(UTC))[name]
