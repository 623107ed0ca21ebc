//! Any text: what is replaced is told exactly, and nothing is left to replace.
#![no_main]

use autoannotator::review::redact::Redactor;
use autoannotator::review::screen::Screen;
use autoannotator::task::Task;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| Redactor::new(["Ada Lovelace", "Σίσυφος", "Ó Sé"]));
static SCREEN: LazyLock<Screen> = LazyLock::new(|| Screen::new(&Task::built_in("sentiment").expect("built in")));

fuzz_target!(|text: &str| {
    let redacted = REDACTOR.redact(text);
    let (mut rebuilt, mut end) = (String::new(), 0);
    for span in redacted.spans() {
        assert!(span.start >= end && span.start < span.end, "{span:?}");
        rebuilt.push_str(&text[end..span.start]);
        rebuilt.push_str(&span.placeholder);
        end = span.end;
    }
    rebuilt.push_str(&text[end..]);
    assert_eq!(rebuilt, redacted.text());
    assert_eq!(REDACTOR.redact(redacted.text()).text(), redacted.text(), "of {text:?}");
    SCREEN.why(text);
});
