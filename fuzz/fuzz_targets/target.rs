//! Gives libFuzzer's inputs to the target that `VOLATTACH_FUZZ` names.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<String> = OnceLock::new();

fn target() -> &'static str {
    TARGET.get_or_init(|| {
        std::env::var("VOLATTACH_FUZZ").unwrap_or_else(|_| {
            let known: Vec<&str> = volattach::fuzz::names().collect();
            panic!("name a target in VOLATTACH_FUZZ: {}", known.join(" "))
        })
    })
}

fuzz_target!(|input: &[u8]| volattach::fuzz::run(target(), input));
