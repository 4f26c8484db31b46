"""The programs of examples/ and the real daemon."""

import json
import re
import subprocess
import sys
import unittest
from pathlib import Path

from daemon import LONG, Daemon


class Python(unittest.TestCase):
    program = (sys.executable, Path(__file__).parents[3] / "examples/attach_watch_detach.py")

    def run_program(self, *options):
        info = self.daemon.path / "info.json"
        info.write_text(json.dumps(self.daemon.volume("vol-1")))
        command = [*self.program, "--target", self.daemon.target, "--volume", "vol-1", *options, info]
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG)

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.remove)
        self.daemon.start()

    def test_a_volume_comes_and_goes(self):
        done = self.run_program()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(f"this host has it as {self.daemon.roots}/vol-1\n", done.stdout)
        states = re.findall("STATE_[A-Z]*", done.stdout)
        self.assertIn("STATE_CONNECTED", states)
        self.assertEqual(states[-1], "STATE_GONE")

    def test_an_error_has_its_reason(self):
        done = self.run_program("--domain", "web", "--timeout", "1")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"libvirt.*\(HYPERVISOR_UNAVAILABLE\)\n$")
