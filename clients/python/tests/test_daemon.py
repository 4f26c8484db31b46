"""The client and the real daemon."""

import logging
import socket
import subprocess
import threading
import traceback
import unittest
from contextlib import closing

import grpc
from daemon import LONG, Cable, Daemon, Libvirt

import volattach
from volattach import Kind, v1


class WithDaemon(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.remove)
        self.daemon.start()
        self.client = volattach.Client(self.daemon.target, timeout=LONG)
        self.addCleanup(self.client.close)

    def connect(self, name, client=None):
        return (client or self.client).connect_volume(attachment_id=f"att-{name}", volume_id=name, connection_info=self.daemon.volume(name))

    def watch(self, client=None, **options):
        watch = (client or self.client).watch_attachments(timeout=LONG, **options)
        self.addCleanup(watch.close)
        return watch

    def held(self, watch, until=Kind.SYNCED):
        """The ids that a watcher holds after the first event of that kind, and all events up to there."""
        held, events = set(), []
        for event in watch:
            events.append(event)
            match event.kind:
                case Kind.RESET:
                    held.clear()
                case Kind.CHANGED:
                    held.add(event.attachment.attachment_id)
                case Kind.GONE:
                    held.discard(event.attachment.attachment_id)
            if event.kind == until:
                return held, events
        self.fail("the watch ended")

    def repeats(self):
        """An event that is set once the client makes a call again, which it logs."""
        seen = threading.Event()
        handler = logging.Handler()
        handler.emit = lambda record: seen.set()
        logger = logging.getLogger("volattach")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        return seen


class Calls(WithDaemon):
    def test_a_volume_comes_and_goes(self):
        made = self.connect("vol-1")
        self.assertEqual(made.state, v1.STATE_CONNECTED)
        self.assertEqual(made.host_path, str(self.daemon.roots / "vol-1"))
        self.assertEqual(self.connect("vol-1"), made, "the same request again")
        self.assertEqual(self.client.get_attachment(attachment_id="att-vol-1"), made)
        self.assertEqual(list(self.client.list_attachments()), [made])
        self.assertEqual(list(self.client.list_attachments(filter=v1.AttachmentFilter(volume_id="vol-2"))), [])
        size = self.client.extend_volume(attachment_id="att-vol-1")
        self.assertEqual(size, 1 << 20)

        for limits in ({"iotune": v1.IoTune(total_iops_sec=5)}, {"qos_specs": v1.QosSpecs(specs={"total_iops_sec": "5"})}):
            with self.assertRaises(volattach.FailedPrecondition) as raised:
                self.client.set_io_tune(attachment_id="att-vol-1", **limits)
            self.assertEqual(raised.exception.reason, "ATTACHMENT_KIND")
        with self.assertRaises(volattach.FailedPrecondition):
            self.client.get_attachment_stats(attachment_id="att-vol-1")

        self.client.disconnect_volume(attachment_id="att-vol-1")
        self.client.disconnect_volume(attachment_id="att-vol-1")
        self.assertEqual(list(self.client.list_attachments()), [])
        with self.assertRaises(volattach.NotFound) as raised:
            self.client.get_attachment(attachment_id="att-vol-1")
        self.assertEqual(raised.exception.reason, "ATTACHMENT_NOT_FOUND")

    def test_the_host_is_described(self):
        self.assertEqual(self.client.get_connector().os_type, "linux")
        findings = self.client.diagnose().findings
        self.assertTrue(any("libvirt" in finding.what for finding in findings), findings)
        self.client.set_volume_permissions(volume_id="vol-1", permissions="640")
        self.assertEqual(self.client.get_volume_permissions(volume_id="vol-1").permissions, "640")

    def test_an_error_has_its_reason(self):
        info = {"driver_volume_type": "local", "data": {"device_path": "/etc/hostname"}}
        with self.assertRaises(volattach.FailedPrecondition) as raised:
            self.client.connect_volume(attachment_id="att-1", volume_id="vol-1", connection_info=info)
        error = raised.exception
        self.assertEqual(error.reason, "VOLUME_PATH_UNSAFE")
        self.assertEqual(error.code, grpc.StatusCode.FAILED_PRECONDITION)
        self.assertEqual(error.metadata, {"attachment_id": "att-1", "volume_id": "vol-1"})
        self.assertIn("/etc/hostname", error.message)

    def test_errors_differ_by_what_to_do(self):
        self.connect("vol-1")
        calls = [
            (
                volattach.InvalidArgument,
                "PROTOCOL_UNSUPPORTED",
                lambda: self.client.connect_volume(
                    attachment_id="att-2", volume_id="vol-2", connection_info={"driver_volume_type": "rbd", "data": {}}
                ),
            ),
            (
                volattach.AlreadyExists,
                "ATTACHMENT_CONFLICT",
                lambda: self.client.connect_volume(
                    attachment_id="att-vol-1", volume_id="vol-2", connection_info=self.daemon.volume("vol-2")
                ),
            ),
            (
                volattach.FailedPrecondition,
                "FORGET_REFUSED",
                lambda: self.client.forget_attachment(attachment_id="att-vol-1"),
            ),
            (
                volattach.FailedPrecondition,
                "ATTACHMENT_KIND",
                lambda: self.client.detach_volume(attachment_id="att-vol-1"),
            ),
            (
                volattach.Unauthenticated,
                "UNAUTHENTICATED",
                lambda: self.client.with_tokens("a-token").get_connector(),
            ),
        ]
        for kind, reason, call in calls:
            with self.subTest(reason), self.assertRaises(kind) as raised:
                call()
            self.assertEqual(raised.exception.reason, reason)

    def test_a_list_is_fetched_page_by_page(self):
        names = [f"vol-{number}" for number in range(5)]
        for name in names:
            self.connect(name)
        listed = self.client.list_attachments(page_size=2)
        self.assertEqual(next(listed).volume_id, "vol-0")
        self.client.disconnect_volume(attachment_id="att-vol-4")  # of a page that was not fetched yet
        self.assertEqual([attachment.volume_id for attachment in listed], names[1:4])

    def test_secrets_are_not_shown(self):
        secret = "hunter2-of-a-share"
        info = {
            "driver_volume_type": "smbfs",
            "data": {"export": "//host/share", "name": "v", "options": f"-o username=bob,password=x,{secret}"},
        }
        with self.assertRaises(volattach.InvalidArgument) as raised:
            self.client.connect_volume(attachment_id="att-1", volume_id="vol-1", connection_info=info)
        error = raised.exception
        self.assertEqual(error.reason, "MOUNT_OPTION_REFUSED")
        shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
        shown += [repr(error.__cause__), str(error.__cause__), repr(self.client.with_tokens(secret, secret))]
        for text in shown:
            self.assertNotIn(secret, text)


class Guest(unittest.TestCase):
    def test_a_guest_has_volumes_and_lets_go_of_them_or_not(self):
        libvirt = Libvirt()
        self.addCleanup(libvirt.remove)
        libvirt.start_guest()
        daemon = Daemon('[detach]\nunplug_timeout = "1s"', libvirt)
        self.addCleanup(daemon.remove)
        daemon.start()
        client = volattach.Client(daemon.target, timeout=LONG)
        self.addCleanup(client.close)

        def request(name, bus):
            return {
                "attachment_id": f"att-{name}",
                "volume_id": name,
                "domain": "idle",
                "connection_info": daemon.volume(name),
                "access": v1.ACCESS_READ_ONLY,
                "disk": v1.DiskOptions(bus=bus),
            }

        plan = client.plan_attach(**request("vol-1", "scsi"))
        self.assertIn("<readonly/>", plan.disk_xml)
        made = client.attach_volume(**request("vol-1", "scsi"))
        self.assertEqual((made.state, made.target, made.domain_name), (v1.STATE_ATTACHED, "sda", "idle"))
        self.assertIn("vol-1", libvirt.disks())
        client.detach_volume(attachment_id="att-vol-1")
        self.assertNotIn("vol-1", libvirt.disks())

        client.attach_volume(**request("vol-2", "virtio"))
        with self.assertRaises(volattach.UnplugPending):
            client.detach_volume(attachment_id="att-vol-2")
        self.assertEqual(client.get_attachment(attachment_id="att-vol-2").state, v1.STATE_DETACHING)
        self.assertEqual(client.cancel_detach(attachment_id="att-vol-2").state, v1.STATE_ATTACHED)
        self.assertIn("vol-2", libvirt.disks())


class Watches(WithDaemon):
    def test_changes_are_seen(self):
        self.connect("vol-1")
        watch = self.watch()
        held, events = self.held(watch)
        self.assertEqual(held, {"att-vol-1"})
        self.assertEqual([event.kind for event in events], [Kind.RESET, Kind.CHANGED, Kind.SYNCED])
        self.client.disconnect_volume(attachment_id="att-vol-1")
        _, events = self.held(watch, until=Kind.GONE)
        self.assertEqual(events[-1].attachment.attachment_id, "att-vol-1")
        self.assertEqual(events[-1].attachment.state, v1.STATE_GONE)

    def test_a_watch_goes_on_where_its_connection_broke(self):
        cable = Cable(self.daemon)
        self.addCleanup(cable.remove)
        with closing(volattach.Client(cable.target, timeout=LONG)) as client:
            watch = self.watch(client)
            self.held(watch)
            cable.cut()
            self.connect("vol-1")
            self.client.disconnect_volume(attachment_id="att-vol-1")
            self.connect("vol-2")
            cable.mend()
            held, events = self.held(watch)
            self.assertEqual(held, {"att-vol-2"})
            kinds = [event.kind for event in events]
            self.assertNotIn(Kind.RESET, kinds)
            self.assertIn(Kind.GONE, kinds)
            # Another watcher goes on from there.
            self.connect("vol-3")
            held, _ = self.held(self.watch(resume_after=events[-1].revision))
            self.assertEqual(held, {"att-vol-3"})

    def test_a_watch_starts_anew_after_a_restart(self):
        cable = Cable(self.daemon)
        self.addCleanup(cable.remove)
        self.connect("vol-1")
        self.connect("vol-2")
        with closing(volattach.Client(cable.target, timeout=LONG)) as client:
            watch = self.watch(client)
            held, _ = self.held(watch)
            self.assertEqual(held, {"att-vol-1", "att-vol-2"})
            cable.cut()
            self.daemon.stop()
            self.daemon.start()
            self.client.disconnect_volume(attachment_id="att-vol-1")
            cable.mend()
            held, events = self.held(watch)
            self.assertEqual(events[0].kind, Kind.RESET)
            self.assertEqual(held, {"att-vol-2"})
            self.connect("vol-3")
            _, events = self.held(watch, until=Kind.CHANGED)
            self.assertEqual(events[-1].attachment.attachment_id, "att-vol-3")

    def test_a_revision_of_another_life_starts_anew(self):
        self.connect("vol-1")
        _, events = self.held(self.watch())
        self.daemon.stop()
        self.daemon.start()
        held, events = self.held(self.watch(resume_after=events[-1].revision))
        self.assertEqual(held, {"att-vol-1"})
        self.assertEqual(events[0].kind, Kind.RESET)

    def test_a_watch_is_closed_from_another_thread(self):
        watch = self.watch()
        self.held(watch)
        closer = threading.Thread(target=watch.close)
        closer.start()
        self.assertEqual(list(watch), [])
        closer.join(LONG)

    def test_patience_and_time_end(self):
        with self.assertRaises(volattach.TemporaryError) as raised:
            list(self.client.watch_attachments(timeout=0.5))
        self.assertEqual(raised.exception.code, grpc.StatusCode.DEADLINE_EXCEEDED)
        watch = self.watch(patience=0.5)
        self.held(watch)
        self.daemon.stop()
        with self.assertRaises(volattach.TemporaryError) as raised:
            list(watch)
        self.assertIn(raised.exception.code, {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


class Restarts(WithDaemon):
    def test_a_call_waits_for_the_daemon(self):
        self.connect("vol-1")
        self.daemon.stop()
        repeated = self.repeats()
        made = []
        call = threading.Thread(target=lambda: made.append(self.connect("vol-2")))
        call.start()
        self.assertTrue(repeated.wait(LONG))
        self.assertEqual(made, [])
        self.daemon.start()
        call.join(LONG)
        self.assertEqual([attachment.volume_id for attachment in made], ["vol-2"])
        self.assertEqual([it.volume_id for it in self.client.list_attachments()], ["vol-1", "vol-2"])

    def test_it_waits_no_longer_than_it_was_told_to(self):
        self.daemon.stop()
        with self.assertRaises(volattach.TemporaryError) as raised:
            self.client.get_connector(timeout=0.5)
        # By whether the last try was refused or still under way.
        self.assertIn(raised.exception.code, {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
        self.assertEqual(raised.exception.reason, "")


class Network(unittest.TestCase):
    def issue(self, name, *options):
        """Makes NAME.pem and NAME.key in the daemon's directory."""
        command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*command.split(), *files, *options], cwd=self.daemon.path, check=True, capture_output=True)

    def test_a_certificate_lets_in(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.daemon = Daemon(f"""
            [listen.tls]
            addresses = ["127.0.0.1:{port}"]
            certificate = "@/server.pem"
            key = "@/server.key"
            client_ca = "@/ca.pem"
            [auth.certificates]
            "ctl.example.org" = ["admin"]
            """)
        self.addCleanup(self.daemon.remove)
        issued = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE", "-addext"]
        self.issue("ca")
        self.issue("server", *issued, "subjectAltName=DNS:localhost")
        self.issue("client", *issued, "subjectAltName=DNS:ctl.example.org")
        self.issue("stranger", *issued, "subjectAltName=DNS:example.org")
        self.daemon.start()

        def client(name):
            files = {"certificate": self.daemon.path / f"{name}.pem", "key": self.daemon.path / f"{name}.key"}
            return volattach.Client(f"https://localhost:{port}", ca=self.daemon.path / "ca.pem", timeout=LONG, **files)

        with client("client") as known:
            self.assertEqual(known.get_connector().os_type, "linux")
            with known.watch_attachments() as watch:
                self.assertEqual(next(watch).kind, Kind.RESET)
        with client("stranger") as unknown, self.assertRaises(volattach.PermissionDenied):
            unknown.get_connector()
