//! The inspect step: the volume is opened and looked at before a guest gets it. It changes nothing, so there is nothing to undo.

use crate::attach::Error;
use crate::attach::inner::Inner;
use crate::model::HostPlan;

impl Inner {
    /// Inspects the volume.
    pub(in crate::attach) async fn inspect(&self, host: &HostPlan) -> Result<(), Error> {
        let backend = self.parts.backends.get(&host.protocol)?;
        Ok(backend.inspect(host).await?)
    }
}
