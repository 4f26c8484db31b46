//! A libvirt of one's own inside this process, with real QEMU guests under it, for tests and for trying things out.
//!
//! `qemu:///embed?root=DIR` runs libvirt's QEMU driver in the process itself: no daemon, nothing of the machine's own
//! libvirt touched. A process has at most one such root, so [`Embed::start`] is called once.
//!
//! Nothing is left over however the process ends, by a panic or kill(2) too: a helper process waits for the end of a
//! pipe from here, and then ends the QEMU processes and removes the directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;

/// libvirt of this process.
pub(crate) struct Embed {
    root: PathBuf,
    connect: Connect,
    kernel: PathBuf,
    _reaper: Child,
}

/// A running guest that tells on its console what disks it sees (tests/lab/guest/init says in which words).
pub(crate) struct Guest {
    /// libvirt's domain.
    pub(crate) domain: Domain,
    console: PathBuf,
}

/// What the helper process does: waits until its input ends, then cleans up. `$1` is the root.
const REAPER: &str = r#"
while read -r _; do :; done
for file in "$1"/run/qemu/*.pid; do
    if pid=$(cat "$file") && tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qF "$1"; then
        kill -9 "$pid"
    fi
done
rm -rf "$1"
"#;

/// QEMU's settings for a process that may be root in a container: QEMU runs as the same user, no file changes its
/// owner, no namespaces, no cgroups.
const QEMU_CONF: &str = r#"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"#;

impl Embed {
    /// Starts libvirt. Must not be called twice in a process.
    ///
    /// # Panics
    /// Where it cannot, saying why.
    pub(crate) fn start() -> Self {
        for needed in [
            "/usr/bin/qemu-system-x86_64",
            "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        ] {
            assert!(
                Path::new(needed).exists(),
                "{needed} is missing: run `make deps`"
            );
        }
        let kernel = guest_kernel();
        // QEMU's monitor sockets lie beneath the root, and their paths are short (unix(7): 108 bytes).
        let root = PathBuf::from(format!("/tmp/volattach-embed-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).expect("the root directory");
        let reaper = Command::new("/bin/bash")
            .args(["-c", REAPER, "reaper"])
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // an interrupt from the terminal is not for it
            .spawn()
            .expect("the helper process");
        fs::write(root.join("etc/qemu.conf"), QEMU_CONF).expect("qemu.conf");

        volattach::libvirt::run_event_loop().expect("libvirt's event loop");
        let connect = Connect::open(Some(&uri(&root))).expect("libvirt's embedded QEMU driver");
        Self {
            root,
            connect,
            kernel,
            _reaper: reaper,
        }
    }

    /// The URI by which this process reaches it.
    pub(crate) fn uri(&self) -> String {
        uri(&self.root)
    }

    /// A raw image that holds zeroes.
    pub(crate) fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.root.join(name);
        let file = fs::File::create(&path).expect("the image");
        file.set_len(bytes).expect("the image's size");
        path
    }

    /// Defines a q35 domain without disks, not started: a virtio-scsi controller (if `scsi`), and `ports` free PCIe
    /// ports, one for each virtio disk.
    pub(crate) fn define(&self, name: &str, scsi: bool, ports: usize) -> Guest {
        let console = self.root.join(format!("{name}.console"));
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
                 <cmdline>{cmdline}</cmdline>
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

fn uri(root: &Path) -> String {
    format!("qemu:///embed?root={}", root.display())
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
    /// Where none comes within a minute, showing the console.
    pub(crate) fn wait_for(&self, start: &str, seen: usize) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
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
    fn console_lines(&self) -> Vec<String> {
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
