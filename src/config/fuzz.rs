//! What holds of any configuration that was taken.

use std::path::Path;

use super::load::decode;
use super::tree;

/// Any text as a configuration, and behind a NUL as a drop-in over it: settings, or what is wrong with places that are in it.
pub(crate) fn settings(text: &str) {
    let mut merged = tree::Table::new();
    for (at, part) in text.splitn(2, '\0').enumerate() {
        let file = format!("{at}.toml");
        match tree::parse(Path::new(&file), part) {
            Ok(table) => tree::merge(&mut merged, table),
            Err(error) => {
                let said = crate::model::chain(&error);
                assert!(said.contains(&file) && !said.contains('\n'), "{said:?}");
                return;
            }
        }
    }
    let mut problems = Vec::new();
    let _ = decode(merged, &mut problems);
    for problem in problems {
        let said = problem.to_string();
        assert!(said.contains(".toml:") && !said.contains('\n'), "{said:?}");
    }
}
