//! The bytes of a page.

/// What is written; a file that is read may have others.
pub(super) const PAGE: usize = 4096;
/// Of a page, and of each entry in a leaf or a branch.
pub(super) const HEADER: usize = 16;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREE_LIST: u16 = 0x10;

/// Set in a leaf's entry whose value is a bucket.
pub(super) const IS_BUCKET: u32 = 1;

pub(super) const MAGIC: u32 = 0xED0C_DAED;
pub(super) const VERSION: u32 = 2;
/// Bytes of a meta before its checksum.
const META_LENGTH: usize = 56;

/// The first bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub id: u64,
    pub flags: u16,
    pub count: u16,
    /// So many pages more belong to it.
    pub overflow: u32,
}

impl Header {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: number(bytes, 0)?,
            flags: u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?),
            count: u16::from_le_bytes(bytes.get(10..12)?.try_into().ok()?),
            overflow: small(bytes, 12)?,
        })
    }
}

/// A number of 8 bytes.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A number of 4 bytes.
pub(super) fn small(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Where everything begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_size: u32,
    /// The page of the buckets' tree.
    pub root: u64,
    pub free_list: u64,
    /// The first page that is not in use.
    pub high_water: u64,
    pub transaction: u64,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(META_LENGTH + 8);
        for n in [MAGIC, VERSION, self.page_size, 0] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        // The root's sequence is never counted.
        let numbers = [
            self.root,
            0,
            self.free_list,
            self.high_water,
            self.transaction,
        ];
        for n in numbers {
            out.extend_from_slice(&n.to_le_bytes());
        }
        let sum = fnv(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// None where it is not whole, or of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let whole = number(bytes, META_LENGTH)? == fnv(bytes.get(..META_LENGTH)?);
        if !whole || small(bytes, 0)? != MAGIC || small(bytes, 4)? != VERSION {
            return None;
        }
        Some(Self {
            page_size: small(bytes, 8)?,
            root: number(bytes, 16)?,
            free_list: number(bytes, 32)?,
            high_water: number(bytes, 40)?,
            transaction: number(bytes, 48)?,
        })
    }
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
