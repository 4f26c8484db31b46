//! Files to settings: reading, merging, and the schema: each key is named once, where it is read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{ConfigError, Problem};
use super::tree::{self, Section, Table};
use super::{
    Detach, Iscsi, Libvirt, Limits, Local, Nvmeof, Settings, auth, keystone, listen, metrics, nfs,
    policy, smb, url, value,
};
use crate::model::ErrorPolicy;

/// Where the configuration is when nobody says otherwise: the one file that may be missing.
pub const DEFAULT_PATH: &str = "/etc/volattach/volattachd.toml";

impl Settings {
    /// Reads the configuration `path` and its drop-ins: the files `*.toml` in the directory `path` + `.d`, in the order of
    /// their names, those that begin with a dot left out. What is read later wins: tables merge key by key, anything
    /// else replaces.
    ///
    /// The file itself may be missing only at [`DEFAULT_PATH`].
    ///
    /// # Errors
    /// Where a file cannot be read, is not TOML, or has an unknown key or a value that does not fit.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut merged = Table::new();
        match fs::read_to_string(path) {
            Ok(text) => merged = tree::parse(path, &text)?,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {}
            Err(source) => return Err(read_error(path, source)),
        }
        for file in drop_ins(path)? {
            let text = fs::read_to_string(&file).map_err(|source| read_error(&file, source))?;
            tree::merge(&mut merged, tree::parse(&file, &text)?);
        }
        let mut problems = Vec::new();
        let settings = decode(merged, &mut problems);
        match problems.is_empty() {
            true => Ok(settings),
            false => Err(ConfigError::Invalid(problems)),
        }
    }

    /// The settings where nothing is configured.
    #[must_use]
    pub fn built_in() -> Self {
        decode(Table::new(), &mut Vec::new())
    }
}

fn read_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read {
        path: path.to_owned(),
        source,
    }
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(read_error(&directory, source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| read_error(&directory, source))?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Reads every key there is; what is wrong goes to `problems`, and its place is taken by the default.
pub(super) fn decode(table: Table, problems: &mut Vec<Problem>) -> Settings {
    let mut root = Section::root(table);
    let state_dir = root.read(problems, "state_dir", value::path);
    let mount_base = root.read(problems, "mount_base", value::path);
    let listen = root.section(problems, "listen");
    let audit_file = root.read(problems, "audit_file", value::path);
    let metrics_file = root.read(problems, "metrics_file", value::path);
    let metrics_listen = root.read(problems, "metrics_listen", listen::metrics);
    let metrics_io = root.read(problems, "metrics_io", metrics::io);
    let otlp_endpoint = root.read(problems, "otlp_endpoint", url::collector);
    let policy = root.section(problems, "policy");
    let auth = root.section(problems, "auth");
    let keystone = root.optional(problems, "keystone");
    let libvirt = root.section(problems, "libvirt");
    let smb = root.section(problems, "smb");
    let nfs = root.section(problems, "nfs");
    let local = root.section(problems, "local");
    let detach = root.section(problems, "detach");
    let iscsi = root.section(problems, "iscsi");
    let nvmeof = root.section(problems, "nvmeof");
    let limits = root.section(problems, "limits");
    root.finish(problems);
    Settings {
        state_dir: state_dir.unwrap_or_else(|| "/var/lib/volattach".into()),
        mount_base: mount_base.unwrap_or_else(|| "/var/lib/volattach/mnt".into()),
        listen: listen::decode(listen, problems),
        policy: policy::decode(policy, problems),
        audit_file,
        metrics_file,
        metrics_listen,
        metrics_io: metrics_io.unwrap_or_default(),
        otlp_endpoint,
        auth: auth::decode(auth, problems),
        keystone: keystone.and_then(|keystone| keystone::decode(keystone, problems)),
        libvirt: decode_libvirt(libvirt, problems),
        smb: smb::decode(smb, problems),
        nfs: nfs::decode(nfs, problems),
        local: decode_local(local, problems),
        detach: decode_detach(detach, problems),
        iscsi: decode_iscsi(iscsi, problems),
        nvmeof: Nvmeof::decode(nvmeof, problems),
        limits: Limits::decode(limits, problems),
    }
}

fn decode_libvirt(mut section: Section, problems: &mut Vec<Problem>) -> Libvirt {
    let uri = section.read(problems, "uri", value::uri);
    let call_timeout = section.read(problems, "call_timeout", value::duration);
    section.finish(problems);
    Libvirt {
        uri: uri.unwrap_or_else(|| "qemu:///system".to_owned()),
        call_timeout: call_timeout.unwrap_or(Duration::from_secs(60)),
    }
}

fn decode_local(mut section: Section, problems: &mut Vec<Problem>) -> Local {
    let roots = section.read(problems, "roots", value::paths);
    let error_policy = section.read(problems, "error_policy", value::error_policy);
    section.finish(problems);
    Local {
        roots: roots.unwrap_or_default(),
        error_policy: error_policy.unwrap_or(ErrorPolicy::Enospace),
    }
}

fn decode_detach(mut section: Section, problems: &mut Vec<Problem>) -> Detach {
    let unplug_timeout = section.read(problems, "unplug_timeout", value::duration);
    section.finish(problems);
    Detach {
        unplug_timeout: unplug_timeout.unwrap_or(Duration::from_secs(20)),
    }
}

fn decode_iscsi(mut section: Section, problems: &mut Vec<Problem>) -> Iscsi {
    let nodes = section.read(problems, "nodes", value::path);
    let interface = section.read(problems, "interface", value::file_name);
    let probe_timeout = section.read(problems, "probe_timeout", value::duration);
    let login_timeout = section.read(problems, "login_timeout", value::duration);
    let device_timeout = section.read(problems, "device_timeout", value::duration);
    let error_policy = section.read(problems, "error_policy", value::error_policy);
    section.finish(problems);
    Iscsi {
        nodes: nodes.unwrap_or_else(|| "/etc/iscsi/nodes".into()),
        interface: interface.unwrap_or_else(|| "default".to_owned()),
        probe_timeout: probe_timeout.unwrap_or(Duration::from_secs(3)),
        login_timeout: login_timeout.unwrap_or(Duration::from_secs(10)),
        device_timeout: device_timeout.unwrap_or(Duration::from_secs(30)),
        error_policy: error_policy.unwrap_or(ErrorPolicy::Stop),
    }
}
