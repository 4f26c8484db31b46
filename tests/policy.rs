//! Policies as operators write them: what oslo.policy decided of them, Cinder's recipe for an observer, the tools.

#![cfg(test)]

#[path = "policy/commands.rs"]
mod commands;
#[path = "policy/observer.rs"]
mod observer;
#[path = "policy/remote.rs"]
mod remote;
#[path = "policy/vectors.rs"]
mod vectors;
mod web;

use std::path::PathBuf;
use std::process::{Command, Output};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// `volattachd policy ARGUMENTS`
fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_volattachd"))
        .env_clear()
        .arg("policy")
        .args(arguments)
        .output()
        .unwrap()
}

/// Its exit code, standard output and standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = tool(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}
