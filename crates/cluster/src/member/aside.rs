//! What a machine has kept of a cluster's store is that cluster's. When the machine goes to another one, it is put aside.
//!
//! Revisions of two clusters do not compare: a recovery that took the newest copy would begin the one with the store of the other.
//!
//! ```text
//! snapshots/…            ──▶ former-1/snapshots/…
//! etcd/data.before-2     ──▶ former-1/data.before-2
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::snapshots::{Snapshots, copies};
use super::{MemberError, files, recover};

const NAME: &str = "former-";

/// Puts copies of the store, and what recoveries have left of etcd's data, where nothing looks for them: `former-N` below `dir`
/// (`STATE_DIR/cluster`). Answers where that is; None where there was nothing. This machine's etcd is stopped, or there is none. May be
/// cut short and done again.
///
/// # Errors
/// `File`.
pub fn put_aside(dir: &Path) -> Result<Option<PathBuf>, MemberError> {
    // What a copy that was cut short left goes.
    Snapshots::open(dir, 1)?;
    let mut all = recover::kept(dir)?;
    let taken = copies(dir);
    if entries(&taken)?.next().is_some() {
        all.push(taken.clone());
    }
    if all.is_empty() {
        return Ok(None);
    }
    let aside = dir.join(format!("{NAME}{}", last(dir)? + 1));
    files::make_dir(&aside)?;
    for path in all {
        let Some(name) = path.file_name() else {
            continue;
        };
        let to = aside.join(name);
        fs::rename(&path, &to).map_err(MemberError::file("keeping", &to))?;
    }
    files::make_dir(&taken)?;
    files::sync_dir(&aside)?;
    files::sync_dir(dir)?;
    Ok(Some(aside))
}

fn entries(dir: &Path) -> Result<impl Iterator<Item = std::io::Result<fs::DirEntry>>, MemberError> {
    fs::read_dir(dir).map_err(MemberError::file("reading", dir))
}

/// The number of the newest one, or 0.
fn last(dir: &Path) -> Result<u32, MemberError> {
    let mut last = 0;
    for entry in entries(dir)? {
        let name = entry
            .map_err(MemberError::file("reading", dir))?
            .file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME));
        last = last.max(number.and_then(|n| n.parse().ok()).unwrap_or(0));
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn copies_and_former_data_are_found_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        // A machine that never had an etcd.
        assert_eq!(put_aside(dir).unwrap(), None);
        let taken = Snapshots::open(dir, 3).unwrap();
        let copy = "00000000000000000007-1700000000.db";
        fs::write(dir.join("snapshots").join(copy), "copy").unwrap();
        fs::write(dir.join("snapshots/taking.tmp"), "half").unwrap();
        for kept in ["data", "data.before-1", "data.before-12"] {
            fs::create_dir_all(dir.join("etcd").join(kept).join("member/snap")).unwrap();
        }
        fs::write(dir.join("etcd/etcd.log"), "log").unwrap();
        assert_eq!(taken.list().unwrap().len(), 1);

        let aside = put_aside(dir).unwrap().unwrap();
        assert_eq!(aside, dir.join("former-1"));
        assert_eq!(taken.list().unwrap(), []);
        fs::remove_dir_all(dir.join("etcd/data")).unwrap();
        let own = recover::own_database(dir).unwrap();
        assert!(!own.exists() && !own.starts_with(&aside), "{own:?}");
        for kept in ["data.before-1", "data.before-12"] {
            assert!(aside.join(kept).is_dir(), "{kept}");
        }
        let text = fs::read_to_string(aside.join("snapshots").join(copy));
        assert_eq!(text.unwrap(), "copy");
        assert!(!aside.join("snapshots/taking.tmp").exists());

        // Nothing is put aside twice, and nothing in the place of what was.
        assert_eq!(put_aside(dir).unwrap(), None);
        fs::write(dir.join("snapshots").join(copy), "another").unwrap();
        assert_eq!(put_aside(dir).unwrap(), Some(dir.join("former-2")));
        assert_eq!(
            fs::read_to_string(aside.join("snapshots").join(copy)).unwrap(),
            "copy"
        );
    }
}
