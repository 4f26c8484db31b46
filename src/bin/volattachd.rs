//! volattachd

fn main() {}
