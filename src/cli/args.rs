//! What the command line takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::cinder::CinderArgs;
use crate::config::HttpUrl;
use crate::model::{IoTune, Permissions};

/// The exit codes, for `--help` and the man pages; docs/cli.md has the same.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed otherwise
  2  the command line is wrong
  3  not found: the attachment, domain, share or volume
  4  conflict: another request has the id, the volume or the target, or a call is under way
  5  the guest has not let go of the disk yet; the detach completes by itself
  6  the daemon cannot be reached, or is stopping
  7  no answer in time; a detach that has begun goes on, an attach is undone
  8  not allowed
  9  doctor found something wrong, or cinder reconcile something that differs
  130  interrupted, after what was under way was finished or undone";

/// Attaches volumes to running virtual machines: talks to volattachd on this host.
#[derive(Debug, Parser)]
#[command(name = "volattach", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// The daemon's unix socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "VOLATTACH_SOCKET",
        default_value = "/run/volattach/volattachd.sock"
    )]
    pub(super) socket: PathBuf,
    /// How to print answers and errors: for people, or one JSON document (watch: one a line)
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(super) output: Format,
    /// How many seconds to wait for an answer; after that a detach that has begun goes on, and an attach is undone
    #[arg(long, global = true, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub(super) timeout: Duration,
    /// A file with the Keystone token of the user who calls; nobody but its owner may read it
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// A file with the Keystone token of the service that calls on the user's behalf; likewise
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) service_token_file: Option<PathBuf>,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach a volume to a domain
    Attach(AttachArgs),
    /// Detach a volume from its domain; one that is not attached is fine
    Detach {
        /// The attachment's id
        id: String,
        /// Go on where what was written last cannot be flushed, and is lost
        #[arg(long)]
        force: bool,
    },
    /// Cancel a detach whose guest has not let go of the disk
    CancelDetach {
        /// The attachment's id
        id: String,
    },
    /// Show what forgetting an attachment that cannot be detached would leave on this host; with --yes forget it
    Forget {
        /// The attachment's id
        id: String,
        /// Forget it: its record goes, and what is left stays as it is
        #[arg(long)]
        yes: bool,
    },
    /// Connect a volume to this host only
    Connect(ConnectArgs),
    /// Disconnect what connect connected; one that is not connected is fine
    Disconnect {
        /// The attachment's id
        id: String,
        /// Go on where what was written last cannot be flushed, and is lost
        #[arg(long)]
        force: bool,
    },
    /// Have host and guest see a volume that its storage has grown
    Extend {
        /// The attachment's id
        id: String,
        /// The size that the volume is to have at least; a qcow2 image is made so large [default: what it has]
        #[arg(
            long,
            value_name = "BYTES",
            default_value_t = 0,
            hide_default_value = true
        )]
        size: u64,
    },
    /// Show the limits on the I/O of an attachment's disk, or replace all of them
    Iotune(IotuneArgs),
    /// Show the guest's I/O on an attachment's disk since it was plugged in
    Stats {
        /// The attachment's id
        id: String,
        /// Print a line each so many seconds with the I/O of a second in between, until interrupted
        #[arg(long, value_name = "SECONDS", value_parser = seconds, num_args = 0..=1, default_missing_value = "1")]
        watch: Option<Duration>,
    },
    /// Show who may use a volume, or set it for attaches from now on
    Permissions {
        /// The volume's id
        id: String,
        /// For owner, group and others, as chmod(1) has it, such as 640; none: forget what was set on this host
        #[arg(value_parser = mode)]
        mode: Option<Mode>,
    },
    /// List attachments
    List(FilterArgs),
    /// Show one attachment in full
    Show {
        /// The attachment's id
        id: String,
    },
    /// Print attachments as they are, then each change of them, until interrupted; resumes after a broken connection
    Watch(FilterArgs),
    /// Tell what attach would do, and touch nothing
    Plan(PlanArgs),
    /// Show what this host can connect to, as control planes want to know it
    Connector,
    /// Attach volumes of OpenStack's Cinder: the attachment is made in Cinder and on this host, or in neither
    Cinder(CinderArgs),
    /// Compare the journal with this host, and print what is wrong and the command that mends it
    Doctor,
    /// Look into the journal's file without a daemon, and never write to it
    Journal(JournalArgs),
    /// Serve a read-only web page on loopback: attachments, servers and doctor's findings, of this host or of many
    Web(WebArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// The directory, which must exist
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The domain's name or UUID
    #[arg(long)]
    pub(super) domain: String,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// The volume's id
    #[arg(long, value_name = "ID")]
    pub(super) volume: String,
    /// The attachment's id, the key by which a repeated call is recognised [default: a new UUID]
    #[arg(long)]
    pub(super) id: Option<String>,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    #[command(flatten)]
    pub(super) facts: FactsArgs,
    #[command(flatten)]
    pub(super) disk: DiskArgs,
}

/// Without limits, a file of them, or --none: shows those in force.
#[derive(Debug, Args)]
pub(super) struct IotuneArgs {
    /// The attachment's id
    pub(super) id: String,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    /// A file with a volume type's QoS specs, `{"consumer": …, "specs": {…}}` as Cinder's API has them, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["iotune", "iotune_group"])]
    pub(super) qos_specs: Option<PathBuf>,
    /// End all limits
    #[arg(long, conflicts_with_all = ["iotune", "iotune_group", "qos_specs"])]
    pub(super) none: bool,
}

/// Limits on a disk's I/O.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// A limit on the disk's I/O, such as read_bytes_sec=1000000; may be repeated
    #[arg(long, value_name = "LIMIT=NUMBER", value_parser = limit)]
    pub(super) iotune: Vec<(String, u64)>,
    /// The name of a group of disks of the domain that share the limits
    #[arg(long, value_name = "NAME", requires = "iotune")]
    pub(super) iotune_group: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Plan without a daemon, for a running domain that has no disks yet
    #[arg(long)]
    pub(super) offline: bool,
    /// The daemon's configuration file [default: what the daemon would read]
    #[arg(long, value_name = "FILE", requires = "offline")]
    pub(super) config: Option<PathBuf>,
    /// The volume's id [default: as the connection info says, or "volume"]
    #[arg(long, value_name = "ID")]
    pub(super) volume: Option<String>,
    /// The domain's name or UUID
    #[arg(long, required_unless_present = "offline")]
    pub(super) domain: Option<String>,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    #[command(flatten)]
    pub(super) facts: FactsArgs,
    #[command(flatten)]
    pub(super) disk: DiskArgs,
}

#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    pub(super) action: JournalAction,
    /// The daemon's configuration file, which names the state directory [default: what the daemon would read]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The state directory [default: as configured]
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "config")]
    pub(super) state_dir: Option<PathBuf>,
    /// A journal's file, such as one that was set aside [default: the state directory's]
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["config", "state_dir"])]
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(super) enum JournalAction {
    /// List the attachments in it
    Show,
    /// Check the file and each value in it, and fail where one cannot be read
    Check,
    /// Print all of it as one JSON document
    Export,
}

#[derive(Debug, Args)]
pub(super) struct WebArgs {
    /// Where to listen, an address of loopback: the page has no login
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7480", value_parser = loopback)]
    pub(super) listen: SocketAddr,
    /// A daemon to show, by TLS, such as `rack1=https://rack1.example.org:7443`; may be repeated [default: the one at --socket]
    #[arg(long, value_name = "NAME=URL", value_parser = host, requires_all = ["ca", "certificate", "key"])]
    pub(super) host: Vec<(String, HttpUrl)>,
    /// PEM: the authorities of those daemons' certificates
    #[arg(long, value_name = "FILE", requires = "host")]
    pub(super) ca: Option<PathBuf>,
    /// PEM: the certificate by which the daemons know this caller, followed by those that lead from it to its authority
    #[arg(long, value_name = "FILE", requires = "host")]
    pub(super) certificate: Option<PathBuf>,
    /// PEM: its private key, unencrypted; others than its owner and group may not read it
    #[arg(long, value_name = "FILE", requires = "host")]
    pub(super) key: Option<PathBuf>,
}

/// How to reach the volume.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// A file with the volume's connection info in Cinder's JSON, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) connection_info: PathBuf,
    /// Read-only or read-write [default: what the volume allows]
    #[arg(long, value_enum)]
    pub(super) access: Option<AccessArg>,
    /// Fail rather than attach read-only
    #[arg(long)]
    pub(super) require_rw: bool,
    /// A domain boots from the volume, which its permissions must allow
    #[arg(long)]
    pub(super) boot: bool,
}

/// What the caller says of the volume. It counts where the caller may vouch for it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Who may use the volume")]
pub(super) struct FactsArgs {
    /// The project that the volume belongs to
    #[arg(long, value_name = "ID")]
    pub(super) project: Option<String>,
    /// The user that it belongs to: Keystone's id, or such as uid:1000
    #[arg(long, value_name = "ID")]
    pub(super) user: Option<String>,
    /// The group that it belongs to: Keystone's id, a project's, or such as gid:1000
    #[arg(long, value_name = "ID")]
    pub(super) group: Option<String>,
    /// For owner, group and others, as chmod(1) has it, such as 640
    #[arg(long, value_name = "MODE")]
    pub(super) permissions: Option<Permissions>,
    /// It is a service's own
    #[arg(long)]
    pub(super) service_owned: bool,
}

/// What a volume's permissions are set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// These.
    Set(Permissions),
    /// None on this host.
    Forget,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum AccessArg {
    Ro,
    Rw,
}

/// How the disk appears in the domain. The daemon knows the words, and says which it takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Disk options")]
pub(super) struct DiskArgs {
    /// virtio or scsi, xen in Xen domains [default: virtio, or xen]
    #[arg(long)]
    pub(super) bus: Option<String>,
    /// The target, such as vdb [default: the first that is free]
    #[arg(long, value_name = "TARGET")]
    pub(super) dev: Option<String>,
    /// none, writethrough, writeback, directsync or unsafe [default: none]
    #[arg(long)]
    pub(super) cache: Option<String>,
    /// native, threads or io_uring
    #[arg(long)]
    pub(super) io: Option<String>,
    /// unmap or ignore
    #[arg(long)]
    pub(super) discard: Option<String>,
    /// off, on or unmap
    #[arg(long)]
    pub(super) detect_zeroes: Option<String>,
    /// stop, report or enospace: what becomes of requests that the storage fails [default: the backend's, as configured]
    #[arg(long, value_name = "POLICY")]
    pub(super) error_policy: Option<String>,
    /// stop or report: the same of reads [default: as --error-policy]
    #[arg(long, value_name = "POLICY")]
    pub(super) rerror_policy: Option<String>,
    /// The serial that the guest sees, on virtio its first 20 characters [default: the volume's id]
    #[arg(long)]
    pub(super) serial: Option<String>,
    /// Other attachments may use the volume while this one writes it
    #[arg(long)]
    pub(super) shareable: bool,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    /// The logical block size: a power of two from 512
    #[arg(long, value_name = "BYTES")]
    pub(super) logical_block_size: Option<u32>,
    /// The physical block size: a power of two, not below the logical one
    #[arg(long, value_name = "BYTES")]
    pub(super) physical_block_size: Option<u32>,
    /// The place on the bus: pci:0000:00:07.0 or drive:0:0:0:5
    #[arg(long)]
    pub(super) address: Option<String>,
    /// The place in the boot order, from 1
    #[arg(long, value_name = "NUMBER")]
    pub(super) boot_order: Option<u32>,
    /// Which of the domain's configurations changes
    #[arg(long, value_enum, default_value_t = ScopeArg::Live)]
    pub(super) scope: ScopeArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ScopeArg {
    /// The running domain
    Live,
    /// The persistent configuration
    Config,
    /// The running domain and the persistent configuration
    Both,
}

/// Which attachments.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Those on this domain, by name or UUID
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Those of this volume
    #[arg(long, value_name = "ID")]
    pub(super) volume: Option<String>,
    /// Those in this state
    #[arg(long, value_enum)]
    pub(super) state: Option<StateArg>,
    /// Those of this protocol, such as nfs
    #[arg(long)]
    pub(super) protocol: Option<String>,
    /// Those from this server, as `show` names it
    #[arg(long)]
    pub(super) server: Option<String>,
    /// Those with this error, such as DISK_LOST
    #[arg(long, value_name = "REASON")]
    pub(super) error: Option<String>,
    /// Those with any error
    #[arg(long)]
    pub(super) failing: bool,
    /// Those that were asked for longer ago than so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) older_than: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StateArg {
    Connecting,
    Attaching,
    Attached,
    Connected,
    Lost,
    Detaching,
    Disconnecting,
    Failed,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(Duration::from_secs(n)),
        _ => Err("give a whole number of seconds, at least 1".to_owned()),
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "write an address and a port, such as 127.0.0.1:7480 or [::1]:7480")?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(format!(
            "{} is not of loopback, and the page has no login: listen on 127.0.0.1, and reach it from elsewhere through \
             ssh -L {port}:127.0.0.1:{port} HOST",
            address.ip(),
            port = address.port()
        )),
    }
}

fn host(text: &str) -> Result<(String, HttpUrl), String> {
    let (name, url) = text.split_once('=').ok_or("write NAME=URL")?;
    if name.is_empty() {
        return Err("give the host a name".to_owned());
    }
    let url = HttpUrl::parse(url).filter(|url| url.tls && url.path.is_empty());
    let url = url.ok_or("write the URL as https://HOST:PORT")?;
    Ok((name.to_owned(), url))
}

pub(super) fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "none" => Ok(Mode::Forget),
        _ => text
            .parse()
            .map(Mode::Set)
            .map_err(|error| format!("{error}, or none")),
    }
}

fn limit(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write LIMIT=NUMBER")?;
    if !IoTune::KEYS.contains(&name) {
        return Err(format!("use one of {}", IoTune::KEYS.join(", ")));
    }
    let value = value
        .parse()
        .map_err(|_| "give a whole number".to_owned())?;
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_limit_is_a_known_name_and_a_number() {
        assert_eq!(
            limit("read_iops_sec=5"),
            Ok(("read_iops_sec".to_owned(), 5))
        );
        for bad in ["read_iops_sec", "read_iops_sec=x", "iops=5"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mode_is_three_digits_or_none() {
        assert_eq!(mode("none"), Ok(Mode::Forget));
        assert_eq!(mode("640"), Ok(Mode::Set("640".parse().unwrap())));
        for bad in ["", "0640", "888", "NONE"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_page_listens_on_loopback_alone() {
        for good in ["127.0.0.1:0", "127.3.2.1:80", "[::1]:7480"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0:80",
            "[::]:80",
            "192.0.2.1:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(loopback(bad).unwrap_err().contains("has no login"), "{bad}");
        }
        assert!(loopback("localhost:80").is_err());
    }

    #[test]
    fn a_host_is_a_name_and_an_address_by_tls() {
        let (name, url) = host("r1=https://[fd00::1]:7443").unwrap();
        assert_eq!(
            (name.as_str(), url.to_string().as_str()),
            ("r1", "https://[fd00::1]:7443")
        );
        for bad in ["r1", "=https://h", "r1=http://h", "r1=https://h/x", "r1=h"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_documentation_lists_the_exit_codes() {
        let documentation = include_str!("../../docs/cli.md");
        for line in EXIT_CODES.lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            let row = format!("| {code} | {meaning} |");
            assert!(documentation.contains(&row), "docs/cli.md lacks: {row}");
        }
    }
}
