//! What an LLM answers: one of the labels, where it stands, or none.
#![no_main]

use autoannotator::review::reply::{parse, parse_many};
use autoannotator::task::Task;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TASK: LazyLock<Task> = LazyLock::new(|| Task::built_in("sentiment").expect("built in"));

fuzz_target!(|reply: &str| {
    let labels = &TASK.labels;
    let one = parse(labels, reply).ok();
    for found in parse_many(labels, reply, &["1", "2"]).into_iter().flatten().chain(one) {
        assert!(found.label < labels.len());
        assert!(reply.get(found.at.clone()).is_some(), "{found:?}");
    }
});
