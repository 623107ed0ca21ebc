//! The budget: reserve, call, settle. What is reserved counts as spent, so that calls at once cannot pass the cap.

use std::sync::{Mutex, PoisonError};

/// US dollars spent and reserved in this run of the server.
pub struct Ledger {
    cap: Option<f64>,
    spent: Mutex<f64>,
}

/// Money set aside for one call. Dropped unsettled (a cancelled call may still be billed), it stays spent.
pub struct Reserve<'a> {
    ledger: &'a Ledger,
    amount: f64,
}

impl Ledger {
    /// A ledger with a cap, or without one.
    pub fn new(cap: Option<f64>) -> Self {
        Self { cap, spent: Mutex::new(0.0) }
    }

    /// Sets an amount aside, if it is there.
    pub fn reserve(&self, amount: f64) -> Option<Reserve<'_>> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cap.is_some_and(|cap| *spent + amount > cap) {
            return None;
        }
        *spent += amount;
        Some(Reserve { ledger: self, amount })
    }

    /// What is left under the cap.
    pub fn remaining(&self) -> Option<f64> {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        self.cap.map(|cap| (cap - *spent).max(0.0))
    }
}

impl Reserve<'_> {
    /// Puts what the call did cost in the place of the reserve.
    pub fn settle(self, cost: f64) {
        let mut spent = self.ledger.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent += cost - self.amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_cannot_be_spent_twice() {
        let ledger = Ledger::new(Some(1.0));
        let first = ledger.reserve(0.6).expect("covered");
        assert!(ledger.reserve(0.6).is_none());
        first.settle(0.1);
        assert!(ledger.reserve(0.8).is_some(), "dropped unsettled, it stays spent");
        assert!((ledger.remaining().expect("cap") - 0.1).abs() < 1e-9);
        assert!(Ledger::new(None).reserve(1e9).is_some());
    }
}
