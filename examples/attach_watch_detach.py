#!/usr/bin/env python3
"""Attaches a volume to a domain, shows each change that the daemon reports of it, and detaches it again.

    attach_watch_detach.py --volume vol-1 --domain web connection-info.json
    attach_watch_detach.py --volume vol-1 connection-info.json          # to this host alone, into no domain

Needs the package of clients/python. The file holds Cinder's connection info.
"""

import argparse
import json
import sys
import uuid

import volattach
from volattach import Kind, v1

LONG = 600  # seconds for all of it


def follow(watch: volattach.Watch, last: v1.State) -> None:
    """Prints the changes of the attachment up to that state."""
    listed = True
    for event in watch:
        if event.kind == Kind.RESET:
            listed = False
        elif event.kind == Kind.SYNCED:
            if not listed and last == v1.STATE_GONE:
                return  # while the daemon restarted
        else:
            listed = True
            attachment = event.attachment
            print(attachment.attachment_id, v1.State.Name(attachment.state), attachment.error)
            if attachment.state == last:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description="Attaches a volume, watches it and detaches it.")
    parser.add_argument("--target", default=volattach.SOCKET, help="unix:/path or https://host:port")
    parser.add_argument("--ca", help="of the daemon's certificate")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--timeout", type=float, default=volattach.TIMEOUT, help="seconds for each call, its repeats included")
    parser.add_argument("--volume", required=True, help="the volume's id")
    parser.add_argument("--domain", help="UUID or name")
    parser.add_argument("connection_info", type=argparse.FileType())
    options = parser.parse_args()

    # The id is chosen before the first call and kept: after a crash, the same request with the same id goes on where it was.
    request = {
        "attachment_id": str(uuid.uuid4()),
        "volume_id": options.volume,
        "connection_info": json.load(options.connection_info),
    }
    tls = {"ca": options.ca, "certificate": options.certificate, "key": options.key}
    with (
        volattach.Client(options.target, timeout=options.timeout, **tls) as client,
        client.watch_attachments(filter=v1.AttachmentFilter(volume_id=options.volume), timeout=LONG) as watch,
    ):
        next(event for event in watch if event.kind == Kind.SYNCED)  # from here on, it reports all changes
        if options.domain:
            made = client.attach_volume(domain=options.domain, **request)
            print(f"{made.domain_name} has it as {made.target}")
            follow(watch, v1.STATE_ATTACHED)
        else:
            made = client.connect_volume(**request)
            print(f"this host has it as {made.host_path}")
            follow(watch, v1.STATE_CONNECTED)
        try:
            if options.domain:
                client.detach_volume(attachment_id=made.attachment_id)
            else:
                client.disconnect_volume(attachment_id=made.attachment_id)
        except volattach.UnplugPending as pending:
            print(pending)
        follow(watch, v1.STATE_GONE)


if __name__ == "__main__":
    try:
        main()
    except volattach.VolattachError as error:
        sys.exit(f"{type(error).__name__}: {error}")
