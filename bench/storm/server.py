"""`bascule serve` as a storm meets it: started on its core, its memory and descriptors watched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec
import psutil

from bench import cpu
from bench.pinning import on_core
from bench.storm.client import Plan
from bench.storm.models import Model
from bench.storm.tally import Tally
from bench.storm.watch import Watch
from bench.systems.bascule import Bascule
from bench.systems.system import Wrong

_SLACK_S = 60.0
_BEFORE_OTHERS = -20


class Watching:
    """Looks at a process tree every second while the block lasts."""

    def __init__(self, pid: int, every_s: float = 1.0) -> None:
        self._root = psutil.Process(pid)
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen = Watch()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self.seen

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        start = time.monotonic()
        while True:
            members = [self._root, *self._root.children(recursive=True)]
            resident, descriptors = 0, 0
            try:
                for member in members:
                    resident += member.memory_info().rss
                    descriptors += member.num_fds()
            except psutil.NoSuchProcess:
                continue  # one ended while we looked: look again
            self.seen.seconds.append(time.monotonic() - start)
            self.seen.resident_mb.append(resident / 1e6)
            self.seen.descriptors.append(descriptors)
            if self._over.wait(self._every_s):
                return


class Stormed(Bascule):
    """Bascule around one of the storm's models, with settings of its own."""

    def __init__(
        self, model: Model, folder: Path, core: int, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(model.subject, folder, core)
        self.path = f"/v2/models/{model.name}/infer"
        self._settings = settings or {}

    def environment(self) -> Mapping[str, str]:
        return self._settings

    def go_before_others(self, *, always: bool) -> bool:
        """Let every thread go before what else runs on its core; whether that was allowed.

        A millisecond in which the kernel frees memory is none of the server's, and with the load
        generator spinning on the other core there is nowhere else for it. Threads to come inherit.

        Args:
            always: Before all else, at once (real time), and not only for the larger share: for a
                server that leaves some of its core, since the kernel takes 5 % from one that does
                not, for 50 ms in one piece.
        """
        members = [self.process.pid, *(member.pid for member in cpu.tree(self.process.pid))]
        try:
            for member in members:
                for thread in Path(f"/proc/{member}/task").iterdir():
                    with suppress(ProcessLookupError):
                        if always:
                            first = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
                            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, first)
                        else:
                            os.setpriority(os.PRIO_PROCESS, int(thread.name), _BEFORE_OTHERS)
        except PermissionError:
            return False
        return True


def load(plan: Plan, core: int) -> Tally:
    """Run the load generator on its core.

    Raises:
        Wrong: It failed.
    """
    with tempfile.TemporaryDirectory() as made:
        asked, told = Path(made, "plan.json"), Path(made, "tally.json")
        asked.write_bytes(msgspec.json.encode(plan))
        command = [sys.executable, "-m", "bench.storm.client", str(asked), str(told)]
        done = subprocess.run(
            on_core(core, command), capture_output=True, timeout=plan.seconds + _SLACK_S
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace")[-600:]
            raise Wrong(f"the load generator ended with {done.returncode}: {said}")
        return msgspec.json.decode(told.read_bytes(), type=Tally)
