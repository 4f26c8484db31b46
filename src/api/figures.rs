//! What the API counts: calls by how they ended, and how long they took.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::limit::Limiter;
use crate::figures::{Histogram, Level, Tally, Timings};
use crate::model::Reason;
use crate::policy::Rpc;

/// What stands for the reason of a call that succeeded.
const OK: &str = "OK";

/// What stands for the reason of a call whose caller went away. Its work goes on.
const CANCELLED: &str = "CANCELLED";

/// The calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// By RPC and reason.
    ended: Tally<(&'static str, &'static str)>,
    took: Timings<&'static str>,
    running: Level,
}

/// What the API counts. Clones are the same figures.
#[derive(Debug, Clone)]
pub struct ApiFigures {
    calls: Arc<Calls>,
    limiter: Limiter,
}

impl ApiFigures {
    /// Nothing was called yet.
    pub(super) fn new(limiter: Limiter) -> Self {
        Self {
            calls: Arc::default(),
            limiter,
        }
    }

    /// Counts a call from here on.
    pub(super) fn begin(&self, rpc: Rpc) -> CallUnderWay {
        self.calls.running.up();
        CallUnderWay {
            calls: Arc::clone(&self.calls),
            rpc,
            began: Instant::now(),
            reason: CANCELLED,
        }
    }

    /// Calls that ended, by RPC and reason: `OK`, `CANCELLED`, or one of [`Reason`]. A watch is a call until it begins.
    #[must_use]
    pub fn ended(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut ended = self.calls.ended.read();
        for rpc in Rpc::ALL {
            ended.entry((rpc.name(), OK)).or_default(); // so that the first one is an increase
        }
        ended
    }

    /// How long calls took, by RPC.
    #[must_use]
    pub fn took(&self) -> BTreeMap<&'static str, Histogram> {
        self.calls.took.read()
    }

    /// Calls under way.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.calls.running.get()
    }

    /// Watches under way.
    #[must_use]
    pub fn watches(&self) -> u64 {
        self.limiter.watches().into()
    }
}

/// A call that has not ended. The drop ends it, as `CANCELLED` unless it was answered.
pub(super) struct CallUnderWay {
    calls: Arc<Calls>,
    rpc: Rpc,
    began: Instant,
    reason: &'static str,
}

impl CallUnderWay {
    /// Notes what the call is answered.
    pub(super) fn answered(mut self, failed: Option<Reason>) {
        self.reason = failed.map_or(OK, Reason::as_str);
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.calls.running.down();
        self.calls.ended.add((self.rpc.name(), self.reason));
        self.calls.took.note(self.rpc.name(), self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;
    use crate::api::{SERVICE_NAME, v1};
    use crate::config::Settings;

    fn figures() -> ApiFigures {
        ApiFigures::new(Limiter::new(Settings::built_in().limits))
    }

    #[test]
    fn every_call_of_the_proto_has_a_row_before_it_is_made() {
        let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().flat_map(|file| &file.service);
        let is_ours = |name: &str| SERVICE_NAME.ends_with(&format!(".{name}"));
        let ours = services.filter(|service| is_ours(service.name()));
        let methods: BTreeSet<_> = ours
            .flat_map(|service| service.method.iter().map(|method| method.name().to_owned()))
            .collect();
        let ended = figures().ended();
        let rows: BTreeSet<_> = ended.keys().map(|(rpc, _)| (*rpc).to_owned()).collect();
        assert_eq!(rows, methods);
        assert!(ended.values().all(|number| *number == 0));
    }

    #[test]
    fn a_call_whose_caller_goes_away_is_counted_and_is_no_longer_under_way() {
        let figures = figures();
        let (gone, answered) = (
            figures.begin(Rpc::AttachVolume),
            figures.begin(Rpc::AttachVolume),
        );
        assert_eq!(figures.running(), 2);
        drop(gone);
        answered.answered(Some(Reason::BusFull));
        assert_eq!(figures.running(), 0);
        let ended = figures.ended();
        assert_eq!(ended[&("AttachVolume", "CANCELLED")], 1);
        assert_eq!(ended[&("AttachVolume", "BUS_FULL")], 1);
        assert_eq!(figures.took()["AttachVolume"].count(), 2);
    }
}
