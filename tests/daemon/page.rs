//! `volattach web` over daemons of several hosts, by TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::pki::write_pem;
use crate::tls::Network;
use crate::{DOCTOR, LONG};

/// A page's server; killed in the end.
struct Page(Child);

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn one_page_shows_many_hosts_and_those_that_are_not_reached() {
    let network = Network::new();
    let _daemon = network.start();
    let caller = network.authority.issue("ctl.example.org");
    let (certificate, key) = (network.file("caller.pem"), network.file("caller.key"));
    write_pem(&certificate, "CERTIFICATE", &caller.der);
    write_pem(&key, "PRIVATE KEY", &caller.key);
    // Takes connections, by the kernel, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let hosts = [
        format!("rack-good=https://localhost:{}", network.port),
        // Its certificate is for another name.
        format!("rack-other=https://127.0.0.1:{}", network.port),
        format!("rack-silent=https://localhost:{silent}"),
        format!("rack-closed=https://localhost:{}", closed.port()),
    ];
    let command = |ca: &str| {
        let mut command = Command::new(DOCTOR);
        command
            .args(["web", "--listen", "127.0.0.1:0", "--timeout", "3", "--ca"])
            .arg(network.file(ca))
            .arg("--certificate")
            .arg(&certificate)
            .arg("--key")
            .arg(&key)
            .args(hosts.iter().flat_map(|host| ["--host", host]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let mut page = Page(command("ca.pem").spawn().unwrap());
    let mut line = String::new();
    let stdout = page.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("the page is at http://").unwrap();
    let address = address.trim_end_matches('/');

    let begun = Instant::now();
    let mut shown = get(address);
    let parts = [
        "rack-good</a></th><td role=\"cell\" data-column=\"Condition\" class=\"health\">something is wrong<",
        // There is no libvirt, which doctor finds, and no attachment.
        "No attachments.",
        "rack-other</a></th><td role=\"cell\" data-column=\"Condition\" class=\"health\">not reached<",
        "certificate",
        "rack-silent</a></th><td role=\"cell\" data-column=\"Condition\" class=\"health\">not reached<",
        "rack-closed</a></th><td role=\"cell\" data-column=\"Condition\" class=\"health\">not reached<",
        "Connection refused",
    ];
    // By its own time or by that of its connection, which are as long.
    let is_silent = |shown: &str| {
        shown.contains("the daemon did not answer within 3 s")
            || shown.contains("deadline has elapsed")
    };
    while !is_silent(&shown) {
        assert!(begun.elapsed() < LONG, "{shown}");
        shown = get(address);
    }
    while let Some(missing) = parts.iter().find(|part| !shown.contains(**part)) {
        assert!(begun.elapsed() < LONG, "no {missing} in {shown}");
        std::thread::sleep(Duration::from_millis(100));
        shown = get(address);
    }

    // Files that cannot be used are told at the start.
    let output = command("no.pem").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("cannot use") && told.contains("no.pem"),
        "{told}"
    );
}
