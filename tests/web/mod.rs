//! A web server of few words.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

/// What it was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// `POST /path HTTP/1.1`
    pub(crate) line: String,
    pub(crate) body: String,
}

/// Listens for as long as the test's process is there. `answer` has the path, and gives all that is sent back, head and body;
/// an empty one is never sent, and the connection stays open.
pub(crate) fn serve(
    answer: impl Fn(&str) -> String + Send + 'static,
) -> (SocketAddr, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, asked) = channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(request) = read(&stream) else {
                continue;
            };
            let path = request.line.split(' ').nth(1).unwrap_or_default();
            let answer = answer(path);
            // Who listens here may be gone, and so may who asks. The latter has no answer before the former knows of it.
            let _ = tell.send(request);
            let _ = stream.write_all(answer.as_bytes());
            if answer.is_empty() {
                open.push(stream);
            }
        }
    });
    (address, asked)
}

/// A whole answer of that body.
pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        line: line.trim_end().to_owned(),
        body: String::from_utf8(body).ok()?,
    })
}
