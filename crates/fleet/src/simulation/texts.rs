//! Texts of units by the kind that their names say.

use super::world::World;

/// Some of it is drawn.
pub(super) fn text(name: &str, world: &World) -> String {
    let tested = name.starts_with("glob") || name.starts_with("web-a") || world.one_in(2);
    let mut text = match name.split('-').next() {
        Some("dep") => "[Unit]\nRequires=web-a.container\nAfter=web-a.container\n".to_owned(),
        _ => String::new(),
    };
    text += "[Container]\nImage=localhost/simulated\n";
    if tested {
        text += "HealthCmd=true\n";
    }
    if name.starts_with("vol") {
        text += &format!("Volume={}:/data\n", name.trim_end_matches(".container"));
    }
    if name.starts_with("res") {
        text += "Volume=kept.volume:/data\n";
    }
    text += match name {
        _ if name.starts_with("bad") => "[Service]\nRestart=on-failure\nRestartSec=1\n",
        _ => "[Service]\nRestart=always\nRestartSec=1\n[Unit]\nStartLimitIntervalSec=0\n",
    };
    text += match name {
        _ if name.starts_with("ex-") => "[X-Deploy]\nExclusive=yes\n",
        _ if name.starts_with("glob") => "[X-Fleet]\nGlobal=true\n",
        _ if name.starts_with("rack") => "[X-Fleet]\nMachineMetadata=rack=r0\n",
        _ => "",
    };
    text
}
