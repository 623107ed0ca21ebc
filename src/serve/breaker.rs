//! What stands before an upstream: a turn for each text, a place in the queue, and a breaker that leaves it alone after
//! failures.

use super::upstream::UpstreamError;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Failures in a row after which the upstream is left alone.
const FAILURES: u32 = 8;
/// For how long.
const RESTS_FOR: Duration = Duration::from_secs(10);
/// Turns at which those that nobody holds are forgotten.
const TURNS: usize = 4096;

/// What is being asked about: a lock for each, kept as long as somebody holds it.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<[u8; 32], Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    pub(super) fn take(&self, hash: [u8; 32]) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&hash).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() >= TURNS {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(hash, Arc::downgrade(&turn));
        turn
    }
}

/// A place among those who wait for a call, as long as it lives.
pub(super) struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    pub(super) fn new(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Leaves an upstream alone for a while that has failed several times in a row; afterwards one call tries it.
#[derive(Default)]
pub(super) struct Breaker(Mutex<(u32, Option<Instant>)>);

impl Breaker {
    pub(super) fn resting(&self) -> Option<u64> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.1?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.as_secs() + 1)
    }

    /// Lets a call go, or says how many seconds it has to wait. After a rest one goes ahead, and the others wait for what it
    /// meets with.
    pub(super) fn admit(&self) -> Result<(), u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.1.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        if !left.is_zero() {
            return Err(left.as_secs() + 1);
        }
        if state.1.is_some() {
            state.1 = Some(Instant::now() + RESTS_FOR);
        }
        Ok(())
    }

    pub(super) fn note(&self, error: Option<&UpstreamError>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = match error {
            // Nothing was sent: the next call may try it.
            Some(UpstreamError::Budget | UpstreamError::Store) => {
                state.1 = state.1.map(|_| Instant::now());
                return;
            }
            Some(UpstreamError::Unreachable | UpstreamError::Timeout | UpstreamError::Broken) => true,
            Some(UpstreamError::Status(status)) => *status >= 500,
            _ => false,
        };
        if !broken {
            *state = (0, None);
            return;
        }
        state.0 += 1;
        if state.0 >= FAILURES {
            state.1 = Some(Instant::now() + RESTS_FOR);
        }
    }
}
