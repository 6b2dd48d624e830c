//! Keys of the build cache: digests of all that goes into a step.

use coracle_image::Digest;
use sha2::{Digest as _, Sha256};

/// Gathers what goes into a step. Parts are told apart by their lengths, so no two lists of parts are the same.
#[derive(Clone)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Of a kind of step, with the version of how it is done: a change of what a step makes of its input is a new kind.
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).add(kind)
    }

    pub fn add(mut self, part: impl AsRef<[u8]>) -> Self {
        self.put(part);
        self
    }

    pub fn put(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    pub fn all<T: AsRef<[u8]>>(mut self, parts: impl IntoIterator<Item = T>) -> Self {
        let mut count = 0u64;
        for part in parts {
            self.put(part);
            count += 1;
        }
        self.put(count.to_le_bytes());
        self
    }

    pub fn finish(self) -> Digest {
        Digest::finish(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        let of = |parts: &[&str]| Key::new("t").all(parts).finish();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
    }
}
