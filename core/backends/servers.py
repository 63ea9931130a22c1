"""Several vLLM servers that follow one learner: which weights each holds, and calls of all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from didact.core.backends.endpoint import LONGEST, Endpoint, Unreachable
from didact.core.backends.remote_engine import RemoteEngine
from didact.core.backends.vllm_versions import Versions
from didact.core.errors import RunError

log = logging.getLogger(__name__)


@dataclass
class Servers:
    """The servers of a run, and the marks by which their weights are known.

    Attributes:
        engines: by URL.
        versions: how to speak to each, by URL.
        run: begins every mark of this run; all ranks have the same.
        wait: seconds to wait while all of them are down.
        mark: of the latest push.
    """

    engines: Mapping[str, RemoteEngine]
    versions: Mapping[str, Versions]
    run: str
    wait: float
    mark: str = ""

    def stale(self, server: Endpoint) -> bool:
        """Whether a server has lost the latest weights.

        Raises:
            RunError: another run gave it weights.
        """
        held = self.engines[server.url].about().held
        if held and not held.startswith(self.run):
            raise RunError(
                f"generator 'server': another run gave {server.url} its weights meanwhile; a "
                f"server follows one learner."
            )
        return held != self.mark

    def each(self, call: Callable[[str], None]) -> list[str]:
        """Call with every URL at once; those that were reached: at least one, or it waits.

        Raises:
            RunError: a server refuses, or none is reached for longer than `wait`.
        """
        began, pause = time.monotonic(), 0.25

        def tried(url: str) -> bool:
            try:
                call(url)
            except Unreachable as error:
                log.warning(f"server {url}: {error}; it gets no weights now")
                return False
            return True

        while True:
            with ThreadPoolExecutor(len(self.engines)) as pool:
                reached = list(pool.map(tried, self.engines))
            if any(reached):
                return [url for url, there in zip(self.engines, reached, strict=True) if there]
            if time.monotonic() - began + pause > self.wait:
                raise RunError(
                    f"generator 'server': no server took the weights for {self.wait:g} s. Start "
                    f"them again and continue with --resume."
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)
