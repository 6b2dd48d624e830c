//! Lists of machines, units and their files.

use super::api::{self, Legend, Machine, Unit, UnitState, id_legend};
use super::args::{Columns as _, List, Machines, UnitFiles, Units};
use super::tabs;
use crate::client::Client;
use crate::error::Result;

/// What is shown of nothing.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// A hash, or how it begins.
fn hash(text: &str, full: bool) -> String {
    or_dash(if full {
        text
    } else {
        text.get(..7).unwrap_or(text)
    })
}

pub async fn machines(client: &Client, args: &List<Machines>) -> Result<()> {
    let all = api::machines(client).await?;
    let cell = |machine: &Machine, field: &str| match field {
        "machine" => id_legend(&machine.id, args.full),
        "ip" => or_dash(&machine.ip),
        _ => {
            let pairs = machine.metadata.iter().map(|(k, v)| format!("{k}={v}"));
            or_dash(&pairs.collect::<Vec<_>>().join(","))
        }
    };
    tabs::print(&args.fields, Machines::ALL, !args.no_legend, &all, cell)
}

pub async fn units(client: &Client, args: &List<Units>) -> Result<()> {
    let all = api::states(client).await?;
    let legend = Legend::read(client).await?;
    let cell = |state: &UnitState, field: &str| match field {
        "unit" => state.name.clone(),
        "load" => or_dash(&state.load),
        "active" => or_dash(&state.active),
        "sub" => or_dash(&state.sub),
        "machine" if state.machine.is_empty() => "-".into(),
        "machine" => legend.of(&state.machine, args.full),
        _ => hash(&state.hash, args.full),
    };
    tabs::print(&args.fields, Units::ALL, !args.no_legend, &all, cell)
}

pub async fn unit_files(client: &Client, args: &List<UnitFiles>) -> Result<()> {
    let all = api::units(client).await?;
    let legend = Legend::read(client).await?;
    let cell = |unit: &Unit, field: &str| match field {
        "unit" => unit.name.clone(),
        "global" => unit.is_global().to_string(),
        "dstate" => or_dash(&unit.desired),
        "target" if unit.is_global() => "global".into(),
        "target" if unit.machine.is_empty() => "-".into(),
        "target" => legend.of(&unit.machine, args.full),
        "state" if unit.is_global() => "-".into(),
        "state" => or_dash(&unit.current),
        "desc" => or_dash(unit.description()),
        _ => hash(&coracle_api::unit_hash(&unit.options), args.full),
    };
    tabs::print(&args.fields, UnitFiles::ALL, !args.no_legend, &all, cell)
}
