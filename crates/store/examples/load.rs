//! How fast and how large: N clients put 256 bytes each, durably.
//!
//! `cargo run -p coracle-store --example load -- [clients] [puts] [directory]`

use std::sync::Arc;
use std::time::Instant;

use coracle_store::{EmbeddedStore, Options, PutRequest, Store, StoreError};

fn memory(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or("?").to_owned()
}

/// Processor time in ticks of 10 ms, and bytes written, of this process.
fn spent() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = ticks
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok());
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    (
        ticks.sum(),
        written.and_then(|n| n.parse().ok()).unwrap_or(0),
    )
}

async fn measure(clients: u64, puts: u64, dir: &std::path::Path) -> Result<(), StoreError> {
    println!("before: {} KiB resident", memory("VmRSS:"));
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir, Options::default())?);
    println!("opened: {} KiB resident", memory("VmRSS:"));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..puts / clients {
                    let key = format!(
                        "/load/{:016x}",
                        (client << 32 | n).wrapping_mul(0x9e3779b97f4a7c15)
                    );
                    store.put(PutRequest::new(key, vec![b'v'; 256])).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        if let Ok(result) = task.await {
            result?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let status = store.status().await?;
    println!(
        "{} puts, {clients} clients: {:.0} puts/s, {} KiB resident, {} KiB peak, {} KiB on disk, {} KiB in use",
        status.revision - 1,
        (status.revision - 1) as f64 / seconds,
        memory("VmRSS:"),
        memory("VmHWM:"),
        status.bytes_on_disk / 1024,
        status.bytes_in_use / 1024,
    );
    // History may still be cleaned right after the last put.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let before = spent();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let after = spent();
    println!(
        "idle for 3 s: {} ms of processor, {} bytes written",
        10 * (after.0 - before.0),
        after.1 - before.1
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let clients = args.next().map_or(Ok(64), |n| n.parse())?;
    let puts = args.next().map_or(Ok(60_000), |n| n.parse())?;
    let dir = args.next().map_or_else(
        || std::env::temp_dir().join(format!("coracle-store-load-{}", std::process::id())),
        Into::into,
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(clients, puts, &dir))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
