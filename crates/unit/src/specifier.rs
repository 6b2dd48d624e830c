//! `%` specifiers (systemd.unit(5) "Specifiers"). The machine's facts come from the caller.
use crate::{name::UnitName, words};

/// Facts that specifiers stand for. The default is that of an unnamed root user.
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "each field is named for its specifier's meaning"
)]
pub struct SpecifierContext {
    pub hostname: String,
    pub machine_id: String,
    pub boot_id: String,
    pub kernel_release: String,
    pub architecture: String,
    pub user: String,
    pub uid: u32,
    pub group: String,
    pub gid: u32,
    pub home: String,
    pub shell: String,
    pub runtime_dir: String,
    pub state_dir: String,
    pub cache_dir: String,
    pub logs_dir: String,
    pub config_dir: String,
    pub tmp_dir: String,
    pub var_tmp_dir: String,
}

impl Default for SpecifierContext {
    fn default() -> Self {
        let s = str::to_owned;
        SpecifierContext {
            hostname: s("localhost"),
            machine_id: String::new(),
            boot_id: String::new(),
            kernel_release: String::new(),
            architecture: s("x86-64"),
            user: s("root"),
            uid: 0,
            group: s("root"),
            gid: 0,
            home: s("/root"),
            shell: s("/bin/sh"),
            runtime_dir: s("/run"),
            state_dir: s("/var/lib"),
            cache_dir: s("/var/cache"),
            logs_dir: s("/var/log"),
            config_dir: s("/etc"),
            tmp_dir: s("/tmp"),
            var_tmp_dir: s("/var/tmp"),
        }
    }
}

/// Why a value's specifiers cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecifierError {
    /// Not one of systemd's, or one that is not honoured.
    #[error("unknown specifier %{0}; write %% for a literal percent sign")]
    Unknown(char),
    /// `%` as the last character.
    #[error("a lone % stands at the end; write %% for a literal percent sign")]
    Dangling,
}

impl SpecifierContext {
    /// Replaces every specifier in `text` for the unit `name`.
    pub fn expand(&self, name: &UnitName, text: &str) -> Result<String, SpecifierError> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        let last = name.prefix().rsplit('-').next().unwrap_or("");
        let instance = name.instance().unwrap_or("");
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let letter = chars.next().ok_or(SpecifierError::Dangling)?;
            let value = match letter {
                '%' => "%".to_owned(),
                'n' => name.base().to_string(),
                'N' => name.stem().to_owned(),
                'p' => name.prefix().to_owned(),
                'P' => words::unescape_name(name.prefix()),
                'i' => instance.to_owned(),
                'I' => words::unescape_name(instance),
                'j' => last.to_owned(),
                'J' => words::unescape_name(last),
                'f' => words::unescape_path(if instance.is_empty() {
                    name.prefix()
                } else {
                    instance
                }),
                'H' => self.hostname.clone(),
                'l' => self.hostname.split('.').next().unwrap_or("").to_owned(),
                'm' => self.machine_id.clone(),
                'b' => self.boot_id.clone(),
                'v' => self.kernel_release.clone(),
                'a' => self.architecture.clone(),
                'u' => self.user.clone(),
                'U' => self.uid.to_string(),
                'g' => self.group.clone(),
                'G' => self.gid.to_string(),
                'h' => self.home.clone(),
                's' => self.shell.clone(),
                't' => self.runtime_dir.clone(),
                'S' => self.state_dir.clone(),
                'C' => self.cache_dir.clone(),
                'L' => self.logs_dir.clone(),
                'E' => self.config_dir.clone(),
                'T' => self.tmp_dir.clone(),
                'V' => self.var_tmp_dir.clone(),
                other => return Err(SpecifierError::Unknown(other)),
            };
            out.push_str(&value);
        }
        Ok(out)
    }
}
