//! Images that are for other machines.

use crate::engine::Engine;
use crate::error::EngineError;
use crate::record::Record;
use coracle_image::Platform;

impl Engine {
    /// What keeps a program from being run, with the platform that its image is for if that is not this machine's.
    pub(crate) fn not_for_here(&self, record: &Record, error: EngineError) -> EngineError {
        let image = record.image().ok();
        let image = image.and_then(|id| self.0.images.image(id).ok());
        let (host, platform) = (Platform::host(), image.map(|i| i.platform()));
        match (error, platform) {
            (EngineError::Start { code, message }, Some(platform)) if !host.runs(&platform) => {
                EngineError::Start {
                    code,
                    message: format!(
                        "{message}; its image {} is for {platform}, and this machine is {host}: use an image that is for that too",
                        record.config.image
                    ),
                }
            }
            (error, _) => error,
        }
    }
}
