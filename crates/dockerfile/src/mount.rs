//! `RUN --mount=…`.

use crate::csv;
use crate::error::short;

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that is kept from build to build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file that is in no layer.
    Secret,
    /// An agent's socket.
    Ssh,
}

impl MountKind {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Nobody: others get another directory.
    Private,
    /// Nobody: others wait.
    Locked,
}

/// A mount for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What; [`MountKind::Bind`] if nothing is said.
    pub kind: MountKind,
    /// Where. A secret and an agent have a place of their own if nothing is said, the others need one.
    pub target: Option<String>,
    /// A path in what is mounted.
    pub source: Option<String>,
    /// A stage or an image.
    pub from: Option<String>,
    /// Name of a cache, secret or agent. A secret's `source` is its name as well.
    pub id: Option<String>,
    /// Whether it cannot be written; nothing if nothing is said.
    pub read_only: Option<bool>,
    /// Of a cache.
    pub sharing: Sharing,
    /// Permissions, at most `0o7777`; of a cache, secret or agent.
    pub mode: Option<u32>,
    /// Owner; of a cache, secret or agent.
    pub uid: Option<u32>,
    /// Owner's group; of a cache, secret or agent.
    pub gid: Option<u32>,
    /// Bytes of memory.
    pub size: Option<u64>,
    /// Whether a secret or agent must be there.
    pub required: bool,
    /// The variable that gets a secret.
    pub env: Option<String>,
}

/// Looks at a value before variables are replaced: which stages are needed must be known before any variable is.
pub(crate) fn check(text: &str) -> Result<(), String> {
    for field in csv::fields(text)? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
            && value.contains('$')
        {
            return Err(
                "'from' doesn't support variable expansion, define alias stage instead".to_owned(),
            );
        }
    }
    Ok(())
}

impl Mount {
    /// Reads the value of a `--mount`, variables replaced: `type=cache,target=/root/.cache`, as CSV. Keys are those of BuildKit's
    /// `docker/dockerfile:1`, in any order.
    ///
    /// # Errors
    /// What is wrong and the way out, without a line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields = csv::fields(text)?;
        let mut mount = Self {
            kind: MountKind::Bind,
            target: None,
            source: None,
            from: None,
            id: None,
            read_only: None,
            sharing: Sharing::Shared,
            mode: None,
            uid: None,
            gid: None,
            size: None,
            required: false,
            env: None,
        };
        // What the other keys may say hangs on the type.
        for field in &fields {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("type")
            {
                mount.kind = kind(value)?;
            }
        }
        for field in &fields {
            mount.field(field)?;
        }
        mount.whole()
    }

    fn field(&mut self, field: &str) -> Result<(), String> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let flag = || match value {
            None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(invalid(&key, other, "write true or false")),
        };
        let owned = matches!(
            self.kind,
            MountKind::Cache | MountKind::Secret | MountKind::Ssh
        );
        let named = matches!(self.kind, MountKind::Secret | MountKind::Ssh);
        // What it is allowed for, if not for all.
        let allowed = match key.as_str() {
            "required" => named,
            "mode" | "uid" | "gid" => owned,
            "size" => self.kind == MountKind::Tmpfs,
            "sharing" => self.kind == MountKind::Cache,
            "env" => self.kind == MountKind::Secret,
            "from" => !named,
            _ => true,
        };
        if !allowed {
            let kind = self.kind.name();
            return Err(format!(
                "{key} is not allowed for type={kind}; leave it out"
            ));
        }
        match (key.as_str(), value) {
            ("readonly" | "ro", _) => self.read_only = Some(flag()?),
            ("readwrite" | "rw", _) => self.read_only = Some(!flag()?),
            ("required", _) => self.required = flag()?,
            (_, None) => {
                return Err(format!(
                    "invalid field '{}' must be a key=value pair",
                    short(field)
                ));
            }
            ("type", _) => {}
            ("target" | "dst" | "destination", Some(value)) => self.target = some(value),
            ("source" | "src", Some(value)) => self.source = some(value),
            ("from", Some(value)) => self.from = some(value),
            ("id", Some(value)) => self.id = some(value),
            ("env", Some(value)) => self.env = some(value),
            ("uid", Some(value)) => self.uid = Some(number(&key, value)?),
            ("gid", Some(value)) => self.gid = Some(number(&key, value)?),
            ("mode", Some(value)) => {
                let mode = u32::from_str_radix(value, 8).ok();
                let mode = mode.filter(|m| !value.starts_with('+') && *m <= 0o7777);
                let octal = || invalid(&key, value, "write octal digits such as 0755");
                self.mode = Some(mode.ok_or_else(octal)?);
            }
            ("size", Some(value)) => {
                let bytes = || invalid(&key, value, "write for example 64m");
                self.size = Some(size(value).ok_or_else(bytes)?);
            }
            ("sharing", Some(value)) => self.sharing = sharing(value)?,
            _ => {
                return Err(format!(
                    "unexpected key '{}' in '{}'; use type, target, source, from, id, sharing, mode, uid, gid, size, required, \
                     env, readonly or readwrite",
                    short(&key),
                    short(field)
                ));
            }
        }
        Ok(())
    }

    /// Checks what hangs together.
    fn whole(mut self) -> Result<Self, String> {
        match self.kind {
            MountKind::Secret => {
                if self.source.is_some() && self.id.is_some() {
                    return Err("both source and id can't be set; write id".to_owned());
                }
                self.id = self.id.or_else(|| self.source.take());
                if self.id.is_none() && self.target.is_none() {
                    return Err("invalid secret mount: one of id, target required".to_owned());
                }
            }
            MountKind::Ssh => {}
            kind if self.target.is_none() => {
                return Err(format!("type={} needs target=PATH", kind.name()));
            }
            _ => {}
        }
        Ok(self)
    }
}

fn some(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn invalid(key: &str, value: &str, out: &str) -> String {
    format!("invalid value \"{}\" for {key}; {out}", short(value))
}

fn number(key: &str, value: &str) -> Result<u32, String> {
    let plain = value.bytes().all(|b| b.is_ascii_digit());
    let number = value.parse().ok().filter(|_| plain);
    number.ok_or_else(|| invalid(key, value, "write a number"))
}

fn kind(value: &str) -> Result<MountKind, String> {
    let all = [
        MountKind::Bind,
        MountKind::Cache,
        MountKind::Tmpfs,
        MountKind::Secret,
        MountKind::Ssh,
    ];
    let found = all
        .into_iter()
        .find(|k| k.name().eq_ignore_ascii_case(value));
    found.ok_or_else(|| {
        format!(
            "unsupported mount type \"{}\"; use bind, cache, tmpfs, secret or ssh",
            short(value)
        )
    })
}

fn sharing(value: &str) -> Result<Sharing, String> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(format!(
            "unsupported sharing value \"{}\"; use shared, private or locked",
            short(value)
        )),
    }
}

/// `64m`, `1.5GiB` and the like, in powers of 1024.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let end = lower.rfind(|c: char| c.is_ascii_digit())? + 1;
    let (number, unit) = lower.split_at(end);
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let bytes = number.parse::<f64>().ok()? * f64::from(1_u32 << 10).powi(shift / 10);
    // Half of what fits: no size that is meant is near it, and no float is wrong below.
    (bytes < (1_u64 << 63) as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("64m", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("10 kb", Some(10 << 10)),
            ("7", Some(7)),
            ("7B", Some(7)),
            ("16384p", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1.2.3m", None),
            ("", None),
        ] {
            assert_eq!(size(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_each_type_may_say() {
        let mount = Mount::parse("type=cache,target=/c,id=a,sharing=locked,uid=7,mode=0700");
        let mount = mount.unwrap();
        assert_eq!(
            (mount.kind, mount.sharing, mount.uid, mount.mode),
            (MountKind::Cache, Sharing::Locked, Some(7), Some(0o700))
        );
        let mount = Mount::parse("target=/x,from=build,source=/out,rw").unwrap();
        assert_eq!(
            (mount.kind, mount.read_only, mount.from.as_deref()),
            (MountKind::Bind, Some(false), Some("build"))
        );
        let mount = Mount::parse("required=T,src=token,type=SECRET,\"dst=/a,b\"").unwrap();
        assert_eq!(
            (mount.kind, mount.required, mount.source),
            (MountKind::Secret, true, None)
        );
        assert_eq!(
            (mount.id.as_deref(), mount.target.as_deref()),
            (Some("token"), Some("/a,b"))
        );
        let mount = Mount::parse("type=tmpfs,target=/t,size=64m,ro=false").unwrap();
        assert_eq!((mount.size, mount.read_only), (Some(64 << 20), Some(false)));
        assert!(Mount::parse("type=ssh,required").unwrap().required);
        for bad in [
            "",
            "type=nfs,target=/x",
            "type=cache",
            "type=secret",
            "type=secret,id=a,source=b",
            "type=secret,id=a,from=b",
            "type=bind,target=/x,mode=0700",
            "type=tmpfs,target=/x,uid=1",
            "type=cache,target=/x,size=1m",
            "type=cache,target=/x,required",
            "type=bind,target=/x,sharing=shared",
            "type=cache,target=/x,env=A",
            "target=/x,what=1",
            "target=/x,",
            "type=cache,target=/x,mode=9",
            "type=cache,target=/x,mode=10000",
            "type=cache,target=/x,uid=+1",
            "type=cache,target=/x,sharing=no",
            "target=/x,ro=maybe",
            "target",
            "target=\"/x",
        ] {
            assert!(Mount::parse(bad).is_err(), "{bad}");
        }
    }
}
