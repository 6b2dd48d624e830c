//! Units that were asked to run, and are nowhere yet.

use super::Fallible;
use coracle_fleet::model::{Desired, RevisionRecord, UnitRecord, keys};
use coracle_store::{PutRequest, Store, TxnOp, TxnRequest};
use futures_util::{StreamExt as _, TryStreamExt as _};

/// Units of one template.
const OF_A_TEMPLATE: usize = 20;
/// Units of one transaction.
const AT_ONCE: usize = 50;

/// The name of a unit.
pub fn name(n: usize) -> String {
    format!(
        "app{:05}@{}.container",
        n / OF_A_TEMPLATE,
        n % OF_A_TEMPLATE
    )
}

/// Its text. Three sizes of memory and four of processor time, so that machines are filled unevenly.
pub fn text(n: usize) -> String {
    let app = n / OF_A_TEMPLATE;
    format!(
        "[Unit]\nDescription=App %i\n\n[Container]\nImage=localhost/app:{app}\nEnvironment=NUMBER=%i\n\n\
         [Service]\nRestart=on-failure\n\n[X-Deploy]\nReserveCPU={}\nReserveMemory={}M\n",
        [0.05, 0.075, 0.1, 0.125][app % 4],
        64 * (1 + app % 3)
    )
}

/// Writes units as who leads does once they are submitted and started: records and texts.
pub async fn write(store: &dyn Store, units: usize) -> Fallible<()> {
    let numbers: Vec<usize> = (0..units).collect();
    let all = numbers.chunks(AT_ONCE).map(|some| {
        let mut success = Vec::new();
        for n in some {
            let uid = format!("{n:032x}");
            let record = UnitRecord {
                desired: Desired::Active,
                generation: 1,
                order: 1,
                ..UnitRecord::new(uid.clone())
            };
            let text = RevisionRecord::new(&text(*n), Vec::new());
            let put = |key: String, value| TxnOp::Put(PutRequest::new(key, value));
            success.push(put(keys::unit(&name(*n)), serde_json::to_vec(&record)?));
            success.push(put(keys::revision(&uid, 1), serde_json::to_vec(&text)?));
        }
        let txn = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        Ok::<_, serde_json::Error>(txn)
    });
    let all: Vec<TxnRequest> = all.collect::<Result<_, _>>()?;
    let written = futures_util::stream::iter(all).map(|txn| store.txn(txn));
    let answers: Vec<_> = written.buffer_unordered(8).try_collect().await?;
    drop(answers);
    Ok(())
}
