//! Review of hard samples: prompt, reply, redaction, protocol, client.
//!
//! A [`Redactor`](redact::Redactor) makes the only texts that a [`Reviewer`] takes; the server composes the [`prompt`] and
//! reads the [`reply`], and has a [`screen`] before both; [`protocol`] is what goes over the wire, [`client`] speaks it.

pub mod client;
pub mod prompt;
pub mod protocol;
pub mod redact;
pub mod reply;
pub mod screen;

pub use client::{RedactedItem, ReviewError, Reviewer};
