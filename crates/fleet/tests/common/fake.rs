//! Another machine, of which there is nothing but its keys: it says that it does what it is asked.

use coracle_fleet::machine::facts;
use coracle_fleet::model::{Active, Actual, Desired, DesiredRecord, Instance, Machine, keys};
use coracle_store::{
    DeleteRangeRequest, EventKind, PutRequest, Store, StoreExt as _, WatchRequest,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub struct Fake {
    pub id: String,
    store: Arc<dyn Store>,
    says: Arc<Says>,
    agent: JoinHandle<()>,
}

/// What it says of units; of those that it has no word for it says that they run.
#[derive(Default)]
struct Says {
    words: Mutex<BTreeMap<String, Option<Active>>>,
    asked: Mutex<BTreeMap<Instance, DesiredRecord>>,
    news: Notify,
}

impl Fake {
    /// Another machine beside this one, in the rack "there"; the fleet knows it already.
    pub async fn beside(m: &super::Machine) -> Self {
        let fake = Self::join(m.store.clone(), 'f', &[("rack", "there")]).await;
        m.sees("the other machine is there", || {
            m.fleet
                .machine_named("fake-f")
                .is_ok_and(|f| f.state == "alive")
        })
        .await;
        fake
    }

    /// A machine whose id is of this digit, with labels of its own.
    pub async fn join(store: Arc<dyn Store>, digit: char, labels: &[(&str, &str)]) -> Self {
        let id = digit.to_string().repeat(32);
        let own = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let machine = Machine {
            hostname: format!("fake-{digit}"),
            labels: own.collect(),
            ..facts(&id)
        };
        let key = keys::machine(&id);
        store.put_json(&key, &machine).await.unwrap();
        let alive = PutRequest::new(keys::alive(&id), "now");
        store.put(alive).await.unwrap();
        let says = Arc::new(Says::default());
        let agent = tokio::spawn(agent(store.clone(), id.clone(), says.clone()));
        Self {
            id,
            store,
            says,
            agent,
        }
    }

    /// What it says of a unit from now on; None is nothing.
    pub fn say(&self, unit: &str, active: Option<Active>) {
        let mut words = self.says.words.lock().unwrap();
        words.insert(unit.to_owned(), active);
        self.says.news.notify_one();
    }

    /// It gives no more signs, and does nothing more.
    pub async fn is_lost(&self) {
        self.agent.abort();
        let gone = DeleteRangeRequest::key(keys::alive(&self.id));
        self.store.delete_range(gone).await.unwrap();
    }
}

async fn agent(store: Arc<dyn Store>, id: String, says: Arc<Says>) {
    let prefix = keys::desired_of(&id);
    let mut watch = store.watch(WatchRequest::prefix(prefix)).await.unwrap();
    loop {
        tokio::select! {
            answer = watch.next() => {
                for event in answer.unwrap().unwrap().events {
                    let key = std::str::from_utf8(&event.kv.key).unwrap();
                    let (_, instance) = keys::placed(key, keys::DESIRED).unwrap();
                    if event.kind == EventKind::Put {
                        let record = serde_json::from_slice(&event.kv.value).unwrap();
                        says.asked.lock().unwrap().insert(instance, record);
                    } else {
                        says.asked.lock().unwrap().remove(&instance);
                        let gone = DeleteRangeRequest::key(keys::actual(&id, &instance));
                        store.delete_range(gone).await.unwrap();
                    }
                }
            }
            () = says.news.notified() => {}
        }
        let asked = says.asked.lock().unwrap().clone();
        for (instance, record) in asked {
            let word = says.words.lock().unwrap().get(&record.unit).copied();
            let Some(active) = word.unwrap_or(Some(Active::Active)) else {
                continue;
            };
            let runs = record.desired == Desired::Active;
            let actual = Actual {
                active: if runs { active } else { Active::Inactive },
                generation: record.generation,
                order: record.order,
                revision: record.revision,
                settled: !runs || active == Active::Failed,
                ..Actual::new(&record.unit, chrono::Utc::now())
            };
            let key = keys::actual(&id, &instance);
            store.put_json(&key, &actual).await.unwrap();
        }
    }
}
