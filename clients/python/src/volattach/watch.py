"""A watch that outlives its connection: docs/api.md, "Watching"."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from volattach import errors, retry, v1

_log = logging.getLogger(__name__)


class Kind(enum.Enum):
    RESET = "reset"
    """Drop everything: the attachments that there are follow, up to SYNCED. First event of a watch without `resume_after`, and again
    after changes were missed, as by a restart of the daemon."""
    CHANGED = "changed"
    """The attachment, as it is now."""
    GONE = "gone"
    """Drop the attachment: it is gone, or no longer matches the filter. It may never have been sent before."""
    SYNCED = "synced"
    """Nothing new, and a revision. The first after RESET ends the list of what there is."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: Kind
    attachment: v1.Attachment | None = None  # with CHANGED and GONE
    revision: str = ""  # the watch's last: what came up to here is complete. Empty: the list is not at its end


def _event(message: v1.WatchAttachmentsResponse, revision: str) -> Event:
    if not message.HasField("attachment"):
        return Event(Kind.SYNCED, None, revision)
    gone = message.left_filter or message.attachment.state == v1.STATE_GONE
    return Event(Kind.GONE if gone else Kind.CHANGED, message.attachment, revision)


class Watch(Iterator[Event]):
    """Iterator over the events of a watch, in the order of the changes.

    Blocks until the next change. After a broken connection, or when the daemon ends the watch with the hour of its caller, resumes where
    it was. Raises `VolattachError` where a repeat is of no use, and where `patience` has passed since the connection broke.
    A context manager; `close` ends it, from any thread.
    """

    def __init__(
        self,
        start: Callable[[str, float | None], Any],
        *,
        resume_after: str,
        timeout: float | None,
        patience: float,
    ) -> None:
        """`start` makes the call, given the revision to resume after and the seconds that the call may take."""
        self._start = start
        self._patience = patience
        self._closed = threading.Event()
        self._call: Any = None
        self._events = self._run(resume_after, None if timeout is None else time.monotonic() + timeout)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Ends the watch: the iterator stops, also one that is waiting in another thread."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self, revision: str, deadline: float | None) -> Iterator[Event]:
        broken: float | None = None  # since when nothing came
        failures = 0
        pauses = retry.pauses()
        while not self._closed.is_set():
            heard = False
            fresh = not revision
            try:
                for message in self._open(revision, deadline):
                    if fresh and not heard:
                        yield Event(Kind.RESET)
                    heard, broken, failures, pauses = True, None, 0, retry.pauses()
                    revision = message.revision or revision
                    yield _event(message, revision)
                failure: errors.VolattachError = errors.TemporaryError("the daemon ended the watch", code=grpc.StatusCode.UNAVAILABLE)
            except grpc.RpcError as error:
                failure = errors.from_rpc(error)
            finally:
                if self._call is not None:
                    self._call.cancel()

            if self._closed.is_set():
                return
            now = time.monotonic()
            broken = now if broken is None else broken
            failures += 1
            end = broken + self._patience if deadline is None else min(broken + self._patience, deadline)
            if isinstance(failure, errors.WatchExpired) and (revision or heard):
                revision, pause = "", 0.0
            elif isinstance(failure, errors.Unauthenticated) and heard:
                pause = 0.0  # the caller's hour is over, or its token: refused at once if there is no other
            elif retry.is_repeated(failure, failures):
                pause = next(pauses) if failure.retry_after is None else failure.retry_after
            else:
                raise failure
            if now + pause >= end:
                raise failure
            _log.info("watch: %s; resuming in %.1f s", failure, pause)
            self._closed.wait(pause)

    def _open(self, revision: str, deadline: float | None) -> Any:
        self._call = self._start(revision, None if deadline is None else max(deadline - time.monotonic(), 0))
        if self._closed.is_set():
            self._call.cancel()
        return self._call
