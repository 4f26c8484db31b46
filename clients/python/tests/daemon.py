"""What the tests run: a volattachd with all that is its in a directory of its own, and a libvirtd with a guest."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

BINARIES = Path(os.environ["VOLATTACH_BINARIES"])
LONG = 30  # seconds


class Daemon:
    def __init__(self, settings="", libvirt=None):
        """settings: more of its configuration; an @ in them is its directory. Without libvirt, it has none."""
        if os.geteuid() != 0:
            raise OSError("only root can run these tests: local volumes must lie in folders that nobody else may change")
        self._directory = tempfile.TemporaryDirectory(prefix="volattach-python-")
        self.path = Path(self._directory.name)
        self.path.chmod(0o755)  # QEMU's user opens volumes in it
        self.socket = self.path / "run/volattachd.sock"
        self.target = f"unix:{self.socket}"
        self.roots = self.path / "volumes"
        self.roots.mkdir()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.path / "notify"))
        self._notify.settimeout(LONG)
        self._process = None
        uri = libvirt.uri if libvirt else f"qemu+unix:///system?socket={self.path}/absent"
        (self.path / "volattachd.toml").write_text(
            f"""
            state_dir = "{self.path}/state"
            mount_base = "{self.path}/mnt"
            [listen]
            socket = "{self.socket}"
            [libvirt]
            uri = "{uri}"
            [local]
            roots = ["{self.roots}"]
            {settings.replace("@", str(self.path))}
            """
        )

    def start(self):
        """Returns when it is ready."""
        with (self.path / "log").open("a") as log:
            self._process = subprocess.Popen(
                [BINARIES / "volattachd", "--config", self.path / "volattachd.toml"],
                env={**os.environ, "NOTIFY_SOCKET": str(self.path / "notify")},
                stderr=log,
            )
        while b"READY=1" not in self._notify.recv(4096).splitlines():
            pass

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LONG)
            self._process = None

    def remove(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait(LONG)
        self._notify.close()
        self._directory.cleanup()

    def volume(self, name):
        """Connection info of a new raw volume of a MiB."""
        path = self.roots / name
        path.write_bytes(bytes(1 << 20))
        return {"driver_volume_type": "local", "data": {"device_path": str(path)}}


class Libvirt:
    """A libvirtd without privileges, with a running guest `idle`: it has nothing to boot. QEMU unplugs its SCSI disks by itself, and
    nobody in it answers for the others.
    """

    USER = "libvirt-qemu"  # as root, it would be the machine's libvirtd, and use its directories
    DOMAIN = """
        <domain type='qemu'>
          <name>idle</name>
          <memory unit='MiB'>32</memory>
          <os><type arch='x86_64' machine='q35'>hvm</type></os>
          <devices>
            <emulator>/usr/bin/qemu-system-x86_64</emulator>
            <controller type='usb' model='none'/>
            <controller type='scsi' index='0' model='virtio-scsi'/>
            <controller type='pci' model='pcie-root'/>
            <controller type='pci' model='pcie-root-port'/>
            <controller type='pci' model='pcie-root-port'/>
            <controller type='pci' model='pcie-root-port'/>
            <controller type='pci' model='pcie-root-port'/>
            <memballoon model='none'/>
          </devices>
        </domain>"""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="volattach-libvirt-")
        path = Path(self._directory.name)
        shutil.chown(path, self.USER)
        self.uri = f"qemu+unix:///session?socket={path}/libvirt/libvirt-sock"
        (path / "libvirtd.conf").touch()
        directories = {"HOME": ".", "XDG_RUNTIME_DIR": ".", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache"}
        self._process = subprocess.Popen(
            ["/usr/sbin/libvirtd", "--config", path / "libvirtd.conf", "--pid-file", path / "libvirtd.pid"],
            env={**os.environ, **{name: str(path / directory) for name, directory in directories.items()}},
            user=self.USER,
            group=pwd.getpwnam(self.USER).pw_gid,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start_guest(self):
        deadline = time.monotonic() + LONG
        while self._virsh("uri").returncode != 0:
            if time.monotonic() > deadline:
                raise OSError("libvirtd does not answer")
            time.sleep(0.1)
        self._virsh("create", "/dev/stdin", input=self.DOMAIN).check_returncode()

    def disks(self):
        return self._virsh("domblklist", "idle").stdout

    def remove(self):
        try:
            self._virsh("destroy", "idle")
        finally:
            self._process.kill()
            self._process.wait(LONG)
            self._directory.cleanup()

    def _virsh(self, *command, **options):
        return subprocess.run(["virsh", "--connect", self.uri, *command], capture_output=True, text=True, timeout=LONG, **options)


class Cable:
    """A unix socket that leads to the daemon's, and can be cut."""

    def __init__(self, daemon):
        self._daemon = daemon
        path = daemon.path / "cable"
        self.target = f"unix:{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends = []
        self._whole = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._daemon.socket))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass

    def cut(self):
        """Ends all connections, and new ones until it is mended."""
        self._whole = False
        for end in self._ends:
            with contextlib.suppress(OSError):  # the other end was first
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def mend(self):
        self._whole = True

    def remove(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
