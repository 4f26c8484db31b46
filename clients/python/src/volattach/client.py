"""The calls of volattachd. What each does, in full: the proto and docs/api.md."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from volattach import errors, retry, v1
from volattach.watch import Watch

SOCKET = "unix:/run/volattach/volattachd.sock"
TIMEOUT = 120.0  # seconds for a call, its repeats included

Token = str | Callable[[], str]
ConnectionInfo = v1.ConnectionInfo | Mapping[str, object]

_SERVICE = v1.DESCRIPTOR.services_by_name["VolumeAttach"]
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_http_proxy", 0),
    # A daemon that restarts is back in a second, and gRPC's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # A watch notices that its host is gone.
    ("grpc.keepalive_time_ms", 30000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
]
_log = logging.getLogger(__name__)


class Client:
    """A connection to one daemon, made at the first call and again whenever it is lost. Threads may share it.

    Calls are idempotent by attachment id: after a lost answer, make the same call again. So does the client, with growing pauses,
    for errors that pass by themselves (docs/errors.md, "By code"), until `timeout` is over; each call has a `timeout` of its own, the
    seconds for all its tries, in the place of the client's. `list_attachments` counts them anew for each page.

    Every call raises `VolattachError` or one of its subclasses.
    """

    def __init__(
        self,
        target: str = SOCKET,
        *,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        token: Token | None = None,
        service_token: Token | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """
        target: "unix:/path" or "https://host:port".
        ca, certificate, key: PEM files for "https": the authority of the daemon's certificate (None: those that gRPC knows), and
            the client's own certificate and key. They are read here, once.
        token, service_token: Keystone's, of the user and of the service that calls on the user's behalf; or functions that return
            them, which are called for each try. Over "https" and over the socket alike (docs/identity.md).
        timeout: seconds that a call may take, all its tries and the pauses between them.
        """
        self._target = target
        self._channel = _channel(target, ca, certificate, key)
        self._token = token
        self._service_token = service_token
        self._timeout = timeout
        self._methods = {method.name: _callable(self._channel, method) for method in _SERVICE.methods}

    def __repr__(self) -> str:
        return f"Client({self._target!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Calls under way end with CANCELLED; work that the daemon has begun goes on."""
        self._channel.close()

    def with_tokens(self, token: Token | None = None, service_token: Token | None = None) -> Client:
        """A client of the same connection that calls with these tokens: such as those of the request that is served."""
        other = copy.copy(self)
        other._token, other._service_token = token, service_token
        return other

    def attach_volume(
        self,
        *,
        attachment_id: str,
        volume_id: str,
        domain: str,
        connection_info: ConnectionInfo,
        access: v1.Access = v1.ACCESS_UNSPECIFIED,
        disk: v1.DiskOptions | None = None,
        volume: v1.VolumeFacts | None = None,
        require_rw: bool = False,
        boot: bool = False,
        timeout: float | None = None,
    ) -> v1.Attachment:
        """Connects a volume to the host and hot-plugs it into a domain.

        attachment_id: chosen by the caller; a repeat with the same id and request has the same answer.
        domain: its UUID or name.
        connection_info: Cinder's, as it is, nested or flat; or typed.
        access: read-only wins over whatever else is said; unspecified: what the volume allows.
        volume: what the control plane vouches for: the volume's owner, permissions and uses.
        require_rw: rather FailedPrecondition (READ_WRITE_REFUSED) than read-only.
        boot: the domain boots from the volume.
        """
        request = v1.AttachVolumeRequest(
            attachment_id=attachment_id,
            volume_id=volume_id,
            domain=domain,
            connection_info=_connection_info(connection_info),
            access=access,
            disk=disk,
            volume=volume,
            require_rw=require_rw,
            boot=boot,
        )
        return self._call("AttachVolume", request, timeout).attachment

    def plan_attach(
        self,
        *,
        attachment_id: str,
        volume_id: str,
        domain: str,
        connection_info: ConnectionInfo,
        access: v1.Access = v1.ACCESS_UNSPECIFIED,
        disk: v1.DiskOptions | None = None,
        volume: v1.VolumeFacts | None = None,
        require_rw: bool = False,
        boot: bool = False,
        timeout: float | None = None,
    ) -> v1.PlanAttachResponse:
        """What `attach_volume` would do; touches nothing, and secrets are redacted."""
        request = v1.AttachVolumeRequest(
            attachment_id=attachment_id,
            volume_id=volume_id,
            domain=domain,
            connection_info=_connection_info(connection_info),
            access=access,
            disk=disk,
            volume=volume,
            require_rw=require_rw,
            boot=boot,
        )
        return self._call("PlanAttach", v1.PlanAttachRequest(request=request), timeout)

    def detach_volume(self, *, attachment_id: str, force: bool = False, timeout: float | None = None) -> None:
        """Unplugs a volume from its domain and disconnects it. An unknown id is detached already.

        force: go on where what was written last cannot be flushed, and is lost.

        `UnplugPending`: the guest has not let go yet, and the detach goes on by itself. `FailedPrecondition` with the reason
        UNPLUG_REFUSED: the guest refused, and keeps the disk.
        """
        self._call("DetachVolume", v1.DetachVolumeRequest(attachment_id=attachment_id, force=force), timeout)

    def cancel_detach(self, *, attachment_id: str, timeout: float | None = None) -> v1.Attachment:
        """Cancels a detach whose guest has not let go of the disk. `FailedPrecondition` (DISK_LOST): no disk is left to keep."""
        return self._call("CancelDetach", v1.CancelDetachRequest(attachment_id=attachment_id), timeout).attachment

    def connect_volume(
        self,
        *,
        attachment_id: str,
        volume_id: str,
        connection_info: ConnectionInfo,
        access: v1.Access = v1.ACCESS_UNSPECIFIED,
        disk: v1.DiskOptions | None = None,
        volume: v1.VolumeFacts | None = None,
        require_rw: bool = False,
        boot: bool = False,
        timeout: float | None = None,
    ) -> v1.Attachment:
        """Connects a volume to the host alone: `host_path` and `disk_xml` of the answer say how to use it.

        disk: for that disk XML. The rest is as for `attach_volume`.
        """
        request = v1.ConnectVolumeRequest(
            attachment_id=attachment_id,
            volume_id=volume_id,
            connection_info=_connection_info(connection_info),
            access=access,
            disk=disk,
            volume=volume,
            require_rw=require_rw,
            boot=boot,
        )
        return self._call("ConnectVolume", request, timeout).attachment

    def disconnect_volume(self, *, attachment_id: str, force: bool = False, timeout: float | None = None) -> None:
        """Disconnects what `connect_volume` connected. An unknown id is disconnected already. `force`: as for `detach_volume`."""
        self._call("DisconnectVolume", v1.DisconnectVolumeRequest(attachment_id=attachment_id, force=force), timeout)

    def get_attachment(self, *, attachment_id: str, timeout: float | None = None) -> v1.Attachment:
        """The attachment as it is now, or `NotFound`."""
        return self._call("GetAttachment", v1.GetAttachmentRequest(attachment_id=attachment_id), timeout)

    def list_attachments(
        self,
        *,
        filter: v1.AttachmentFilter | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[v1.Attachment]:
        """The attachments that match and that the caller may see, ordered by id, fetched page by page as the iterator goes.

        page_size: at most 1000; 0: the daemon's 100.
        """
        request = v1.ListAttachmentsRequest(filter=filter, page_size=page_size)
        while True:
            page = self._call("ListAttachments", request, timeout)
            yield from page.attachments
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch_attachments(
        self,
        *,
        filter: v1.AttachmentFilter | None = None,
        resume_after: str = "",
        timeout: float | None = None,
        patience: float | None = None,
    ) -> Watch:
        """The attachments that match as they are now, then each change as it happens. See `Event` and `Kind`.

        resume_after: revision of the last event that was dealt with, to go on after it with the same filter; empty: everything.
        timeout: seconds until the watch ends with `TemporaryError`; None: it goes on. The client's does not count here.
        patience: seconds for which a broken watch is resumed before it raises; None: the client's timeout.
        """

        def start(revision: str, remaining: float | None) -> Any:
            request = v1.WatchAttachmentsRequest(filter=filter, resume_after=revision)
            return self._methods["WatchAttachments"](request, timeout=remaining, metadata=self._metadata())

        return Watch(
            start,
            resume_after=resume_after,
            timeout=timeout,
            patience=self._timeout if patience is None else patience,
        )

    def get_connector(self, *, timeout: float | None = None) -> v1.Connector:
        """What the host can connect to, under os-brick's names: what the control plane hands to the storage."""
        return self._call("GetConnector", v1.GetConnectorRequest(), timeout)

    def extend_volume(self, *, attachment_id: str, size_bytes: int = 0, timeout: float | None = None) -> int:
        """Has the host and the guest see a volume that its storage has grown. Returns the bytes that the guest sees, or else the host.

        size_bytes: what the volume is to have at least; 0: whatever it has on its storage.
        """
        request = v1.ExtendVolumeRequest(attachment_id=attachment_id, size_bytes=size_bytes)
        return self._call("ExtendVolume", request, timeout).size_bytes

    def set_io_tune(
        self,
        *,
        attachment_id: str,
        iotune: v1.IoTune | None = None,
        qos_specs: v1.QosSpecs | None = None,
        timeout: float | None = None,
    ) -> v1.IoTune:
        """Replaces the limits on the I/O of an attachment's disk while its guest runs. Returns those in force afterwards.

        iotune: limits by libvirt's names; none of them: all limits end. qos_specs: instead, the QoS specs of Cinder's volume type.
        """
        request = v1.SetIoTuneRequest(attachment_id=attachment_id, iotune=iotune, qos_specs=qos_specs)
        return self._call("SetIoTune", request, timeout).iotune

    def get_attachment_stats(self, *, attachment_id: str, timeout: float | None = None) -> v1.AttachmentStats:
        """The guest's I/O on an attachment's disk since the disk was plugged in, and the limits in force."""
        request = v1.GetAttachmentStatsRequest(attachment_id=attachment_id)
        return self._call("GetAttachmentStats", request, timeout)

    def get_volume_permissions(self, *, volume_id: str, timeout: float | None = None) -> v1.VolumePermissions:
        """Who may use a volume, as far as the host knows."""
        return self._call("GetVolumePermissions", v1.GetVolumePermissionsRequest(volume_id=volume_id), timeout)

    def set_volume_permissions(self, *, volume_id: str, permissions: str, timeout: float | None = None) -> v1.VolumePermissions:
        """Sets who may use a volume on this host, such as "640", for attaches from now on. Empty: forget what was set."""
        request = v1.SetVolumePermissionsRequest(volume_id=volume_id, permissions=permissions)
        return self._call("SetVolumePermissions", request, timeout)

    def diagnose(self, *, timeout: float | None = None) -> v1.DiagnoseResponse:
        """What is wrong on the host, each with the command that mends it. Changes nothing."""
        return self._call("Diagnose", v1.DiagnoseRequest(), timeout)

    def forget_attachment(
        self, *, attachment_id: str, confirmed: bool = False, timeout: float | None = None
    ) -> v1.ForgetAttachmentResponse:
        """Removes the record of an attachment that nothing can settle, and reports what is left of it on the host.

        confirmed: False: forget nothing, and report what would be left. True: tried once alone, since the repeat after a lost answer
        would raise `NotFound`, and the report would be lost.
        """
        request = v1.ForgetAttachmentRequest(attachment_id=attachment_id, confirmed=confirmed)
        return self._call("ForgetAttachment", request, timeout, repeat=not confirmed)

    def _metadata(self) -> list[tuple[str, str]]:
        tokens = [("x-auth-token", self._token), ("x-service-token", self._service_token)]
        return [(name, token() if callable(token) else token) for name, token in tokens if token is not None]

    def _call(self, method: str, request: Message, timeout: float | None, *, repeat: bool = True) -> Any:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        pauses = retry.pauses()
        failures = 0
        known: errors.VolattachError | None = None  # the last failure that has a reason
        while True:
            remaining = max(deadline - time.monotonic(), 0)
            try:
                return self._methods[method](request, timeout=remaining, metadata=self._metadata())
            except grpc.RpcError as error:
                failure = errors.from_rpc(error)
                failures += 1
                pause = next(pauses) if failure.retry_after is None else failure.retry_after
                over = time.monotonic() + pause >= deadline
                if not repeat or not retry.is_repeated(failure, failures) or over:
                    # That the time is over says less than why it was not enough.
                    raise (failure if failure.reason or known is None else known) from error
                known = failure if failure.reason else known
            _log.info("%s: %s; again in %.1f s", method, failure, pause)
            time.sleep(pause)


def _connection_info(info: ConnectionInfo) -> v1.ConnectionInfo:
    if isinstance(info, v1.ConnectionInfo):
        return info
    return v1.ConnectionInfo(cinder_json=json.dumps(info))


def _channel(
    target: str,
    ca: str | os.PathLike[str] | None,
    certificate: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
) -> grpc.Channel:
    address = urlsplit(target)
    if address.scheme == "unix":
        if (ca, certificate, key) != (None, None, None):
            raise ValueError(f"{target} is a unix socket, which has no TLS: leave out ca, certificate and key")
        # gRPC would name the socket's path as the authority, which the daemon's HTTP/2 library refuses.
        return grpc.insecure_channel(target, [*_OPTIONS, ("grpc.default_authority", "localhost")])
    if address.scheme == "https" and address.hostname and address.port:
        ca_pem, certificate_pem, key_pem = (None if path is None else Path(path).read_bytes() for path in (ca, certificate, key))
        credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, certificate_pem)
        return grpc.secure_channel(address.netloc, credentials, _OPTIONS)
    raise ValueError(f'{target!r} is no target: it is to be "unix:/path" or "https://host:port"')


def _callable(channel: grpc.Channel, method: Any) -> Any:
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    return make(
        f"/{_SERVICE.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
