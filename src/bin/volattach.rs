//! volattach

fn main() {}
