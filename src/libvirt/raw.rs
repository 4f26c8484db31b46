//! What the `virt` crate does not wrap: detaching by alias, a disk's size, device events, the close callback. This module's `unsafe` is here
//! and in `parameters.rs`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_uchar, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::event::{DomainEnd, DomainEvent};

/// Something that libvirt reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// An event for everybody.
    Domain(DomainEvent),
    /// A device was plugged in: for whoever did it.
    Added { domain: Uuid, alias: String },
    /// The guest or QEMU refused to let go of a disk: for those who asked.
    RemovalFailed { domain: Uuid, alias: String },
    /// A request to a disk failed, and its domain is paused for that.
    IoError { domain: Uuid, alias: String },
}

impl Event {
    /// Whether a wait for that device should look again.
    pub(super) fn concerns(&self, of: Uuid, device: &str) -> bool {
        match self {
            Self::Domain(event) => event.concerns(of, device),
            Self::RemovalFailed { domain, alias } => *domain == of && alias == device,
            Self::Added { .. } | Self::IoError { .. } => false,
        }
    }
}

/// Who is told of events, on the event loop's thread: it must not block.
pub(super) type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Who is told that a connection closed, on the event loop's thread: it must not block.
pub(super) type CloseSink = Arc<dyn Fn(CloseReason) + Send + Sync>;

/// Why a connection closed (`virConnectCloseReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The other side closed it.
    Eof,
    /// The other side stopped answering.
    KeepAlive,
    /// Anything else.
    Other,
}

/// Asks for the device of that alias to be detached, and returns without waiting for the guest, unlike
/// virDomainDetachDevice, which waits 5 s for it while holding the domain's job.
pub(super) fn detach_alias(domain: &Domain, alias: &str, flags: u32) -> Result<(), Error> {
    let alias = CString::new(alias)?;
    // SAFETY: the domain's pointer is valid while it is borrowed, the alias is a C string that outlives the call.
    let result = unsafe { sys::virDomainDetachDeviceAlias(domain.as_ptr(), alias.as_ptr(), flags) };
    check(result).map(drop)
}

/// The size in bytes of the disk at that target, as the guest sees it. The `virt` crate's own takes what libvirt left
/// unwritten when the call fails.
pub(super) fn capacity(domain: &Domain, target: &str) -> Result<u64, Error> {
    let target = CString::new(target)?;
    let mut info = sys::virDomainBlockInfo {
        capacity: 0,
        allocation: 0,
        physical: 0,
    };
    // SAFETY: the domain's pointer is valid while it is borrowed, the target is a C string and `info` a place for what
    // libvirt writes, and both outlive the call.
    let result =
        unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), target.as_ptr(), &raw mut info, 0) };
    check(result).map(|_| info.capacity)
}

/// The targets of the disks to which requests failed, as QEMU has them (`io-status`).
pub(super) fn disk_errors(domain: &Domain) -> Result<Vec<String>, Error> {
    // SAFETY: the domain's pointer is valid while it is borrowed; without room libvirt writes nothing and returns how many disks there are.
    let number =
        unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    let number = usize::try_from(check(number)?).unwrap_or(0);
    if number == 0 {
        return Ok(Vec::new());
    }
    let mut errors = vec![
        sys::virDomainDiskError {
            disk: std::ptr::null_mut(),
            error: 0,
        };
        number
    ];
    let room = c_uint::try_from(number).unwrap_or(0);
    // SAFETY: as above, and `errors` is a place for as many as `room` says, which outlives the call.
    let filled =
        unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), room, 0) };
    let filled = usize::try_from(check(filled)?).unwrap_or(0);
    let targets = errors.iter().take(filled).map(|error| {
        // SAFETY: libvirt wrote a C string for each that it counts, which is the caller's to free, and nothing reads it after.
        unsafe {
            let target = text(error.disk);
            libc::free(error.disk.cast());
            target
        }
    });
    Ok(targets.collect())
}

/// The security driver by which libvirt confines domains, such as `apparmor`; `None`: it has none.
pub(super) fn security_model(connect: &Connect) -> Result<Option<String>, Error> {
    let mut model = sys::virSecurityModel {
        model: [0; 257],
        doi: [0; 257],
    };
    // SAFETY: the connection is valid while borrowed, and `model` a place for what libvirt writes, which outlives the call.
    let result = unsafe { sys::virNodeGetSecurityModel(connect.as_ptr(), &raw mut model) };
    match check(result) {
        Ok(_) => {}
        Err(error) if error.code().to_raw() == sys::VIR_ERR_NO_SUPPORT => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: libvirt ends the model's name with a NUL within the array (VIR_SECURITY_MODEL_BUFLEN).
    let name = unsafe { text(model.model.as_ptr()) };
    Ok((!name.is_empty()).then_some(name))
}

/// Registers for the events of all domains; gives what [`deregister_events`] takes.
pub(super) fn register_events(connect: &Connect, sink: &EventSink) -> Result<Vec<c_int>, Error> {
    type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    type Device =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);
    type Lifecycle = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        c_int,
        c_int,
        *mut c_void,
    ) -> c_int;

    type IoError = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        *const c_char,
        *const c_char,
        c_int,
        *const c_char,
        *mut c_void,
    );

    // SAFETY: libvirt takes callbacks of every kind as this one type and calls each as the kind its event id says
    // (the macro VIR_DOMAIN_EVENT_CALLBACK of libvirt-domain.h); function pointers are of one size.
    let device = |callback: Device| unsafe { std::mem::transmute::<Device, Generic>(callback) };
    // SAFETY: as above.
    let lifecycle =
        |callback: Lifecycle| unsafe { std::mem::transmute::<Lifecycle, Generic>(callback) };
    // SAFETY: as above.
    let io_error = |callback: IoError| unsafe { std::mem::transmute::<IoError, Generic>(callback) };

    let mut ids = Vec::new();
    for (event, callback) in [
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, device(on_added)),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, device(on_removed)),
        (
            sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
            device(on_removal_failed),
        ),
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle(on_lifecycle)),
        (
            sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            io_error(on_io_error),
        ),
    ] {
        let opaque = Box::into_raw(Box::new(Arc::clone(sink)));
        // SAFETY: the connection is valid while borrowed; no domain means all; `callback` fits `event`; `opaque` is a
        // boxed EventSink, which libvirt gives to the callback and, once, to `free`.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connect.as_ptr(),
                std::ptr::null_mut(),
                event as c_int,
                Some(callback),
                opaque.cast(),
                Some(free::<EventSink>),
            )
        };
        match check(id) {
            Ok(id) => ids.push(id),
            Err(error) => {
                // SAFETY: on failure libvirt has not taken the box over.
                drop(unsafe { Box::from_raw(opaque) });
                deregister_events(connect, &ids);
                return Err(error);
            }
        }
    }
    Ok(ids)
}

/// Ends the registrations, which hold references to the connection. On a dead connection there is nothing to tell
/// the other side, which is no failure.
pub(super) fn deregister_events(connect: &Connect, ids: &[c_int]) {
    for id in ids {
        // SAFETY: the connection is valid while borrowed; an unknown id is an error of libvirt's, no more.
        unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), *id) };
    }
}

/// Registers for the connection's end.
pub(super) fn register_close(connect: &Connect, sink: CloseSink) -> Result<(), Error> {
    let opaque = Box::into_raw(Box::new(sink));
    // SAFETY: the connection is valid while borrowed; `opaque` is a boxed CloseSink, which libvirt gives to the
    // callback and, once, to `free`.
    let result = unsafe {
        sys::virConnectRegisterCloseCallback(
            connect.as_ptr(),
            Some(on_close),
            opaque.cast(),
            Some(free::<CloseSink>),
        )
    };
    check(result).map(drop).inspect_err(|_| {
        // SAFETY: on failure libvirt has not taken the box over.
        drop(unsafe { Box::from_raw(opaque) });
    })
}

/// Ends the registration, which holds a reference to the connection.
pub(super) fn deregister_close(connect: &Connect) {
    // SAFETY: the connection is valid while borrowed; none registered is an error of libvirt's, no more.
    unsafe { sys::virConnectUnregisterCloseCallback(connect.as_ptr(), Some(on_close)) };
}

pub(super) fn check(result: c_int) -> Result<c_int, Error> {
    if result < 0 {
        return Err(Error::last_error());
    }
    Ok(result)
}

/// Frees a box given to libvirt.
unsafe extern "C" fn free<T>(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once with the pointer registered beside it, which came from Box::into_raw.
    drop(unsafe { Box::from_raw(opaque.cast::<T>()) });
}

/// Tells a sink of an event. A panic must not cross into C, and one sink's defect must not end the event loop.
///
/// # Safety
/// `opaque` is a boxed [`EventSink`], and `domain` a valid domain.
unsafe fn tell(
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
    event: impl FnOnce(Uuid) -> Option<Event>,
) {
    let mut uuid: [c_uchar; sys::VIR_UUID_BUFLEN as usize] = [0; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: libvirt's callbacks get a valid domain; the buffer has the length that libvirt writes.
    if unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) } < 0 {
        return;
    }
    // SAFETY: the caller's promise; libvirt keeps the box until it calls `free`.
    let sink = unsafe { &*opaque.cast::<EventSink>() };
    if let Some(event) = event(Uuid::from_bytes(uuid)) {
        let _ = catch_unwind(AssertUnwindSafe(|| sink(event)));
    }
}

/// Tells a sink of an event of a device.
///
/// # Safety
/// As for [`tell`], and `alias` is a C string.
unsafe fn tell_of_device(
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
    event: fn(Uuid, String) -> Event,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let alias = text(alias);
        tell(domain, opaque, |domain| Some(event(domain, alias)));
    }
}

/// The text of a C string of libvirt's.
///
/// # Safety
/// `text` is a C string.
pub(super) unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

unsafe extern "C" fn on_added(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    let added = |domain, alias| Event::Added { domain, alias };
    // SAFETY: libvirt calls with a valid domain and alias, and the opaque pointer registered: a boxed EventSink.
    unsafe { tell_of_device(domain, alias, opaque, added) };
}

unsafe extern "C" fn on_removed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    let gone = |domain, alias| Event::Domain(DomainEvent::DiskGone { domain, alias });
    // SAFETY: as in `on_added`.
    unsafe { tell_of_device(domain, alias, opaque, gone) };
}

unsafe extern "C" fn on_removal_failed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    let failed = |domain, alias| Event::RemovalFailed { domain, alias };
    // SAFETY: as in `on_added`.
    unsafe { tell_of_device(domain, alias, opaque, failed) };
}

unsafe extern "C" fn on_io_error(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _source: *const c_char,
    alias: *const c_char,
    action: c_int,
    _reason: *const c_char,
    opaque: *mut c_void,
) {
    if u32::try_from(action) != Ok(sys::VIR_DOMAIN_EVENT_IO_ERROR_PAUSE) {
        return;
    }
    let failed = |domain, alias| Event::IoError { domain, alias };
    // SAFETY: as in `on_added`.
    unsafe { tell_of_device(domain, alias, opaque, failed) };
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let (Ok(event), Ok(detail)) = (u32::try_from(event), u32::try_from(detail)) else {
        return 0;
    };
    // SAFETY: as in `on_added`.
    unsafe {
        tell(domain, opaque, |domain| {
            lifecycle_event(domain, event, detail).map(Event::Domain)
        });
    };
    0
}

/// The event of a `virDomainEventType` and its detail. `None`: no disk comes, goes or fails by it, as when a domain is paused by somebody, or for
/// a migration: it has its disks until it stops. A crash has its own event only before the domain stops, or is kept with its disks.
fn lifecycle_event(domain: Uuid, event: u32, detail: u32) -> Option<DomainEvent> {
    match event {
        sys::VIR_DOMAIN_EVENT_STARTED => Some(DomainEvent::Started { domain }),
        sys::VIR_DOMAIN_EVENT_STOPPED => {
            let end = stopped_by(detail);
            Some(DomainEvent::Stopped { domain, end })
        }
        sys::VIR_DOMAIN_EVENT_SUSPENDED if detail == sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR => {
            Some(DomainEvent::IoStopped { domain })
        }
        sys::VIR_DOMAIN_EVENT_RESUMED => Some(DomainEvent::Resumed { domain }),
        sys::VIR_DOMAIN_EVENT_DEFINED => Some(DomainEvent::Defined { domain }),
        // A rename undefines the old name, then defines the new one.
        sys::VIR_DOMAIN_EVENT_UNDEFINED if detail == sys::VIR_DOMAIN_EVENT_UNDEFINED_RENAMED => {
            None
        }
        sys::VIR_DOMAIN_EVENT_UNDEFINED => Some(DomainEvent::Undefined { domain }),
        _ => None,
    }
}

/// How a domain stopped, by a `virDomainEventStoppedDetailType`. libvirt's QEMU driver reports as failed a QEMU that ended without
/// being asked to.
fn stopped_by(detail: u32) -> DomainEnd {
    match detail {
        sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED | sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => {
            DomainEnd::Crashed
        }
        sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => DomainEnd::Migrated,
        sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => DomainEnd::Saved,
        _ => DomainEnd::ShutOff,
    }
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let reason = match u32::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => CloseReason::Eof,
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => CloseReason::KeepAlive,
        _ => CloseReason::Other,
    };
    // SAFETY: libvirt passes the pointer registered, a boxed CloseSink, and keeps it until it calls `free`.
    let sink = unsafe { &*opaque.cast::<CloseSink>() };
    let _ = catch_unwind(AssertUnwindSafe(|| sink(reason)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifecycle_of_domains_is_reported_where_disks_come_and_go() {
        let domain = Uuid::from_u128(1);
        let stopped = |end| Some(DomainEvent::Stopped { domain, end });
        for (event, detail, expected) in [
            // virDomainEventType and the detail's own type, in libvirt-domain.h.
            (0, 0, Some(DomainEvent::Defined { domain })),
            (0, 2, Some(DomainEvent::Defined { domain })),
            (1, 0, Some(DomainEvent::Undefined { domain })),
            (1, 1, None),
            (2, 0, Some(DomainEvent::Started { domain })),
            (2, 1, Some(DomainEvent::Started { domain })),
            (3, 0, None),
            (3, 1, None),
            (3, 2, Some(DomainEvent::IoStopped { domain })),
            (4, 0, Some(DomainEvent::Resumed { domain })),
            (4, 1, Some(DomainEvent::Resumed { domain })),
            (5, 0, stopped(DomainEnd::ShutOff)),
            (5, 1, stopped(DomainEnd::ShutOff)),
            (5, 2, stopped(DomainEnd::Crashed)),
            (5, 3, stopped(DomainEnd::Migrated)),
            (5, 4, stopped(DomainEnd::Saved)),
            (5, 5, stopped(DomainEnd::Crashed)),
            (5, 6, stopped(DomainEnd::ShutOff)),
            (5, 99, stopped(DomainEnd::ShutOff)),
            (8, 0, None),
            (99, 0, None),
        ] {
            let reported = lifecycle_event(domain, event, detail);
            assert_eq!(reported, expected, "{event}, {detail}");
        }
    }
}
