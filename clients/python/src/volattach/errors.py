"""What a call may raise. Rules and reasons are those of docs/errors.md."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "volattach"
DETAILS = "grpc-status-details-bin"


class VolattachError(Exception):
    """A call failed. Neither the message nor `repr` contains a secret.

    Of this very class are errors that no other class covers: INTERNAL, and RESOURCE_EXHAUSTED where a time is not what is missing.

    reason: One of docs/errors.md, such as "VOLUME_NOT_FOUND"; stable, so decide by it. Empty: the error is gRPC's own.
    code: gRPC's status code.
    message: What was tried, on what, why it failed and what to do; for people.
    metadata: `attachment_id`, `volume_id` and `domain`, as far as the request had them.
    retry_after: Seconds after which the daemon wants to be called again; None: it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or self.code.name})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code.name}, reason={self.reason!r})"


class InvalidArgument(VolattachError):
    """The request can never work: change it."""


class NotFound(VolattachError):
    """What the request names does not exist: the attachment, the domain, the share or the volume."""


class AlreadyExists(VolattachError):
    """The attachment id is taken by another request: use a new id, or send the first request unchanged."""


class FailedPrecondition(VolattachError):
    """Something outside has to change first; the message says what."""


class PermissionDenied(VolattachError):
    """The caller may not do this."""


class Unauthenticated(VolattachError):
    """The daemon does not know who calls: call with another token, or connect anew with the renewed certificate."""


class TemporaryError(VolattachError):
    """The same call is safe to make again, and may work. `Client` did so until the call's timeout."""


class UnplugPending(TemporaryError):
    """The guest has not let go of the disk yet. The detach completes by itself when it does: watch, or cancel the detach."""


class WatchExpired(VolattachError):
    """The daemon does not know the changes since the watch's revision. `Watch` starts anew instead of raising this."""


_BY_REASON = {"UNPLUG_PENDING": UnplugPending, "WATCH_EXPIRED": WatchExpired}
_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.ABORTED: TemporaryError,
    grpc.StatusCode.UNAVAILABLE: TemporaryError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TemporaryError,
    grpc.StatusCode.CANCELLED: TemporaryError,  # the deadline, where the daemon's HTTP/2 library was first to see it
}


def from_rpc(error: grpc.RpcError) -> VolattachError:
    """The exception for a status that gRPC raised."""
    info = error_details_pb2.ErrorInfo()
    retry_after = None
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
            else:
                detail.Unpack(info)
    reason = info.reason if info.domain == DOMAIN else ""
    code = error.code()
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, VolattachError)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None:
        kind = TemporaryError
    return kind(error.details() or "", code=code, reason=reason, metadata=info.metadata, retry_after=retry_after)
