//! A guest's I/O on a disk, as the hypervisor counts it.

/// The I/O of one kind; `None`: the hypervisor does not count that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoCounts {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Requests.
    pub requests: Option<u64>,
    /// Nanoseconds that the requests took, added up.
    pub nanoseconds: Option<u64>,
}

/// The I/O of a guest on a disk since the disk was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskIo {
    /// Reads.
    pub read: IoCounts,
    /// Writes.
    pub write: IoCounts,
    /// Flushes, which have no bytes.
    pub flush: IoCounts,
}
