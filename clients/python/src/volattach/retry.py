"""Which failed calls are made again, and after which pauses. Rules are those of docs/errors.md, "By code"."""

from __future__ import annotations

import random
from collections.abc import Iterator

import grpc

from volattach.errors import TemporaryError, UnplugPending, VolattachError

FIRST_PAUSE = 0.1  # seconds
LONGEST_PAUSE = 10.0  # seconds


def pauses() -> Iterator[float]:
    """Growing pauses in seconds, each shortened at random by up to half, so that callers do not come back all at once."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(2 * pause, LONGEST_PAUSE)


def is_repeated(failure: VolattachError, failures: int) -> bool:
    """Whether a call that has failed so many times, the last time with `failure`, is made again.

    A guest that is slow to let go is asked again by the daemon itself. INTERNAL is tried once more.
    """
    if isinstance(failure, UnplugPending):
        return False
    return isinstance(failure, TemporaryError) or (failure.code == grpc.StatusCode.INTERNAL and failures == 1)
