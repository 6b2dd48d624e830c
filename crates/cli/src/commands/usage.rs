//! `system df`: what takes how much of the disk.

use super::list::text;
use crate::client::Client;
use crate::error::Result;
use crate::format::words::{ago, cut, short, size};
use crate::format::{Table, out, row};
use chrono::DateTime;
use serde_json::{Value, json};

/// As docker shows it: with its share, if there is anything.
fn reclaimable(free: f64, of: f64) -> String {
    if of > 0.0 {
        format!("{} ({:.0}%)", size(free), (free / of * 100.0).floor())
    } else {
        size(free)
    }
}

/// `coracle system df`: sums, or with `verbose` everything.
pub async fn usage(client: &Client, format: Option<&str>, verbose: bool) -> Result<()> {
    let found = client.get("/system/df?reclaimable=1").await?;
    if verbose {
        return everything(&found);
    }
    let list = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let sum = |list: &[Value], size: &dyn Fn(&Value) -> f64| {
        list.iter().map(size).fold(0.0, |a, b| a + b)
    };
    let (images, containers, volumes) = (list("Images"), list("Containers"), list("Volumes"));
    let own = |v: &Value| v["SizeRw"].as_f64().unwrap_or(0.0);
    let volume_size = |v: &Value| v["UsageData"]["Size"].as_f64().unwrap_or(0.0);
    let used = |v: &&Value| v["Containers"].as_i64().unwrap_or(0) > 0;
    let running = |v: &&Value| v["State"] == "running";
    let cache = list("BuildCache");
    let cache_size = |v: &Value| v["Size"].as_f64().unwrap_or(0.0);
    let busy = |v: &&Value| v["InUse"] == true;
    // What an image has too is not given back with the cache.
    let kept = |v: &&Value| v["InUse"] == true || v["Shared"] == true;
    let held = |v: &&Value| v["UsageData"]["RefCount"].as_i64().unwrap_or(0) > 0;
    let line = |kind: &str, total: usize, active: usize, bytes: f64, free: f64| {
        row([
            ("Type", json!(kind)),
            ("TotalCount", json!(total.to_string())),
            ("Active", json!(active.to_string())),
            ("Size", json!(size(bytes))),
            ("Reclaimable", json!(reclaimable(free, bytes))),
        ])
    };
    let idle = |list: &[Value], active: &dyn Fn(&&Value) -> bool, size: &dyn Fn(&Value) -> f64| {
        let idle = list.iter().filter(|v| !active(v)).map(size);
        idle.fold(0.0, |a, b| a + b)
    };
    let rows = vec![
        line(
            "Images",
            images.len(),
            images.iter().filter(used).count(),
            found["LayersSize"].as_f64().unwrap_or(0.0),
            found["ImagesReclaimable"].as_f64().unwrap_or(0.0),
        ),
        line(
            "Containers",
            containers.len(),
            containers.iter().filter(running).count(),
            sum(&containers, &own),
            idle(&containers, &running, &own),
        ),
        line(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(held).count(),
            sum(&volumes, &volume_size),
            idle(&volumes, &held, &volume_size),
        ),
        line(
            "Build Cache",
            cache.len(),
            cache.iter().filter(busy).count(),
            sum(&cache, &cache_size),
            idle(&cache, &kept, &cache_size),
        ),
    ];
    let columns = vec![
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    Table { columns, rows }.print(format)
}

/// What a list of the answer has, as text in columns.
fn section(
    title: &str,
    columns: Vec<(&'static str, &'static str)>,
    rows: Vec<[Value; 8]>,
) -> Result<()> {
    let rows = rows.into_iter().map(|cells| {
        let named = columns.iter().map(|(_, field)| *field).zip(cells);
        named
            .map(|(field, value)| (field.to_owned(), value))
            .collect()
    });
    let rows = rows.collect();
    out(&format!("{title} space usage:\n\n"))?;
    Table { columns, rows }.print(None)?;
    out("\n")
}

fn everything(found: &Value) -> Result<()> {
    let list = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let bytes = |v: &Value| json!(size(v.as_f64().unwrap_or(0.0)));
    let when = |v: &Value| {
        let time = v.as_i64().and_then(|s| DateTime::from_timestamp(s, 0));
        json!(time.map_or_else(|| "N/A".to_owned(), ago))
    };
    let images = list("Images");
    let rows = images.iter().map(|i| {
        let name = i["RepoTags"][0].as_str().unwrap_or("<none>:<none>");
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        let (whole, shared) = (i["Size"].as_f64(), i["SharedSize"].as_f64());
        let (whole, shared) = (whole.unwrap_or(0.0), shared.unwrap_or(0.0));
        [
            json!(repository),
            json!(tag),
            json!(short(&text(i, "Id"))),
            when(&i["Created"]),
            json!(size(whole)),
            json!(size(shared)),
            json!(size(whole - shared)),
            json!(i["Containers"].to_string()),
        ]
    });
    let columns = vec![
        ("REPOSITORY", "a"),
        ("TAG", "b"),
        ("IMAGE ID", "c"),
        ("CREATED", "d"),
        ("SIZE", "e"),
        ("SHARED SIZE", "f"),
        ("UNIQUE SIZE", "g"),
        ("CONTAINERS", "h"),
    ];
    section("Images", columns, rows.collect())?;
    let containers = list("Containers");
    let rows = containers.iter().map(|c| {
        let volumes = c["Mounts"].as_array().into_iter().flatten();
        let volumes = volumes.filter(|m| m["Type"] == "volume").count();
        let name = text(&json!({ "n": c["Names"][0] }), "n");
        [
            json!(short(&text(c, "Id"))),
            c["Image"].clone(),
            json!(format!("\"{}\"", cut(&text(c, "Command"), 20))),
            json!(volumes.to_string()),
            bytes(&c["SizeRw"]),
            when(&c["Created"]),
            c["Status"].clone(),
            json!(name.trim_start_matches('/')),
        ]
    });
    let columns = vec![
        ("CONTAINER ID", "a"),
        ("IMAGE", "b"),
        ("COMMAND", "c"),
        ("LOCAL VOLUMES", "d"),
        ("SIZE", "e"),
        ("CREATED", "f"),
        ("STATUS", "g"),
        ("NAMES", "h"),
    ];
    section("Containers", columns, rows.collect())?;
    let none = || Value::Null;
    let volumes = list("Volumes");
    let rows = volumes.iter().map(|v| {
        let links = v["UsageData"]["RefCount"].to_string();
        let size = bytes(&v["UsageData"]["Size"]);
        [
            v["Name"].clone(),
            json!(links),
            size,
            none(),
            none(),
            none(),
            none(),
            none(),
        ]
    });
    let columns = vec![("VOLUME NAME", "a"), ("LINKS", "b"), ("SIZE", "c")];
    section("Local Volumes", columns, rows.collect())?;
    let moment = |v: &Value| {
        let time = DateTime::parse_from_rfc3339(v.as_str().unwrap_or_default());
        json!(time.map_or_else(|_| String::new(), |t| ago(t.to_utc())))
    };
    let cache = list("BuildCache");
    let rows = cache.iter().map(|c| {
        [
            json!(short(&text(c, "ID"))),
            c["Type"].clone(),
            bytes(&c["Size"]),
            moment(&c["CreatedAt"]),
            moment(&c["LastUsedAt"]),
            json!(c["UsageCount"].to_string()),
            json!(c["Shared"].to_string()),
            none(),
        ]
    });
    let columns = vec![
        ("CACHE ID", "a"),
        ("CACHE TYPE", "b"),
        ("SIZE", "c"),
        ("CREATED", "d"),
        ("LAST USED", "e"),
        ("USAGE", "f"),
        ("SHARED", "g"),
    ];
    section("Build cache", columns, rows.collect())
}
