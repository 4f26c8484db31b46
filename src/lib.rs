//! volattach
