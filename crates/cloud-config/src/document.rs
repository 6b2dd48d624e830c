//! The document as a whole: [`parse`].
use crate::address::host_name;
use crate::coreos::Fleet;
use crate::fields::{At, Keys};
use crate::header::{self, Header};
use crate::model::CloudConfig;
use crate::problem::{Mark, Problem, Problems, quoted};
use crate::{coracle, coreos, files, recover, ssh};

/// Bytes of a document.
pub const DOCUMENT_MAX: usize = 1 << 20;

const NOT_INSTALLED: &str = "nothing is installed on the machine itself, whose root is read-only; run a container with coreos.units";
const NO_COMMANDS: &str = "commands are not run; write a .service or .container with coreos.units";
const NO_LOGINS: &str = "there are no logins but by ssh key; write keys with ssh_authorized_keys";

const KEYS: Keys = Keys {
    known: &[
        "hostname",
        "ssh_authorized_keys",
        "manage_etc_hosts",
        "write_files",
        "coreos",
        "coracle",
    ],
    refused: &[
        ("users user groups", NO_LOGINS),
        (
            "password passwd chpasswd ssh_pwauth disable_root",
            NO_LOGINS,
        ),
        (
            "ssh_import_id",
            "keys are not fetched; write them with ssh_authorized_keys",
        ),
        (
            "fqdn prefer_fqdn_over_hostname preserve_hostname",
            "write the whole name with hostname",
        ),
        ("runcmd bootcmd", NO_COMMANDS),
        (
            "packages package_update package_upgrade package_reboot_if_required apt yum_repos snap",
            NOT_INSTALLED,
        ),
        ("network", "write coracle.network"),
    ],
};

/// What a document comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Whatever was understood.
    pub config: CloudConfig,
    /// Everything that was not, in the order of the document; of a hopeless document the first 1000.
    pub problems: Vec<Problem>,
}

/// Reads a document in which the machine's addresses stand already (see [`crate::substitute`]); `$private_ipv4` where an address has to
/// be is a problem.
///
/// Documents are not trusted: one is at most [`DOCUMENT_MAX`] bytes, its lists and mappings are at most 32 within each other, aliases are
/// not followed, and files together come to at most [`crate::FILES_MAX`] bytes. Where the YAML itself is broken, keys at the left margin
/// are read one by one, so that those beside the broken one count.
pub fn parse(text: &str) -> Parsed {
    let mut out = Problems::default();
    let config = read(text, &mut out).unwrap_or_default();
    Parsed {
        config,
        problems: out.finish(),
    }
}

fn read(text: &str, out: &mut Problems) -> Option<CloudConfig> {
    if text.len() > DOCUMENT_MAX {
        out.add(
            Mark::START,
            "",
            format!(
                "the document is larger than {} KiB and is not read; put large files into an image",
                DOCUMENT_MAX >> 10
            ),
        );
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match header::read(text) {
        Header::Good => {}
        Header::Near(why) => out.add(Mark::START, "", format!("the document {why}")),
        Header::Foreign(why) => {
            out.add(Mark::START, "", format!("the document {why}"));
            return None;
        }
    }
    let root = recover::read(text, out)?;
    let path = String::new();
    let fields = At { path, node: &root }.fields(&KEYS, out)?;
    let mut config = CloudConfig::default();
    if let Some(at) = fields.get("hostname") {
        config.hostname = at.read(out, host_name);
    }
    if let Some(at) = fields.get("ssh_authorized_keys") {
        config.ssh_authorized_keys = ssh::read(at, out);
    }
    if let Some(at) = fields.get("manage_etc_hosts") {
        config.manage_etc_hosts = at.read(out, hosts).unwrap_or_default();
    }
    if let Some(at) = fields.get("write_files") {
        config.write_files = files::read(at, out);
    }
    let fleet = fields
        .get("coreos")
        .map(|at| coreos::read(at, &mut config, out));
    let fleet: Fleet<'_> = fleet.unwrap_or_default();
    coracle::read(fields.get("coracle"), fleet, &mut config, out);
    Some(config)
}

fn hosts(text: &str) -> Result<bool, String> {
    match text {
        "localhost" | "true" => Ok(true),
        _ => Err(format!(
            "{} is not done; write localhost, or remove the key",
            quoted(text)
        )),
    }
}
