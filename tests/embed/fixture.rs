//! A libvirt of one's own inside this process, with real QEMU guests under it, for tests and for trying things out.
//!
//! `qemu:///embed?root=DIR` runs libvirt's QEMU driver in the process itself: no daemon, nothing of the machine's own
//! libvirt touched. A process has at most one such root, so [`Guests::start`] is called once.
//!
//! Nothing is left over however the process ends: see `scratch.rs`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;

use crate::scratch::Scratch;

/// A libvirt, and its guests.
pub(crate) struct Guests {
    scratch: Scratch,
    uri: String,
    connect: Connect,
    kernel: PathBuf,
}

/// A running guest that tells on its console what disks it sees (tests/lab/guest/init says in which words).
pub(crate) struct Guest {
    /// libvirt's domain.
    pub(crate) domain: Domain,
    console: PathBuf,
}

/// QEMU's settings for a process that may be root in a container: QEMU runs as the same user, no file changes its
/// owner, no namespaces, no cgroups.
pub(crate) const QEMU_CONF: &str = r#"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"#;

impl Guests {
    /// Starts libvirt in this process, with that qemu.conf. Must not be called twice in a process.
    ///
    /// # Panics
    /// Where it cannot, saying why.
    pub(crate) fn start(qemu_conf: &str) -> Self {
        let scratch = Scratch::new("embed");
        let root = scratch.root();
        fs::create_dir(root.join("etc")).expect("the configuration's directory");
        fs::write(root.join("etc/qemu.conf"), qemu_conf).expect("qemu.conf");
        volattach::libvirt::run_event_loop().expect("libvirt's event loop");
        let uri = format!("qemu:///embed?root={}", root.display());
        Self::of(scratch, uri)
    }

    /// Guests of the libvirt at that URI, whose files are in the scratch directory.
    ///
    /// # Panics
    /// Where it cannot be reached, saying why.
    pub(crate) fn of(scratch: Scratch, uri: String) -> Self {
        let kernel = guest_kernel();
        let connect = Connect::open(Some(&uri)).expect("libvirt");
        Self {
            scratch,
            uri,
            connect,
            kernel,
        }
    }

    /// The URI by which libvirt is reached.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// A raw image that holds zeroes.
    pub(crate) fn image(&self, name: &str, bytes: u64) -> PathBuf {
        self.scratch.image(name, bytes)
    }

    /// Defines a q35 domain without disks, not started: a virtio-scsi controller (if `scsi`), and `ports` free PCIe
    /// ports, one for each virtio disk.
    pub(crate) fn define(&self, name: &str, scsi: bool, ports: usize) -> Guest {
        let console = self.scratch.root().join(format!("{name}.console"));
        let cmdline =
            fs::read_to_string(self.kernel.join("cmdline")).expect("the kernel's arguments");
        let controller = if scsi {
            "<controller type='scsi' index='0' model='virtio-scsi'/>"
        } else {
            ""
        };
        // One more for the SCSI controller itself.
        let ports: String = (1..=ports + usize::from(scsi))
            .map(|n| format!("<controller type='pci' index='{n}' model='pcie-root-port'/>"))
            .collect();
        let xml = format!(
            "<domain type='qemu'>
               <name>{name}</name>
               <memory unit='MiB'>160</memory>
               <vcpu>1</vcpu>
               <os>
                 <type arch='x86_64' machine='q35'>hvm</type>
                 <kernel>{kernel}/vmlinuz</kernel>
                 <initrd>{kernel}/initrd.img</initrd>
                 <cmdline>{cmdline} scratch={scratch}</cmdline>
               </os>
               <features><acpi/></features>
               <devices>
                 <emulator>/usr/bin/qemu-system-x86_64</emulator>
                 <controller type='usb' model='none'/>
                 <controller type='pci' index='0' model='pcie-root'/>
                 {ports}
                 {controller}
                 <serial type='file'><source path='{console}'/></serial>
                 <memballoon model='none'/>
               </devices>
             </domain>",
            kernel = self.kernel.display(),
            cmdline = cmdline.trim(),
            scratch = self.scratch.root().display(), // by which the helper process knows its QEMU
            console = console.display(),
        );
        let domain = self.connect.define_domain_xml(&xml).expect("the domain");
        Guest { domain, console }
    }

    /// Boots a guest and waits until it is up.
    pub(crate) fn boot(&self, name: &str, ports: usize) -> Guest {
        let guest = self.define(name, true, ports);
        guest.domain.create().expect("the guest starts");
        guest.wait_for("GUEST up", 0);
        guest
    }
}

/// The directory of the inner guest's kernel and initramfs, made on first use.
fn guest_kernel() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/guest.sh");
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/lab/guest.sh");
    assert!(
        output.status.success(),
        "tests/lab/guest.sh failed: run `make deps`"
    );
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

impl Guest {
    /// How many lines the console has: where a wait for something new begins.
    pub(crate) fn lines(&self) -> usize {
        self.console_lines().len()
    }

    /// Waits for a console line that begins so, after the first `seen` lines.
    ///
    /// # Panics
    /// Where none comes within three minutes, showing the console.
    pub(crate) fn wait_for(&self, start: &str, seen: usize) -> String {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let lines = self.console_lines();
            let mut new = lines.iter().skip(seen);
            if let Some(line) = new.find(|line| line.starts_with(start)) {
                return line.clone();
            }
            assert!(
                Instant::now() < deadline,
                "the guest's console does not say {start:?}:\n{}",
                lines.join("\n")
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// The console's finished lines.
    pub(crate) fn console_lines(&self) -> Vec<String> {
        let Ok(file) = fs::File::open(&self.console) else {
            return Vec::new(); // not started
        };
        let mut reader = BufReader::new(file);
        let mut lines = Vec::new();
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) && line.ends_with('\n') {
            lines.push(line.trim_end().to_owned());
            line.clear();
        }
        lines
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.domain.destroy(); // it may not run
        let _ = self.domain.undefine();
    }
}
