//! A spec in TOML or JSON.
#![no_main]

use autoannotator::spec::Spec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for spec in [Spec::from_toml(text), Spec::from_json(text)].into_iter().flatten() {
        assert!(spec.task.labels.len() > 0);
    }
});
