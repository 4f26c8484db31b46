#!/usr/bin/env python3
"""Looks at `volattach web` with headless Chromium: pictures, keyboard, axe-core, what the page asks for.

    browser.py SHOW AXE OUT

SHOW is the program of tests/page/show.rs, AXE the file axe.min.js, OUT the folder of the pictures. Ends with 1 where
anything is not as it should be. Chromium is driven through two pipes, so that the standard library is enough.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

DEADLINE = 30
WIDE = (1440, 900)
PHONE = (390, 844)


class Chromium:
    """One tab."""

    def __init__(self, profile):
        here, there = os.pipe(), os.pipe()
        # The child has the commands at 3 and the answers at 4.
        command = (
            f"exec chromium --headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
            f"--user-data-dir={profile} --remote-debugging-pipe 3<&{here[0]} 4>&{there[1]}"
        )
        self.process = subprocess.Popen(
            ["sh", "-c", command], pass_fds=(here[0], there[1]), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(here[0])
        os.close(there[1])
        self.out, self.incoming = here[1], there[0]
        self.buffer, self.last, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.buffer:
            more = os.read(self.incoming, 1 << 16)
            if not more:
                raise SystemExit("chromium has ended: is it installed (apt-get install chromium)?")
            self.buffer += more
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0") if len(json.dumps(message)) < 60000 else self.long(message)
        while True:
            answer = self.message()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def long(self, message):
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data[:32768]) :]

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise SystemExit(f"{script[:80]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script):
        end = time.monotonic() + DEADLINE
        while not self.run(script):
            if time.monotonic() > end:
                raise SystemExit(f"it never came: {script}")
            time.sleep(0.05)

    def look(self, url, size=WIDE, dark=False, scripts=True):
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=size == PHONE
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href.startsWith('http')")

    def picture(self, path, whole=False):
        clip = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def key(self, key):
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def faults_of_axe(tab, axe):
    """What axe-core finds. It is run by the debugger, which the page's policy does not bind."""
    tab.run(axe)
    found = tab.run("axe.run().then(it => it.violations.map(v => [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html)]))")
    return [json.dumps(fault) for fault in found]


def main(show, axe, out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    axe = pathlib.Path(axe).read_text() + ";0"
    faults = []

    def check(what, holds):
        print(("ok   " if holds else "FAIL ") + what, flush=True)
        if not holds:
            faults.append(what)

    daemons = subprocess.Popen([show], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    urls = dict(line.split() for line in iter(daemons.stdout.readline, "ready\n"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        tab = Chromium(profile)
        for name, url in urls.items():
            for size, shape in ((WIDE, "wide"), (PHONE, "phone")):
                for dark in (False, True):
                    colour = "dark" if dark else "light"
                    tab.look(url, size, dark)
                    tab.wait("document.getElementById('live').textContent === 'Live'")
                    tab.picture(out / f"{name}-{shape}-{colour}.png", whole=name != "full")
                    wide = tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                    check(f"{name}, {shape}, {colour}: nothing is wider than the page", wide <= 0)
                    for fault in faults_of_axe(tab, axe):
                        check(f"{name}, {shape}, {colour}: axe-core: {fault}", False)
            check(f"{name}: axe-core ran", tab.run("typeof axe") == "object")

        rows = "document.querySelectorAll('#host-0 tbody th.id[id]').length"
        tab.look(urls["full"], scripts=False)
        text = urllib.request.urlopen(urls["full"]).read().decode()
        check("without scripts a thousand rows are there", text.count('data-column="Attachment"') == 1000)
        tab.picture(out / "full-no-script.png")
        tab.look(urls["full"])
        check("a thousand rows", tab.run(rows) == 1000)

        tab.look(urls["rack"])
        tab.wait("document.getElementById('live').textContent === 'Live'")
        tab.key("Tab")
        check("the first key leads to the skip link", tab.run("document.activeElement.className") == "skip")
        tab.look(urls["rack"], (1280, 1060))
        tab.picture(out / "readme.png")
        tab.key("Tab")
        tab.picture(out / "rack-skip.png")
        visited = []
        for _ in range(30):
            tab.key("Tab")
            visited.append(tab.run("document.activeElement.id || document.activeElement.getAttribute('href') || ''"))
        check("keys lead to each host", all(f"to-{n}" in visited for n in range(4)))
        links = tab.run("[...document.querySelectorAll('a')].every(a => document.getElementById(decodeURI(a.hash.slice(1))))")
        check("each link leads somewhere", links)

        tab.look(urls["full"])
        tab.wait("document.getElementById('live').textContent === 'Live'")
        tab.run("document.querySelector('#host-0 th.id[id]').focus(); window.stayed = true; scrollTo(0, 300)")
        daemons.stdin.write("lose\n")
        daemons.stdin.flush()
        tab.wait("document.querySelector('#host-0 tr.failing:has(th[id]) .state')?.textContent === 'lost'")
        check("a lost disk comes by itself, first, without a reload", tab.run(
            "window.stayed && document.querySelector('#host-0 tbody tr:has(th[id])').className === 'failing'"))
        check("a thousand rows still", tab.run(rows) == 1000)
        check("the focus is where it was", tab.run("document.activeElement.id.startsWith('a0-')"))
        tab.picture(out / "full-lost.png")

        tab.look(urls["broken"])
        check("markup in a name is text", tab.run(
            "document.querySelectorAll('script').length === 1 && document.querySelectorAll('img').length === 0 "
            "&& document.body.textContent.includes('<script>alert(1)</script>')"))
        check("the policy keeps other scripts out", tab.run(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.broke = 1'; document.body.append(s);"
            " return window.broke === undefined; })()"))
        asked = {e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"}
        foreign = [url for url in asked if not url.startswith(tuple(urls.values())) and url != "about:blank"]
        check(f"no request leaves the page ({len(asked)} seen): {foreign}", not foreign and len(asked) > 10)
        loud = [e["params"] for e in tab.events if e.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")]
        check(f"the script is silent: {loud}", not loud)
        tab.process.terminate()
        tab.process.wait()
    daemons.stdin.close()
    daemons.wait()
    print(f"{len(faults)} faults; pictures in {out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
