#!/usr/bin/python3
"""Connects and disconnects a volume with os-brick, as Nova does, and tells how long each took.

stdin: {"protocol": "ISCSI" or "NFS", "data": what Cinder sends under `data`, "rounds": N}
stdout: [{"connect": seconds, "disconnect": seconds}, ...]
"""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, "/opt/os-brick/lib")

from oslo_config import cfg  # noqa: E402
from oslo_concurrency import lockutils  # noqa: E402
from oslo_privsep import priv_context  # noqa: E402
from os_brick import privileged  # noqa: E402
from os_brick.initiator import connector  # noqa: E402

MOUNTS = "/mnt/os-brick"
# What is written there stands among the kernel's events.
MARKER = "/sys/kernel/tracing/trace_marker"


def mark(text):
    with open(MARKER, "w") as marker:
        marker.write(text)


def settle():
    """What udev does about a disk or mount is neither's work."""
    while os.path.exists("/run/udev/queue"):
        time.sleep(0.05)


def main():
    job = json.load(sys.stdin)
    cfg.CONF([], project="bench")
    lockutils.set_defaults(lock_path="/run/os-brick")
    # As in Nova's service: what needs privileges is done by daemons of its own, which are started once and not counted.
    for context in (privileged.default, privileged.brick_privsep_hide_output):
        context.start(priv_context.Method.FORK)
    client = connector.InitiatorConnector.factory(
        job["protocol"], root_helper="", use_multipath=False,
        nfs_mount_point_base=MOUNTS, conn={"mount_point_base": MOUNTS})
    times = []
    for _ in range(job["rounds"]):
        data = dict(job["data"])
        settle()
        mark("connect")
        begun = time.monotonic()
        device = client.connect_volume(data)
        took = time.monotonic() - begun
        settle()
        mark("disconnect")
        begun = time.monotonic()
        client.disconnect_volume(data, device)
        if job["protocol"] == "NFS":
            # os-brick leaves the share mounted; Nova unmounts it so.
            subprocess.run(["umount", device["path"].rsplit("/", 1)[0]], check=True)
        times.append({"connect": took, "disconnect": time.monotonic() - begun})
    json.dump(times, sys.stdout)


main()
