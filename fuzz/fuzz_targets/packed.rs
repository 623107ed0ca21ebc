//! A packed SLM, whole and by parts: refused, or the same one.
#![no_main]

use autoannotator::slm::pack::{PackedSlm, Unpacker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = PackedSlm::read(data, "fuzz");
    let (one, other) = data.split_at(data.len() / 2);
    let mut unpacker = Unpacker::new("fuzz");
    let parts = unpacker.push(one).and_then(|()| unpacker.push(other)).and_then(|()| unpacker.finish());
    assert_eq!(whole.is_ok(), parts.is_ok(), "{:?}, by parts {:?}", whole.err(), parts.err());
});
