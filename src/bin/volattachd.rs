//! The agent of a compute node.

fn main() {}
