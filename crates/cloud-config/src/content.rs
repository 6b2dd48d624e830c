//! What the content of a file is encoded with (cloud-init's `write_files`).
use crate::problem::quoted;
use crate::tree::Scalar;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use std::io::Read;

/// Bytes of one file, decoded.
pub const CONTENT_MAX: usize = 10 << 20;

/// How a file's content is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Encoding {
    base64: bool,
    gzip: bool,
}

impl Encoding {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (base64, gzip) = match text {
            "" | "text/plain" => (false, false),
            "b64" | "base64" => (true, false),
            "gz" | "gzip" => (false, true),
            "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => (true, true),
            _ => {
                return Err(format!(
                    "{} is no encoding; write b64, gz+b64, or no encoding for plain text",
                    quoted(text)
                ));
            }
        };
        Ok(Self { base64, gzip })
    }

    /// The bytes that are meant; of `!!binary`, what YAML itself makes of the text.
    pub fn decode(self, content: &Scalar, binary: bool) -> Result<Vec<u8>, String> {
        let mut bytes = content.text.clone().into_bytes();
        for _ in 0..usize::from(binary) + usize::from(self.base64) {
            bytes.retain(|b| !b.is_ascii_whitespace());
            bytes = STANDARD.decode(&bytes).map_err(|error| {
                format!("is no base64 ({error}); encode the file again with `base64`")
            })?;
        }
        if self.gzip {
            bytes = unpack(&bytes)?;
        }
        if bytes.len() > CONTENT_MAX {
            return Err(too_large());
        }
        Ok(bytes)
    }
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    // One byte more tells that there is more.
    let limit = u64::try_from(CONTENT_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut limited = MultiGzDecoder::new(bytes).take(limit);
    match limited.read_to_end(&mut plain) {
        Ok(_) if plain.len() > CONTENT_MAX => Err(too_large()),
        Ok(_) => Ok(plain),
        Err(error) => Err(format!(
            "cannot be unpacked with gzip ({error}); encode the file again with `gzip -c FILE | base64` and encoding: gz+b64"
        )),
    }
}

fn too_large() -> String {
    format!(
        "is larger than {} MiB; put it into an image",
        CONTENT_MAX >> 20
    )
}
