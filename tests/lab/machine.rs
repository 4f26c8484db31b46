//! The machines that a node can be: which emulator runs them, with which arguments but for the disks.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{
    cache,
    qemu::{self, Accel, comma},
};

/// What a node's machine runs. The disk is the same, and so is what is installed on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// Debian's kernel, which has KVM.
    Kvm,
    /// The same, enforcing Debian's SELinux policy, with volattach's module in it; of an image of its own.
    Selinux,
    /// Xen, with Debian's kernel in its first domain, for paravirtual guests.
    Xen,
    /// The same, for guests that need the processor's virtualization (PVH and HVM). QEMU 10.0 emulates it in such a way that their
    /// kernel halts at its first page fault; Debian 12's own (7.2) runs them, and takes half as long again for everything.
    XenHvm,
}

impl Kind {
    /// Whether libvirt's driver there is Xen's.
    pub(crate) fn is_xen(self) -> bool {
        matches!(self, Self::Xen | Self::XenHvm)
    }

    /// The directory of its disk image, which is made at the first time.
    pub(crate) fn image(self) -> Result<PathBuf> {
        match self {
            Self::Selinux => cache::script("image.sh", &["selinux"]),
            Self::Kvm | Self::Xen | Self::XenHvm => cache::script("image.sh", &[]),
        }
    }
}

/// A kind's machine, on this development machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) kind: Kind,
    pub(crate) accel: Accel,
    /// The QEMU program that runs the machine.
    pub(crate) emulator: PathBuf,
}

/// What every kernel is told. A panic ends the machine: QEMU is told not to reboot. What guards against faults of processors and of
/// kernels protects nobody here, and costs time (docs/decisions/016-lab-time.md).
const KERNEL: &str =
    "rw quiet net.ifnames=0 panic=-1 mitigations=off init_on_alloc=0 hardened_usercopy=off";

impl Machine {
    /// Xen is emulated even where KVM works: no other way is tried.
    pub(crate) fn choose(kind: Kind) -> Result<Self> {
        let emulator = match kind {
            Kind::Kvm | Kind::Selinux | Kind::Xen => cache::script("emulator.sh", &[])?,
            Kind::XenHvm => "qemu-system-x86_64".into(),
        };
        let accel = match kind {
            Kind::Kvm | Kind::Selinux => {
                Accel::choose(&emulator, &cache::script("guest.sh", &[])?)?
            }
            Kind::Xen | Kind::XenHvm => Accel::Tcg,
        };
        Ok(Self {
            kind,
            accel,
            emulator,
        })
    }

    /// QEMU's arguments to boot from `image`.
    pub(crate) fn args(&self, image: &Path) -> Vec<String> {
        // One processor: the node beside this one needs the other of two. Emulating a second costs a fifth more, most of it for
        // locks that are spun on and interrupts between the two.
        let (cpus, memory) = match self.kind {
            Kind::Kvm | Kind::Selinux => ("1", "2048"),
            Kind::Xen | Kind::XenHvm => ("1", "1280"),
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
            Kind::Kvm | Kind::Selinux => {
                args.extend(self.accel.args().map(String::from));
                let module = match self.kind {
                    Kind::Selinux => " security=selinux selinux=1 enforcing=1",
                    _ => "",
                };
                args.extend(qemu::kernel(
                    image,
                    &format!("root=/dev/vda console=ttyS0 {KERNEL}{module}"),
                ));
            }
            Kind::Xen | Kind::XenHvm => args.extend(xen(image)),
        }
        args
    }
}

/// QEMU starts Xen by multiboot, and hands it the kernel of its first domain and that one's initramfs as modules.
fn xen(image: &Path) -> Vec<String> {
    // Mitigations cost much here too. The first domain has memory of its own, which it need not hand out.
    let xen = "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=error dom0_mem=768M,max:768M \
               xpti=0 pv-l1tf=0 spec-ctrl=0 watchdog=0";
    let kernel = format!("root=/dev/vda console=hvc0 {KERNEL}");
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
