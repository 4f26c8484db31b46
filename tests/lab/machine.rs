//! The machines that a node can be: what QEMU is told of them, but for the disks.

use std::path::Path;

use anyhow::Result;

use super::qemu::{self, Accel, comma};

/// What a node's machine runs. The disk is the same, and so is what is installed on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Debian's kernel, which has KVM.
    Kvm,
    /// Xen, with Debian's kernel in its first domain.
    Xen,
}

/// A kind's machine, on this development machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) kind: Kind,
    pub(crate) accel: Accel,
}

/// A panic ends the machine: QEMU is told not to reboot.
const BOTH: &str = "net.ifnames=0 panic=-1";

impl Machine {
    /// Xen is emulated even where KVM works: no other way is tried.
    pub(crate) fn choose(kind: Kind, accel: impl FnOnce() -> Result<Accel>) -> Result<Self> {
        let accel = match kind {
            Kind::Kvm => accel()?,
            Kind::Xen => Accel::Tcg,
        };
        Ok(Self { kind, accel })
    }

    /// QEMU's arguments to boot from `image`.
    pub(crate) fn args(self, image: &Path) -> Vec<String> {
        let (cpus, memory) = match self.kind {
            Kind::Kvm => ("2", "2048"),
            Kind::Xen => ("1", "1280"),
        };
        let mut args: Vec<String> = [
            "-smp",
            cpus,
            "-m",
            memory,
            "-device",
            "virtio-rng-pci",
            // A port of this machine's loopback leads in; nothing leads out.
            "-netdev",
            "user,id=outside,restrict=on,hostfwd=tcp:127.0.0.1:0-:22",
            "-device",
            "virtio-net-pci,netdev=outside",
        ]
        .map(String::from)
        .into();
        match self.kind {
            Kind::Kvm => {
                args.extend(self.accel.args().map(String::from));
                args.extend(qemu::kernel(
                    image,
                    &format!("root=/dev/vda rw console=ttyS0 quiet mitigations=off {BOTH}"),
                ));
            }
            Kind::Xen => args.extend(xen(image)),
        }
        args
    }
}

/// QEMU starts Xen by multiboot, and hands it the kernel of its first domain and that one's initramfs as modules.
fn xen(image: &Path) -> Vec<String> {
    // Mitigations of processors' faults cost much and protect nobody. The first domain has memory of its own, which it
    // need not hand out.
    let xen = "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=error dom0_mem=768M,max:768M \
               xpti=0 pv-l1tf=0 spec-ctrl=0 watchdog=0";
    let kernel = format!("root=/dev/vda rw console=hvc0 quiet mitigations=off {BOTH}");
    let modules = format!(
        "{} {},{}",
        comma(&image.join("vmlinux")),
        kernel.replace(',', ",,"),
        comma(&image.join("initrd.img"))
    );
    [
        // A processor with the virtualization that QEMU emulates, AMD's, for guests other than paravirtual ones. With
        // "max" the kernel does not start. QEMU takes an intercepted RDTSCP for RDTSC, which Xen ends a guest for.
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "Opteron_G3,+svm,+npt,-rdtscp",
        "-kernel",
        &image.join("xen").to_string_lossy(),
        "-append",
        xen,
        "-initrd",
        &modules,
    ]
    .map(String::from)
    .into()
}
