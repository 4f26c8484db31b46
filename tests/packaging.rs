//! `packaging/build.sh` in a checkout of stand-ins: its installation and tools make empty files.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const MAKEFILE: &str = "\
install:
\tmkdir -p $(DESTDIR)/usr/bin $(DESTDIR)/usr/sbin $(DESTDIR)/usr/share/doc/volattach $(DESTDIR)/usr/share/zsh/vendor-completions
\ttouch $(DESTDIR)/usr/bin/$(profile) $(DESTDIR)/usr/sbin/$(profile)
";

/// Writes the kind of package that its name has into the directory behind `--output`.
const TOOL: &str = "\
#!/bin/bash
while [ \"$1\" != --output ]; do shift; done
ls target/package-tree/deb/usr/bin >$2/new.${0##*/}
";

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

fn build(checkout: &Path, arguments: &[&str]) {
    let path = format!(
        "{}:{}",
        checkout.join("tools").display(),
        std::env::var("PATH").unwrap()
    );
    let status = Command::new(checkout.join("packaging/build.sh"))
        .args(arguments)
        .env("PATH", path)
        .env("CARGO_DEB", checkout.join("tools/deb"))
        .env("CARGO_GENERATE_RPM", checkout.join("tools/rpm"))
        .status();
    assert!(status.unwrap().success(), "{arguments:?}");
}

#[test]
fn packages_for_the_lab_leave_those_of_make_package() {
    let directory = tempfile::tempdir().unwrap();
    let checkout = directory.path();
    for made in ["packaging", "tools", "target/package"] {
        fs::create_dir_all(checkout.join(made)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build.sh");
    fs::copy(script, checkout.join("packaging/build.sh")).unwrap();
    fs::write(checkout.join("Makefile"), MAKEFILE).unwrap();
    fs::write(checkout.join("Cargo.toml"), "version = \"1.2.3\"\n").unwrap();
    fs::write(checkout.join("CHANGELOG.md"), "").unwrap();
    for (tool, text) in [
        ("deb", TOOL),
        ("rpm", TOOL),
        ("strip", "#!/bin/sh\n"),
        ("git", "#!/bin/sh\necho 1\n"),
    ] {
        program(&checkout.join("tools").join(tool), text);
    }
    // Of an earlier version.
    fs::write(checkout.join("target/package/old.deb"), "").unwrap();

    build(checkout, &["release", "target/package", "deb", "rpm"]);
    build(checkout, &["debug", "lab", "deb"]);

    let holds = |name: &str| fs::read_to_string(checkout.join(name)).ok();
    let release = Some("release\n".to_owned());
    assert_eq!(holds("target/package/new.deb"), release);
    assert_eq!(holds("target/package/new.rpm"), release);
    assert_eq!(holds("lab/new.deb").as_deref(), Some("debug\n"));
    assert_eq!(holds("target/package/old.deb"), None);
}
