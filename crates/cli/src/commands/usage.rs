//! `system df`: what takes how much of the disk.

use super::list::text;
use crate::client::Client;
use crate::error::Result;
use crate::format::words::{ago, cut, short, size};
use crate::format::{Table, align, out, row};
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
fn section(title: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let header = header.iter().map(|h| (*h).to_owned()).collect();
    let table = align(std::iter::once(header).chain(rows).collect());
    out(&format!("{title} space usage:\n\n{table}\n"))
}

fn everything(found: &Value) -> Result<()> {
    let list = |key: &str| found[key].as_array().into_iter().flatten();
    let bytes = |v: &Value| size(v.as_f64().unwrap_or(0.0));
    let when = |v: &Value| {
        let time = v.as_i64().and_then(|s| DateTime::from_timestamp(s, 0));
        time.map_or_else(|| "N/A".to_owned(), ago)
    };
    let images = list("Images").map(|i| {
        let name = i["RepoTags"][0].as_str().unwrap_or("<none>:<none>");
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        let (whole, shared) = (i["Size"].as_f64(), i["SharedSize"].as_f64());
        let (whole, shared) = (whole.unwrap_or(0.0), shared.unwrap_or(0.0));
        vec![
            repository.to_owned(),
            tag.to_owned(),
            short(&text(i, "Id")),
            when(&i["Created"]),
            size(whole),
            size(shared),
            size(whole - shared),
            i["Containers"].to_string(),
        ]
    });
    let header = [
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
        "SHARED SIZE",
        "UNIQUE SIZE",
        "CONTAINERS",
    ];
    section("Images", &header, images)?;
    let containers = list("Containers").map(|c| {
        let volumes = c["Mounts"].as_array().into_iter().flatten();
        let volumes = volumes.filter(|m| m["Type"] == "volume").count();
        let name = c["Names"][0].as_str().unwrap_or_default();
        vec![
            short(&text(c, "Id")),
            text(c, "Image"),
            format!("\"{}\"", cut(&text(c, "Command"), 20)),
            volumes.to_string(),
            bytes(&c["SizeRw"]),
            when(&c["Created"]),
            text(c, "Status"),
            name.trim_start_matches('/').to_owned(),
        ]
    });
    let header = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "LOCAL VOLUMES",
        "SIZE",
        "CREATED",
        "STATUS",
        "NAMES",
    ];
    section("Containers", &header, containers)?;
    let volumes = list("Volumes").map(|v| {
        let usage = &v["UsageData"];
        vec![
            text(v, "Name"),
            usage["RefCount"].to_string(),
            bytes(&usage["Size"]),
        ]
    });
    section("Local Volumes", &["VOLUME NAME", "LINKS", "SIZE"], volumes)?;
    let moment = |v: &Value| {
        let time = DateTime::parse_from_rfc3339(v.as_str().unwrap_or_default());
        time.map_or_else(|_| String::new(), |t| ago(t.to_utc()))
    };
    let cache = list("BuildCache").map(|c| {
        vec![
            short(&text(c, "ID")),
            text(c, "Type"),
            bytes(&c["Size"]),
            moment(&c["CreatedAt"]),
            moment(&c["LastUsedAt"]),
            c["UsageCount"].to_string(),
            c["Shared"].to_string(),
        ]
    });
    let header = [
        "CACHE ID",
        "CACHE TYPE",
        "SIZE",
        "CREATED",
        "LAST USED",
        "USAGE",
        "SHARED",
    ];
    section("Build cache", &header, cache)
}
