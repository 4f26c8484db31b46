//! libvirt's calls that take or give typed parameters: setting a disk's limits, reading its counters.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::raw::c_int;

use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::raw::{check, text};

/// Counters that libvirt has of a disk at most (`REMOTE_DOMAIN_BLOCK_STATS_PARAMETERS_MAX`).
const BLOCK_STATS: usize = 16;

/// The parameter with the name of a disk's group (`VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME`).
const GROUP_NAME: &str = "group_name";

/// The counters of the disk at that target, by libvirt's names.
pub(super) fn block_stats(domain: &Domain, target: &str) -> Result<Vec<(String, u64)>, Error> {
    let target = CString::new(target)?;
    // SAFETY: a parameter is bytes, an integer and a union of numbers and a pointer, of all of which zero is a value.
    let mut counters: [sys::virTypedParameter; BLOCK_STATS] = unsafe { std::mem::zeroed() };
    let mut number = BLOCK_STATS as c_int;
    // SAFETY: the domain's pointer is valid while it is borrowed, the target is a C string, `counters` a place for as many parameters as
    // `number` says, of which libvirt fills some and writes how many; all of them outlive the call.
    let result = unsafe {
        sys::virDomainBlockStatsFlags(
            domain.as_ptr(),
            target.as_ptr(),
            counters.as_mut_ptr(),
            &raw mut number,
            0,
        )
    };
    check(result)?;
    let filled = counters.iter().take(usize::try_from(number).unwrap_or(0));
    let numbers = filled.filter(|it| u32::try_from(it.type_) == Ok(sys::VIR_TYPED_PARAM_LLONG));
    let read = numbers.filter_map(|counter| {
        // SAFETY: libvirt ends a parameter's name with a NUL within the array (VIR_TYPED_PARAM_FIELD_LENGTH), and so does zero.
        let name = unsafe { text(counter.field.as_ptr()) };
        // SAFETY: the union's member that the parameter's type names.
        let value = unsafe { counter.value.l };
        Some((name, u64::try_from(value).ok()?))
    });
    Ok(read.collect())
}

/// Sets limits of the disk at that target, by libvirt's names.
pub(super) fn set_io_tune(
    domain: &Domain,
    target: &str,
    limits: &[(&str, u64)],
    group: Option<&str>,
    flags: u32,
) -> Result<(), Error> {
    let target = CString::new(target)?;
    let mut parameters = TypedParameters::default();
    for (name, value) in limits {
        parameters.add_number(name, *value)?;
    }
    if let Some(group) = group {
        parameters.add_text(GROUP_NAME, group)?;
    }
    // SAFETY: the domain's pointer is valid while it is borrowed, the target is a C string, and the parameters are as many as `number` says;
    // all of them outlive the call.
    let result = unsafe {
        sys::virDomainSetBlockIoTune(
            domain.as_ptr(),
            target.as_ptr(),
            parameters.first,
            parameters.number,
            flags,
        )
    };
    check(result).map(drop)
}

/// Parameters of a call, which libvirt allocates.
struct TypedParameters {
    first: sys::virTypedParameterPtr,
    number: c_int,
    allocated: c_int,
}

impl Default for TypedParameters {
    fn default() -> Self {
        Self {
            first: std::ptr::null_mut(),
            number: 0,
            allocated: 0,
        }
    }
}

impl TypedParameters {
    fn add_number(&mut self, name: &str, value: u64) -> Result<(), Error> {
        let name = CString::new(name)?;
        // SAFETY: the three are null and zero, or as libvirt wrote them; the name is a C string that outlives the call, which copies it.
        let result = unsafe {
            sys::virTypedParamsAddULLong(
                &raw mut self.first,
                &raw mut self.number,
                &raw mut self.allocated,
                name.as_ptr(),
                value,
            )
        };
        check(result).map(drop)
    }

    fn add_text(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let (name, value) = (CString::new(name)?, CString::new(value)?);
        // SAFETY: as in `add_number`; the value is a C string too, and copied.
        let result = unsafe {
            sys::virTypedParamsAddString(
                &raw mut self.first,
                &raw mut self.number,
                &raw mut self.allocated,
                name.as_ptr(),
                value.as_ptr(),
            )
        };
        check(result).map(drop)
    }
}

impl Drop for TypedParameters {
    fn drop(&mut self) {
        // SAFETY: the parameters are libvirt's, as many as `number` says, or null.
        unsafe { sys::virTypedParamsFree(self.first, self.number) };
    }
}
