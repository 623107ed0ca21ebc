//! The budget: reserve, call, settle. What is reserved counts as spent, so that calls at once cannot pass a cap; it is on
//! the disk before the call is made, so that no crash loses it.

use super::config::Caps;
use super::store::{Known, Store, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Billionths of a US dollar.
const NANO: f64 = 1e9;

/// US dollars spent and reserved, in all, by task and by client.
pub struct Ledger {
    caps: Caps,
    totals: Arc<Mutex<Totals>>,
    store: Store,
}

#[derive(Default)]
struct Totals {
    all: i64,
    /// What settlements that are not yet on the disk will change of it.
    settling: i64,
    tasks: HashMap<String, i64>,
    clients: HashMap<String, i64>,
}

impl Totals {
    /// Adds an amount, if every cap covers it.
    fn take(&mut self, caps: &Caps, task: &str, client: &str, amount: i64) -> bool {
        let covers =
            |cap: Option<f64>, spent: i64| cap.is_none_or(|cap| spent.saturating_add(amount) <= (cap * NANO) as i64);
        let of = |totals: &HashMap<String, i64>, name: &str| totals.get(name).copied().unwrap_or_default();
        let covered = covers(caps.all, self.all)
            && covers(caps.task, of(&self.tasks, task))
            && covers(caps.client, of(&self.clients, client));
        if covered {
            self.add(task, client, amount);
        }
        covered
    }

    fn add(&mut self, task: &str, client: &str, amount: i64) {
        let add = |total: &mut i64| *total = total.saturating_add(amount);
        add(&mut self.all);
        for (totals, name) in [(&mut self.tasks, task), (&mut self.clients, client)] {
            match totals.get_mut(name) {
                Some(total) => add(total),
                None => drop(totals.insert(name.to_owned(), amount)),
            }
        }
    }
}

/// Why nothing was reserved.
#[derive(Debug)]
pub enum Refusal {
    /// A cap would be passed.
    Budget,
    /// The store cannot be written.
    Store(StoreError),
}

/// Money set aside for one call. Left unsettled (a call that broke off may still be billed), it stays spent.
#[derive(Debug)]
pub struct Reserve {
    call: i64,
    task: String,
    client: String,
    amount: i64,
}

impl Ledger {
    /// The ledger of a store.
    pub fn new(caps: Caps, store: Store) -> Result<Self, StoreError> {
        let mut totals = Totals::default();
        for (task, client, spent) in store.spent()? {
            totals.add(&task, &client, spent);
        }
        Ok(Self { caps, totals: Arc::new(Mutex::new(totals)), store })
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.totals)
    }

    /// Sets US dollars aside for a call, if every cap covers them.
    pub async fn reserve(&self, task: &str, client: &str, model: &str, usd: f64) -> Result<Reserve, Refusal> {
        let amount = (usd * NANO).ceil() as i64;
        let take = || self.totals().take(&self.caps, task, client, amount);
        if !take() {
            // What is being settled may make room.
            if self.totals().settling == 0 {
                return Err(Refusal::Budget);
            }
            self.store.flush().await.map_err(Refusal::Store)?;
            if !take() {
                return Err(Refusal::Budget);
            }
        }
        match self.store.reserve(task, client, model, amount).await {
            Ok(call) => Ok(Reserve { call, task: task.to_owned(), client: client.to_owned(), amount }),
            Err(error) => {
                self.totals().add(task, client, -amount);
                Err(Refusal::Store(error))
            }
        }
    }

    /// Puts what the call did cost in the place of the reserve, and keeps the labels of its reply; the reserve counts until
    /// that is on the disk, and stays where it cannot be written.
    pub fn settle(&self, reserve: Reserve, usd: f64, tokens: [u64; 2], labels: Vec<([u8; 32], Known)>) {
        let cost = (usd * NANO).ceil() as i64;
        let change = cost - reserve.amount;
        self.totals().settling += change;
        let totals = self.totals.clone();
        self.store.settle(reserve.call, cost, tokens, labels, move |written| {
            let mut totals = lock(&totals);
            totals.settling -= change;
            match written {
                Ok(()) => totals.add(&reserve.task, &reserve.client, change),
                Err(error) => tracing::error!("a call stays charged at its reserve: {error}"),
            }
        });
    }

    /// What is left under the cap over all, in US dollars.
    pub fn remaining(&self) -> Option<f64> {
        self.caps.all.map(|cap| (cap - self.spent()).max(0.0))
    }

    /// Spent and reserved so far, in US dollars.
    pub fn spent(&self) -> f64 {
        let totals = self.totals();
        (totals.all + totals.settling) as f64 / NANO
    }
}

fn lock(totals: &Mutex<Totals>) -> MutexGuard<'_, Totals> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store.db")).expect("opens");
        (folder, store)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().expect("a runtime")
    }

    #[test]
    fn what_is_reserved_cannot_be_spent_twice_and_survives() {
        let (folder, store) = store();
        let caps = Caps { all: Some(1.0), task: Some(0.9), client: None };
        let ledger = Ledger::new(caps, store).expect("a ledger");
        runtime().block_on(async {
            let first = ledger.reserve("t", "c", "m", 0.6).await.expect("covered");
            assert!(matches!(ledger.reserve("t", "c", "m", 0.6).await, Err(Refusal::Budget)));
            ledger.settle(first, 0.1, [1, 2], vec![]);
            ledger.reserve("t", "c", "m", 0.7).await.expect("covered, and left unsettled");
            assert!(matches!(ledger.reserve("t", "c", "m", 0.15).await, Err(Refusal::Budget)), "the task's cap");
            ledger.reserve("u", "c", "m", 0.15).await.expect("another task's");
        });
        assert!((ledger.remaining().expect("a cap") - 0.05).abs() < 1e-9);
        drop(ledger);
        let again = Store::open(&folder.path().join("store.db")).expect("opens again");
        let ledger = Ledger::new(caps, again).expect("a ledger");
        assert!((ledger.spent() - 0.95).abs() < 1e-9, "{}", ledger.spent());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        /// Whatever calls come at once, and however they end, what was billed is at most what the ledger says, and that at
        /// most the cap; also after a crash, which leaves calls unsettled.
        #[test]
        fn billed_ledger_and_cap_stand_in_order(
            calls in proptest::collection::vec((0.0f64..0.3, 0.0f64..1.0, 0usize..3, 0usize..3), 1..40),
            cap in 0.1f64..3.0,
        ) {
            let (folder, store) = store();
            let caps = Caps { all: Some(cap), task: Some(cap * 0.7), client: Some(cap * 0.5) };
            let ledger = std::sync::Arc::new(Ledger::new(caps, store).expect("a ledger"));
            let billed = std::sync::Arc::new(Mutex::new(0.0));
            let runtime = runtime();
            runtime.block_on(async {
                let mut all = tokio::task::JoinSet::new();
                for (most, share, who, fate) in calls {
                    let (ledger, billed) = (ledger.clone(), billed.clone());
                    all.spawn(async move {
                        let (task, client) = (format!("t{who}"), format!("c{fate}"));
                        let Ok(reserve) = ledger.reserve(&task, &client, "m", most).await else { return };
                        // The upstream bills: at most what was reserved.
                        let cost = most * share;
                        if fate != 1 {
                            *billed.lock().expect("lock") += cost;
                        }
                        match fate {
                            0 => ledger.settle(reserve, cost, [0; 2], vec![]),
                            1 => ledger.settle(reserve, 0.0, [0; 2], vec![]), // refused, not billed
                            _ => drop(reserve), // broke off
                        }
                    });
                }
                while all.join_next().await.is_some() {}
                ledger.store.flush().await.expect("written");
            });
            let billed = *billed.lock().expect("lock");
            prop_assert!(billed <= ledger.spent() + 1e-6 && ledger.spent() <= cap + 1e-6);
            let before = ledger.spent();
            drop(ledger);
            let again = Ledger::new(caps, Store::open(&folder.path().join("store.db")).expect("opens")).expect("a ledger");
            prop_assert!((again.spent() - before).abs() < 1e-6);
        }
    }
}
