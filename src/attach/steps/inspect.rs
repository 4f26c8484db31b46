//! The inspect step: opens and checks the volume before a guest gets it. Changes
//! nothing but the access to a device ([`crate::model::Found::protected`]), which the undo of the connect takes back.

use crate::attach::Error;
use crate::attach::inner::Inner;
use crate::model::HostVolume;

impl Inner {
    pub(in crate::attach) async fn inspect(&self, volume: &HostVolume) -> Result<(), Error> {
        let backend = self.backends().get(&volume.plan.protocol)?;
        Ok(backend.inspect(volume).await?)
    }
}
