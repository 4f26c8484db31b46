#!/usr/bin/python3
"""Storage servers that mean ill, each on a port of its own: servers.py nfs|iscsi PORT HOW."""

import socketserver
import struct
import sys
import time

_, protocol, port, how = sys.argv


def heard():
    """Tells the test that this server was asked something."""
    with open(f"/run/lab-hostile/heard.{port}", "w") as file:
        file.write("yes")


def nfs(connection):
    """Answers of RPC (RFC 5531) that are none."""
    request = connection.recv(4096)
    if not request:
        return
    heard()
    xid = request[4:8]
    done = xid + struct.pack(">5I", 1, 0, 0, 0, 0)
    if how == "long":  # a record of 2 GiB
        connection.sendall(struct.pack(">I", 0xFFFFFFFF) + done)
    elif how == "other":  # the answer to another call
        wrong = bytes(4) + done[4:]
        connection.sendall(struct.pack(">I", 1 << 31 | len(wrong)) + wrong)
    elif how == "fragments":  # a record that never ends
        while True:
            connection.sendall(struct.pack(">I", 4) + xid)
            time.sleep(0.01)
    elif how == "drip":  # a byte now and then
        for byte in struct.pack(">I", 1 << 31 | 60000) + done:
            connection.sendall(bytes([byte]))
            time.sleep(1)
        time.sleep(60)
    elif how == "text":
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n<0>FORGED\n\x1b[2J")
    elif how == "verifier":  # of 4 GiB
        lie = xid + struct.pack(">5I", 1, 0, 0, 0xFFFFFFFF, 0)
        connection.sendall(struct.pack(">I", 1 << 31 | len(lie)) + lie)
    time.sleep(30)


HEADER = 48
# What a target's answer may not come to: files, lines of a log, commands of a terminal.
NAMES = {
    "slashes": [b"../../../../etc/cron.d/forged", b"iqn.a/../../../b", b"/etc/passwd"],
    "lines": [b"iqn.a\n<0>FORGED", b"iqn.a\x1b[2J", b"iqn.a b", b"iqn.\xff\xfe", b""],
}


def take(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def iscsi(connection):
    """Just enough of a target (RFC 3720) for a discovery session."""
    statsn = 1
    discovery = False
    while True:
        header = take(connection, HEADER)
        length = int.from_bytes(header[5:8], "big")
        data = take(connection, (length + 3) // 4 * 4)[:length]
        heard()
        opcode = header[0] & 0x3F
        cmdsn = struct.unpack(">I", header[24:28])[0]
        tail = struct.pack(">III", statsn, cmdsn + 1, cmdsn + 32)
        statsn += 1
        if opcode == 0x03:  # login
            # A session's first request alone names its type; it may begin in either stage.
            discovery = discovery or b"SessionType=Discovery" in data
            status = 0 if discovery else 0x0203
            answer = b"AuthMethod=None\0" if b"AuthMethod" in data else b"HeaderDigest=None\0DataDigest=None\0"
            head = bytes([0x23, header[1], 0, 0]) + len(answer).to_bytes(4, "big")
            head += header[8:14] + b"\0\1" + header[16:20] + bytes(4) + tail + struct.pack(">H", status) + bytes(10)
            send(connection, head, answer)
            if status:
                return
        elif opcode == 0x04:  # text: which targets
            forever = how == "endless"
            while True:
                answer = targets()
                flags = 0x40 if forever else 0x80
                ttt = struct.pack(">I", 7 if forever else 0xFFFFFFFF)
                head = bytes([0x24, flags, 0, 0]) + len(answer).to_bytes(4, "big")
                head += bytes(8) + header[16:20] + ttt + tail + bytes(12)
                send(connection, head, answer)
                if not forever:
                    break
                header = take(connection, HEADER)
                length = int.from_bytes(header[5:8], "big")
                take(connection, (length + 3) // 4 * 4)
        else:  # logout
            head = bytes([0x26, 0x80, 0, 0]) + bytes(12) + header[16:20] + bytes(4) + tail + bytes(12)
            send(connection, head, b"")
            return


def targets():
    if how in NAMES:
        pairs = [(name, b"127.0.0.1:1,1") for name in NAMES[how]]
    elif how == "many":
        pairs = [(b"iqn.2026-01.org.lab:t%d" % number, b"127.0.0.1:1,1") for number in range(100)]
    else:
        pairs = [(b"iqn.2026-01.org.lab:t", b"127.0.0.%d:1,1" % number) for number in range(2, 200)]
    answer = b"".join(b"TargetName=%s\0TargetAddress=%s\0" % pair for pair in pairs)
    return answer[:8000].rpartition(b"\0")[0] + b"\0"


def send(connection, head, data):
    assert len(head) == HEADER, len(head)
    connection.sendall(head + data + bytes(-len(data) % 4))


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            {"nfs": nfs, "iscsi": iscsi}[protocol](self.request)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("127.0.0.1", int(port)), Handler).serve_forever()
