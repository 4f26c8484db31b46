"""Tells where in this node a secret can be read.

Reads {"LABEL": ["PIECE", ...], ...} as JSON from standard input, so that no piece is in this program's own arguments,
and writes {"hits": ["LABEL: PLACE (FORM)", ...], "processes": ["ARGV[0]", ...]}: what it found, and whom it looked at.

A piece is made of letters and digits: what doubles commas or escapes for JSON, XML, URLs and shells leaves it as it is.
"""

import base64
import json
import os
import stat
import subprocess
import sys

COMMANDS = [
    "journalctl -a --no-pager -o export",
    "dmesg",
    "virsh dumpxml inner",
    "virsh dumpxml --inactive inner",
    "systemctl show volattachd.service",
    "cat /proc/keys /proc/fs/cifs/DebugData /proc/fs/cifs/Stats",
]
# Each with what is beneath it on the same file system. The servers' own files (/srv/lab) are not the agent's.
TREES = ["/etc", "/root", "/run", "/tmp", "/var/cache", "/var/crash", "/var/lib/libvirt", "/var/lib/systemd",
         "/var/lib/volattach", "/var/log", "/var/tmp"]


def forms(piece):
    plain = piece.encode()
    yield "plain", plain
    yield "UTF-16", piece.encode("utf-16-le")
    yield "hexadecimal", plain.hex().encode()
    yield "hexadecimal", plain.hex().upper().encode()
    for shift in range(3):
        # What depends on the piece alone, wherever in the encoded text it begins.
        encoded = base64.b64encode(bytes(shift) + plain)
        yield "base64", encoded[(0, 2, 3)[shift]:(shift + len(plain)) // 3 * 4]


NEEDLES = [
    (label, form, needle)
    for label, pieces in json.load(sys.stdin).items()
    for piece in pieces
    for form, needle in forms(piece)
]
hits = set()


def look(place, content):
    for label, form, needle in NEEDLES:
        if needle in content:
            hits.add(f"{label}: {place} ({form})")


def read(path):
    """The file, or nothing where its process or name has gone meanwhile."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def look_at_processes():
    processes = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        comm = read(f"/proc/{pid}/comm").decode(errors="replace").strip()
        processes.add(read(f"/proc/{pid}/cmdline").split(b"\0")[0].decode(errors="replace"))
        for name, path in [("arguments", "cmdline"), ("environment", "environ"), ("mounts", "mountinfo")]:
            try:
                look(f"{name} of {comm}", read(f"/proc/{pid}/{path}"))
            except OSError as error:
                # mountinfo of a process that is ending.
                if error.errno != 22:
                    raise
    return sorted(processes)


def trees():
    yield from TREES
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, target, kind, *_ = line.split()
            if kind == "tmpfs" and target not in TREES:
                yield target


def look_at_files():
    for top in trees():
        if not os.path.isdir(top):
            continue
        device = os.lstat(top).st_dev
        for directory, directories, files in os.walk(top):
            directories[:] = [d for d in directories if os.lstat(os.path.join(directory, d)).st_dev == device]
            for name in files:
                path = os.path.join(directory, name)
                look("name " + path, os.fsencode(path))
                try:
                    found = os.lstat(path)
                except FileNotFoundError:
                    continue
                # What is in *.journal is compressed: journalctl reads it above.
                if stat.S_ISREG(found.st_mode) and found.st_dev == device and not path.endswith(".journal"):
                    look(path, read(path))


processes = look_at_processes()
for command in COMMANDS:
    look(command, subprocess.run(command.split(), check=True, capture_output=True).stdout)
look_at_files()
json.dump({"hits": sorted(hits), "processes": processes}, sys.stdout)
