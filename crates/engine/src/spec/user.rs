//! Users: a name or number, looked up in the container's own /etc/passwd and /etc/group.

use crate::error::{EngineError, Result};

/// A numeric user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Passwd { name, uid, gid })
    })
}

/// Name, id and members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// Resolves `user[:group]` as Docker does: names must exist, numbers need not; without a group the user's own
/// primary and supplementary groups are taken; `group_add` comes on top.
///
/// # Errors
/// [`EngineError::Invalid`] naming a user or group that is not in the container's files.
pub fn resolve(
    user: &str,
    group_add: &[String],
    passwd_text: &str,
    group_text: &str,
) -> Result<ResolvedUser> {
    let (user, group) = user
        .split_once(':')
        .map_or((user, None), |(u, g)| (u, Some(g)));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd(passwd_text)
        .find(|p| p.name == user)
        .or_else(|| passwd(passwd_text).find(|p| Some(p.uid) == number));
    let uid = match (&entry, number) {
        (Some(p), _) => p.uid,
        (None, Some(n)) => n,
        (None, None) => {
            return Err(EngineError::Invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let find_group = |name: &str| -> Result<u32> {
        groups(group_text)
            .find(|(n, _, _)| *n == name)
            .map(|(_, gid, _)| gid)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| {
                EngineError::Invalid(format!(
                    "unable to find group {name}: no matching entries in group file"
                ))
            })
    };
    let mut resolved = ResolvedUser {
        uid,
        gid: entry.as_ref().map_or(0, |p| p.gid),
        groups: vec![],
    };
    if let Some(group) = group.filter(|g| !g.is_empty()) {
        resolved.gid = find_group(group)?;
    } else if let Some(p) = &entry {
        resolved.groups = groups(group_text)
            .filter(|(_, gid, members)| *gid != p.gid && members.split(',').any(|m| m == p.name))
            .map(|(_, gid, _)| gid)
            .collect();
    }
    for group in group_add {
        let gid = find_group(group)?;
        if !resolved.groups.contains(&gid) {
            resolved.groups.push(gid);
        }
    }
    // The primary group too, as docker has it since CVE-2022-36109: without it, who leaves that group would gain what is forbidden
    // to it.
    if !resolved.groups.contains(&resolved.gid) {
        resolved.groups.insert(0, resolved.gid);
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\ntty:x:5:web,root\naudio:x:29:web\n";

    fn run(user: &str, add: &[&str]) -> Result<ResolvedUser> {
        let add: Vec<String> = add.iter().map(|s| (*s).to_owned()).collect();
        resolve(user, &add, PASSWD, GROUP)
    }

    #[test]
    fn as_docker_does() {
        assert_eq!(
            run("", &[]).unwrap(),
            ResolvedUser {
                uid: 0,
                gid: 0,
                groups: vec![0, 5]
            }
        );
        assert_eq!(
            run("web", &[]).unwrap(),
            ResolvedUser {
                uid: 33,
                gid: 33,
                groups: vec![33, 5, 29]
            }
        );
        assert_eq!(run("33", &[]).unwrap().groups, [33, 5, 29]);
        assert_eq!(
            run("1000", &[]).unwrap(),
            ResolvedUser {
                uid: 1000,
                gid: 0,
                groups: vec![0]
            }
        );
        assert_eq!(
            run("web:audio", &[]).unwrap(),
            ResolvedUser {
                uid: 33,
                gid: 29,
                groups: vec![29]
            }
        );
        assert_eq!(
            run("0:7", &["audio"]).unwrap(),
            ResolvedUser {
                uid: 0,
                gid: 7,
                groups: vec![7, 29]
            }
        );
        assert!(
            run("nobody", &[])
                .unwrap_err()
                .to_string()
                .contains("nobody")
        );
        assert!(
            run("web:nogroup", &[])
                .unwrap_err()
                .to_string()
                .contains("nogroup")
        );
    }
}
