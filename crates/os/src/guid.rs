//! Identifiers of disks and partitions (UEFI specification 2.10, appendix A): 16 bytes, of which the first three numbers are stored with
//! their lowest byte first.

use std::{fmt, fs, io};

/// An identifier, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

/// Where a byte of the text is in what is stored.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    /// A new one, by the kernel's random numbers.
    ///
    /// # Errors
    /// Those of reading `/proc/sys/kernel/random/uuid`.
    pub fn new() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads `c12a7328-f81f-11d2-ba4b-00a0c93ec93b`, in capitals or not.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (at, place) in ORDER.into_iter().enumerate() {
            bytes[place] = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, place) in ORDER.into_iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[place])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_stored_as_the_specification_says() {
        let efi = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let id = Guid::parse("C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n").unwrap();
        assert_eq!(id.to_string(), efi);
        assert_eq!(id.0[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        for wrong in ["", "c12a7328", "c12a7328-f81f-11d2-ba4b-00a0c93ec93x"] {
            assert_eq!(Guid::parse(wrong), None);
        }
        assert_ne!(Guid::new().unwrap(), Guid::new().unwrap());
    }
}
