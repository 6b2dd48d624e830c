//! `RUN --mount=…`.

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
    /// What.
    pub kind: MountKind,
    /// Where.
    pub target: Option<String>,
    /// A path in what is mounted.
    pub source: Option<String>,
    /// A stage or an image.
    pub from: Option<String>,
    /// Name of a cache or secret.
    pub id: Option<String>,
    /// Whether it cannot be written; none if nothing is said.
    pub read_only: Option<bool>,
    /// Of a cache.
    pub sharing: Sharing,
    /// Permissions, in octal digits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Owner's group.
    pub gid: Option<u32>,
    /// Bytes of memory.
    pub size: Option<u64>,
    /// Whether a secret must be there.
    pub required: bool,
    /// The variable that gets a secret.
    pub env: Option<String>,
}

impl Mount {
    /// Reads the value of a `--mount`: `type=cache,target=/root/.cache`, as CSV.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
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
        let fields = fields(text)?;
        for field in &fields {
            if let Some(kind) = field.strip_prefix("type=") {
                mount.kind = match kind.to_ascii_lowercase().as_str() {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    "ssh" => MountKind::Ssh,
                    _ => {
                        return Err(format!(
                            "unsupported mount type \"{kind}\"; use bind, cache, tmpfs or secret"
                        ));
                    }
                };
            }
        }
        for field in &fields {
            mount.field(field)?;
        }
        if mount.kind == MountKind::Cache && mount.target.is_none() {
            return Err("a cache needs target=PATH".into());
        }
        if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) && mount.target.is_none() {
            return Err("it needs target=PATH".into());
        }
        Ok(mount)
    }

    fn field(&mut self, field: &str) -> Result<(), String> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let flag = || match value {
            None => Ok(true),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!(
                "invalid value \"{other}\" for {key}; write true or false"
            )),
        };
        match key.as_str() {
            "readonly" | "ro" => {
                self.read_only = Some(flag()?);
                return Ok(());
            }
            "readwrite" | "rw" => {
                self.read_only = Some(!flag()?);
                return Ok(());
            }
            "required" => {
                self.required = flag()?;
                return Ok(());
            }
            _ => {}
        }
        let Some(value) = value else {
            return Err(format!(
                "invalid field \"{field}\" must be a key=value pair"
            ));
        };
        let number = || {
            value
                .parse::<u32>()
                .map_err(|_| format!("invalid value \"{value}\" for {key}; write a number"))
        };
        match key.as_str() {
            "type" => {}
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "from" => self.from = Some(value.to_owned()),
            "id" => self.id = Some(value.to_owned()),
            "env" => self.env = Some(value.to_owned()),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|m| *m <= 0o7777);
                self.mode = Some(mode.ok_or_else(|| {
                    format!("invalid mode \"{value}\"; write octal digits as 0755")
                })?);
            }
            "size" => self.size = Some(size(value)?),
            "sharing" => {
                self.sharing = match value.to_ascii_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        return Err(format!(
                            "unsupported sharing value \"{value}\"; use shared, private or locked"
                        ));
                    }
                };
            }
            _ => {
                return Err(format!(
                    "unexpected key '{key}' in '{field}'; use type, target, source, from, id, sharing, mode, uid, gid, size, \
                     required, readonly or readwrite"
                ));
            }
        }
        Ok(())
    }
}

/// `64m` and the like, in powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("invalid size \"{text}\"; write for example 64m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..]
        .trim_end_matches('b')
        .trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Fields of one line of CSV.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err("a quote is open at the end; close it".into());
    }
    all.push(field);
    Ok(all)
}
