//! The inspect step: the volume is opened and looked at before a guest gets it. It changes nothing, so there is nothing to undo.

use crate::attach::Error;
use crate::attach::inner::Inner;
use crate::model::HostVolume;

impl Inner {
    /// Inspects the volume.
    pub(in crate::attach) async fn inspect(&self, volume: &HostVolume) -> Result<(), Error> {
        let backend = self.parts.backends.get(&volume.plan.protocol)?;
        Ok(backend.inspect(volume).await?)
    }
}
