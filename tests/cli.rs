//! The command line without a daemon: offline plans, completions, man pages.

#![cfg(test)]

#[path = "cli/offline.rs"]
mod offline;
#[path = "cli/offline_targets.rs"]
mod offline_targets;

use std::process::{Command, Output};

use serde_json::Value;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn volattach(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_volattach"))
        .env_clear()
        .args(arguments)
        .output()
        .unwrap()
}

/// An offline plan of the connection info, or its error.
fn plan(info: &str, more: &[&str]) -> Result<Value, (i32, Value)> {
    let files = Files::new();
    let config = files.write(
        "volattachd.toml",
        "[smb]\nuid = 64055\ngid = 64055\n[local]\nroots = [\"/srv/volumes\", \"/dev/vg\"]\n\
         [smb.servers.archive]\nread_only = true\n[nfs.servers.archive]\nread_only = true\n",
    );
    let info = files.write("info.json", info);
    let first = [
        "plan",
        "--offline",
        "--config",
        &config,
        "--connection-info",
        &info,
        "-o",
        "json",
    ];
    let output = volattach(&[&first, more].concat());
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    match output.status.code().unwrap() {
        0 => Ok(answer),
        code => Err((code, answer)),
    }
}

const SMB: &str = r#"{"driver_volume_type":"smbfs","serial":"vol-7","data":{"export":"//files/vols","name":"v 1.raw",
    "options":"-o username=bob,password=hunter2","access_mode":"ro"}}"#;

/// Looks into a journal; gives the exit code, and the document on standard output.
fn journal(action: &str, place: [&str; 2]) -> (i32, Value) {
    let output = volattach(&["journal", action, place[0], place[1], "-o", "json"]);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().unwrap(), answer)
}

#[test]
fn a_journal_is_shown_checked_and_exported_without_a_daemon() {
    let files = Files::new();
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/journal-v1.redb");
    let path = files.0.path().join("journal.redb");
    std::fs::copy(old, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let here = ["--state-dir", files.0.path().to_str().unwrap()];
    let (code, shown) = journal("show", here);
    assert_eq!(
        (code, shown["attachments"].as_array().unwrap().len()),
        (0, 8)
    );
    let (code, checked) = journal("check", here);
    assert_eq!((code, &checked["sound"]), (0, &Value::Bool(true)));
    let (code, exported) = journal("export", here);
    assert_eq!(
        (code, exported["records"].as_array().unwrap().len()),
        (0, 8)
    );
    assert_eq!(std::fs::read(&path).unwrap(), before, "nothing is written");

    let damaged = files.write("damaged", "not a journal");
    let (code, error) = journal("check", ["--file", &damaged]);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(code == 1 && message.contains("it is damaged"), "{message}");
    let missing = files.0.path().join("missing");
    let (code, _) = journal("show", ["--file", missing.to_str().unwrap()]);
    assert_eq!((code, missing.exists()), (1, false));
}

#[test]
fn what_the_deployer_says_is_read_only_is_whatever_anybody_asks_for() {
    for (protocol, at) in [("smbfs", "//HOST/vols"), ("nfs", "HOST:/vols")] {
        let plan_on = |host: &str| {
            let export = at.replace("HOST", host);
            let data = format!(r#"{{"export":"{export}","name":"v","access_mode":"rw"}}"#);
            let info = format!(r#"{{"driver_volume_type":"{protocol}","data":{data}}}"#);
            plan(&info, &["--access", "rw"]).unwrap()
        };
        assert_eq!(plan_on("files")["access"], "rw", "{protocol}");
        let there = plan_on("archive");
        assert_eq!(there["access"], "ro", "{protocol}");
        assert_eq!(there["access_reason"], "this host's configuration says ro");
        let xml = there["disk_xml"].as_str().unwrap();
        assert!(xml.contains("<readonly/>"), "{xml}");
    }
}

#[test]
fn an_smb_volume_is_planned_offline() {
    let plan = plan(SMB, &[]).unwrap();
    assert_eq!(plan["access"], "ro");
    assert_eq!(
        plan["access_reason"],
        "the connection info's access_mode is ro"
    );
    let steps: Vec<_> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["name"])
        .collect();
    assert_eq!(steps, ["connect", "inspect", "attach"]);
    let mount = &plan["mount"];
    assert_eq!(mount["source"], "//files/vols");
    assert_eq!(mount["fstype"], "cifs");
    let options = mount["options"].as_str().unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec", "uid=64055"] {
        assert!(
            options.split(',').any(|o| o == option),
            "no {option} in {options}"
        );
    }
    let target = mount["target"].as_str().unwrap();
    assert!(target.starts_with("/var/lib/volattach/mnt/"), "{target}");
    let xml = plan["disk_xml"].as_str().unwrap();
    assert!(
        xml.contains("<readonly") && xml.contains("<serial>vol-7</serial>"),
        "{xml}"
    );
    assert!(!plan["settings"].as_array().unwrap().is_empty());
    assert!(!plan.to_string().contains("hunter2"));
}

#[test]
fn a_local_volume_is_planned_offline() {
    let info = r#"{"driver_volume_type":"local","data":{"device_path":"/srv/volumes/v1"}}"#;
    let plan = plan(info, &["--bus", "scsi", "--dev", "sdc", "--volume", "v1"]).unwrap();
    assert_eq!(plan["access"], "rw");
    assert_eq!(plan["mount"], Value::Null);
    let xml = plan["disk_xml"].as_str().unwrap();
    assert!(xml.contains("sdc") && !xml.contains("<readonly"), "{xml}");
}

#[test]
fn an_offline_plan_names_the_domain_that_was_given() {
    let attach = |more: &[&str]| plan(SMB, more).unwrap()["steps"][2]["description"].to_string();
    let named = attach(&["--domain", "web"]);
    assert!(named.contains("into domain web as vda"), "{named}");
    let unnamed = attach(&[]);
    assert!(unnamed.contains("into the domain as vda"), "{unnamed}");
}

#[test]
fn the_request_alone_makes_it_read_only_and_nothing_turns_it_back() {
    let info = SMB.replace("\"access_mode\":\"ro\"", "\"access_mode\":\"rw\"");
    assert_eq!(plan(&info, &[]).unwrap()["access"], "rw");
    assert_eq!(plan(&info, &["--access", "ro"]).unwrap()["access"], "ro");
    assert_eq!(plan(SMB, &["--access", "rw"]).unwrap()["access"], "ro");
}

#[test]
fn what_cannot_be_planned_has_its_reason() {
    let local = r#"{"driver_volume_type":"local","data":{"device_path":"/etc/shadow"}}"#;
    let suid = SMB.replace("-o username", "-o suid,username");
    for (info, more, reason, code) in [
        (
            "no json",
            &[][..],
            "INVALID_CONNECTION_INFO",
            "INVALID_ARGUMENT",
        ),
        (&suid, &[], "MOUNT_OPTION_REFUSED", "INVALID_ARGUMENT"),
        (local, &[], "VOLUME_PATH_UNSAFE", "FAILED_PRECONDITION"),
        (
            SMB,
            &["--bus", "ide"],
            "DISK_OPTION_INVALID",
            "INVALID_ARGUMENT",
        ),
    ] {
        let (exit, error) = plan(info, more).unwrap_err();
        assert_eq!(
            (exit, &error["error"]["reason"]),
            (1, &Value::from(reason)),
            "{error}"
        );
        assert_eq!(error["error"]["code"], code);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn a_wrong_configuration_or_a_missing_file_is_told() {
    let files = Files::new();
    let info = files.write("info.json", SMB);
    let config = files.write("c.toml", "nonsense = 1\n");
    let run = |config: &str, info: &str| {
        let output = volattach(&[
            "plan",
            "--offline",
            "--config",
            config,
            "--connection-info",
            info,
            "-o",
            "json",
        ]);
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), error["error"]["reason"].to_string())
    };
    let invalid = (Some(1), "\"CONFIGURATION_INVALID\"".to_owned());
    assert_eq!(run(&config, &info), invalid);
    assert_eq!(run("/nonexistent/c.toml", &info), invalid);
    let good = files.write("good.toml", "");
    assert_eq!(
        run(&good, "/nonexistent.json"),
        (Some(1), "\"LOCAL_ERROR\"".to_owned())
    );
    let latin1 = files.0.path().join("latin1.json");
    std::fs::write(&latin1, b"{\"driver_volume_type\": \"\xe9\"}").unwrap();
    assert_eq!(
        run(&good, latin1.to_str().unwrap()),
        (Some(1), "\"INVALID_CONNECTION_INFO\"".to_owned())
    );
}

#[test]
fn completions_and_man_pages_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let output = volattach(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("connection-info"),
            "{shell}"
        );
    }
    let files = Files::new();
    let output = volattach(&["man", files.0.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    for page in ["volattach.1", "volattach-attach.1", "volattach-plan.1"] {
        let text = std::fs::read_to_string(files.0.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn help_lists_the_exit_codes() {
    let output = volattach(&["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("5  the guest has not let go"), "{text}");
}
