//! What all machines of the cluster have, as one list.

use super::list::{COLUMNS, Ps, asked, container_row, text};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::{Table, out};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;

/// `ps --all-machines`: machine by machine, the newest container first. Machines that are gone are named on stderr; that one which
/// should be there does not answer fails the command, after what the others said.
pub async fn ps(client: &Client, args: &Ps) -> Result<()> {
    let path = asked(args, false)?;
    let found = client.get("/v1/machines").await?;
    let machines = found.as_array().cloned().unwrap_or_default();
    let (there, gone): (Vec<_>, Vec<_>) = machines.iter().partition(|m| m["state"] == "alive");
    let asking = there.iter().map(|machine| {
        let (client, path) = (client.on(Some(text(machine, "id"))), &path);
        async move { (text(machine, "hostname"), client.get(path).await) }
    });
    let (mut rows, mut failed) = (Vec::new(), false);
    for (machine, answer) in futures_util::future::join_all(asking).await {
        match answer {
            Ok(list) => {
                for container in list.as_array().into_iter().flatten() {
                    let created = container["Created"].as_i64().unwrap_or_default();
                    let mut row = container_row(container, args.no_trunc);
                    row.insert("Machine".into(), json!(machine));
                    rows.push((machine.clone(), created, row));
                }
            }
            Err(error) => {
                eprintln!("{}", coracle_engine::full_error(&error));
                failed = true;
            }
        }
    }
    for machine in gone {
        let name = text(machine, "hostname");
        eprintln!("machine {name} is gone; what ran there is not shown");
    }
    print(chosen(rows, args), args)?;
    if failed {
        return Err(CliError::Exit(1));
    }
    Ok(())
}

type Row = (String, i64, Map<String, Value>);

/// In order; of all only the newest, if so many are wanted.
fn chosen(mut rows: Vec<Row>, args: &Ps) -> Vec<Map<String, Value>> {
    let limit = if args.latest { 1 } else { args.last };
    match usize::try_from(limit) {
        Ok(limit @ 1..) => {
            rows.sort_by_key(|(_, created, _)| Reverse(*created));
            rows.truncate(limit);
        }
        _ => rows.sort_by(|a, b| (&a.0, Reverse(a.1)).cmp(&(&b.0, Reverse(b.1)))),
    }
    rows.into_iter().map(|(_, _, row)| row).collect()
}

fn print(rows: Vec<Map<String, Value>>, args: &Ps) -> Result<()> {
    if args.quiet {
        let ids: String = rows.iter().map(|r| text(&json!(r), "ID") + "\n").collect();
        return out(&ids);
    }
    let mut columns = COLUMNS.to_vec();
    if args.size {
        columns.push(("SIZE", "Size"));
    }
    columns.push(("MACHINE", "Machine"));
    Table { columns, rows }.print(args.format.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_rows() {
        let row = |machine: &str, created: i64| {
            let id = json!(format!("{machine}{created}"));
            (
                machine.to_owned(),
                created,
                Map::from_iter([("ID".to_owned(), id)]),
            )
        };
        let all = || vec![row("b", 3), row("a", 1), row("a", 2), row("b", 9)];
        let ids = |rows: Vec<Map<String, Value>>| -> Vec<String> {
            rows.iter().map(|r| text(&json!(r), "ID")).collect()
        };
        let args = |last| Ps {
            last,
            ..Ps::default()
        };
        assert_eq!(ids(chosen(all(), &args(-1))), ["a2", "a1", "b9", "b3"]);
        assert_eq!(ids(chosen(all(), &args(2))), ["b9", "b3"]);
    }
}
