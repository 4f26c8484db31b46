"""A client of volattachd, the agent of a compute node that attaches volumes to running virtual machines.

`Client` has a method for each call of the service, `v1` the messages of its proto, and every failed call raises a
`VolattachError`, whose subclasses say what to do about it.
"""

from volattach import v1
from volattach.client import SOCKET, TIMEOUT, Client
from volattach.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TemporaryError,
    Unauthenticated,
    UnplugPending,
    VolattachError,
    WatchExpired,
)
from volattach.watch import Event, Kind, Watch

__all__ = [
    "SOCKET",
    "TIMEOUT",
    "AlreadyExists",
    "Client",
    "Event",
    "FailedPrecondition",
    "InvalidArgument",
    "Kind",
    "NotFound",
    "PermissionDenied",
    "TemporaryError",
    "Unauthenticated",
    "UnplugPending",
    "VolattachError",
    "Watch",
    "WatchExpired",
    "v1",
]
