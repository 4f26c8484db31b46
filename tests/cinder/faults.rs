//! A proxy before Keystone and Cinder that lets one request of the command line go wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How late a late answer is.
const SLOW: Duration = Duration::from_secs(1);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server does not get it; the answer has this status.
    Status(u16),
    /// The answer comes late, within the client's patience.
    Slow,
    /// The server does not get it, and nobody answers.
    Silence,
    /// The server does not get it, nor any later one: connections are closed.
    Down,
    /// The server does what it asks for, and the connection is lost before the answer.
    Lost,
    /// The same, and no later request gets to a server.
    LostAndDown,
    /// The command line is killed before the server gets it.
    Killed,
    /// The command line is killed once the server has done what it asks for.
    KilledAfter,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::Status(500),
        Self::Status(409),
        Self::Slow,
        Self::Silence,
        Self::Down,
        Self::Lost,
        Self::LostAndDown,
        Self::Killed,
        Self::KilledAfter,
    ];
}

#[derive(Default)]
struct State {
    /// The requests since it was armed last: method and path.
    lines: Vec<String>,
    /// The fault, and of which request; the first is 0.
    fault: Option<(usize, Fault)>,
}

/// Where the servers listen on this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) keystone: u16,
    pub(crate) cinder: u16,
}

/// Passes requests on until it is dropped, and gives the agent a host name of its own in them: all agents of this machine have the
/// machine's, and `reconcile` is about all attachments of a host.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    victim: watch::Sender<Option<u32>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// To those ports of this host.
    pub(crate) async fn start(to: Ports, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let (victim, seen) = watch::channel(None);
        let (shared, name) = (state.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, victim, name) = (shared.clone(), seen.clone(), name.clone());
                tokio::spawn(async move { serve(stream, to, &name, &state, victim).await });
            }
        });
        Self {
            port,
            state,
            victim,
            task,
        }
    }

    /// Counts anew, and lets the request of that number go wrong.
    pub(crate) fn arm(&self, fault: Option<(usize, Fault)>) {
        *self.state.lock().unwrap() = State {
            fault,
            ..State::default()
        };
        self.victim.send_replace(None);
    }

    /// The process to kill where the fault is that.
    pub(crate) fn aim(&self, pid: Option<u32>) {
        self.victim.send_replace(pid);
    }

    /// The requests since it was armed.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.state.lock().unwrap().lines.clone()
    }
}

/// Handles the one request that a connection brings.
async fn serve(
    mut stream: TcpStream,
    to: Ports,
    name: &str,
    state: &Mutex<State>,
    victim: watch::Receiver<Option<u32>>,
) -> std::io::Result<()> {
    let request = read_request(&mut stream).await?;
    let line = request.lines().next().unwrap_or_default().to_owned();
    let request = renamed(&request, name);
    let to = match line.contains("/auth/tokens") {
        true => to.keystone,
        false => to.cinder,
    };
    let fault = {
        let mut state = state.lock().unwrap();
        let number = state.lines.len();
        let words: Vec<_> = line.split_whitespace().take(2).collect();
        state.lines.push(words.join(" "));
        match state.fault {
            Some((of, fault)) if of == number => Some(fault),
            Some((of, Fault::Down | Fault::LostAndDown)) if of < number => Some(Fault::Down),
            _ => None,
        }
    };
    match fault {
        None => {
            let answer = pass(&request, to).await?;
            stream.write_all(&answer).await?;
        }
        Some(Fault::Status(status)) => {
            let body =
                format!(r#"{{"fault":{{"code":{status},"message":"a fault of the test's"}}}}"#);
            let answer = format!(
                "HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        Some(Fault::Slow) => {
            let answer = pass(&request, to).await?;
            tokio::time::sleep(SLOW).await;
            stream.write_all(&answer).await?;
        }
        // Until the client gives up.
        Some(Fault::Silence) => drop(stream.read(&mut [0; 1]).await),
        Some(Fault::Down) => {}
        Some(Fault::Lost | Fault::LostAndDown) => drop(pass(&request, to).await?),
        Some(Fault::Killed) => end(victim).await,
        Some(Fault::KilledAfter) => {
            pass(&request, to).await?;
            end(victim).await;
        }
    }
    Ok(())
}

/// Kills the command line, whose connection stays open until then.
async fn end(mut victim: watch::Receiver<Option<u32>>) {
    // The request may come before the test has got to tell the process.
    let pid = *victim.wait_for(Option::is_some).await.unwrap();
    let pid = Pid::from_raw(pid.unwrap().try_into().unwrap());
    // Its parent, this process, still waits for it: the id is nobody else's.
    let _ = kill(pid, Signal::SIGKILL);
}

/// Reads head and body.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = request.windows(4).position(|it| it == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| {
            let length = line.strip_prefix("content-length:")?;
            length.trim().parse::<usize>().ok()
        });
        if request.len() >= end + 4 + length.unwrap_or(0) {
            return String::from_utf8(request).map_err(std::io::Error::other);
        }
    }
}

/// The request with that name at the end of the host's, in a new attachment's connector and in a search for those of a host.
fn renamed(request: &str, name: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or((request, ""));
    let lengthened = |text: &str, before: &str, after: [char; 2]| match text.split_once(before) {
        Some((begin, rest)) => {
            let (value, end) = rest.split_at(rest.find(after).unwrap());
            format!("{begin}{before}{value}-{name}{end}")
        }
        None => text.to_owned(),
    };
    let head = lengthened(head, "attached_host=", ['&', ' ']);
    let longer = lengthened(body, "\"host\":\"", ['"', '"']);
    let length = |body: &str| format!("content-length: {}\r\n", body.len());
    let head = format!("{head}\r\n").replace(&length(body), &length(&longer));
    format!("{head}\r\n{longer}")
}

/// Has the server answer. The client asks for one answer a connection, so that the connection's end is the answer's.
async fn pass(request: &str, to: u16) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
    server.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}
