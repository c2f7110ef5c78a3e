"""An answer that a server gives later; see `Client.submit`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bascule_client.answer import Answer, Places
from bascule_client.errors import TimedOut
from bascule_client.tensors import answer_of

if TYPE_CHECKING:
    from bascule_client.control import ControlClient

_LOOK_S = 0.5


class LaterAnswer:
    """A request that a server answers later.

    Attributes:
        id: Of its job, and of the prediction.
    """

    def __init__(self, control: ControlClient, job_id: str, places: Places | None = None) -> None:
        self.id, self._control, self._places = job_id, control, places

    @property
    def state(self) -> str:
        """`queued`, `running`, `done`, `failed`, `cancelled` or `killed`."""
        return str(self._control.do("GET /api/v1/jobs/{job}", job=self.id)["state"])

    def result(self, timeout_s: float = 600.0) -> Answer:
        """The answer, once it is there; it can be read again for some time.

        Raises:
            TimedOut: It takes longer; the request goes on.
            BasculeError: Why there is no answer: `Conflict` after `cancel`, `Gone` once deleted.
        """
        for pause_s in self.pauses(timeout_s):
            time.sleep(pause_s)
        return self.read()

    def pauses(self, timeout_s: float) -> Iterator[float]:
        """The seconds to wait before each look at a request that has not ended; see `result`."""
        until_s = time.monotonic() + timeout_s
        while self.state in ("queued", "running"):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimedOut(f"{self.id} takes over {timeout_s:g} s", hint="ask again later")
            yield min(_LOOK_S, left_s)

    def read(self) -> Answer:
        """The answer; raises as `result`, and `Conflict` before the end."""
        return answer_of(self._control.read(f"/api/v1/jobs/{self.id}/answer"), self._places)

    def cancel(self) -> None:
        """End the request; raises `Conflict` where it has ended."""
        self._control.do("DELETE /api/v1/jobs/{job}", job=self.id)
