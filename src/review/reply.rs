//! What a reviewer's reply says: exactly one of the labels, or nothing. Never a default.

use crate::task::LabelSet;
use serde::Deserialize;
use thiserror::Error;

/// Why a reply gives no label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// Nothing was said.
    #[error("reply-empty: the reviewer's reply is empty")]
    Empty,
    /// Something else than one label was said.
    #[error("reply-label: the reviewer's reply '{excerpt}' is none of the labels: {labels}")]
    NoLabel {
        /// The beginning of the reply.
        excerpt: String,
        /// The labels that were asked for.
        labels: String,
    },
}

#[derive(Deserialize)]
struct Object {
    label: String,
}

/// The index of the label that a reply names: `{"label": "..."}` or the bare label; quotes, whitespace, a code fence
/// and a full stop around it are tolerated.
pub fn parse(labels: &LabelSet, reply: &str) -> Result<usize, ReplyError> {
    let bare = fenced(reply.trim());
    if bare.is_empty() {
        return Err(ReplyError::Empty);
    }
    let index = if bare.starts_with('{') {
        // A repeated key is an error here: two labels are none.
        serde_json::from_str::<Object>(bare).ok().and_then(|object| labels.index(&object.label))
    } else {
        labels.index(bare).or_else(|| labels.index(stripped(bare)))
    };
    index.ok_or_else(|| ReplyError::NoLabel { excerpt: excerpt(reply), labels: labels.names().join(", ") })
}

/// What stands in a code fence, if the whole reply is one.
fn fenced(reply: &str) -> &str {
    let Some(inner) = reply.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return reply };
    let inner = inner.trim();
    match inner.split_once(char::is_whitespace) {
        Some((language, rest)) if language.eq_ignore_ascii_case("json") || language.eq_ignore_ascii_case("text") => {
            rest.trim()
        }
        _ => inner,
    }
}

fn stripped(reply: &str) -> &str {
    let unquoted = |text: &'_ str| -> Option<(usize, usize)> {
        let first = text.chars().next()?;
        let close = match first {
            '"' | '\'' | '`' | '*' => first,
            '“' => '”',
            _ => return None,
        };
        let inner = text.strip_prefix(first)?.strip_suffix(close)?;
        Some((first.len_utf8(), first.len_utf8() + inner.len()))
    };
    let text = reply.strip_suffix('.').unwrap_or(reply).trim();
    let inner = unquoted(text).and_then(|(start, end)| text.get(start..end)).unwrap_or(text).trim();
    inner.strip_suffix('.').unwrap_or(inner)
}

/// The first 80 characters, without control characters.
fn excerpt(reply: &str) -> String {
    let line: String = reply.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect();
    if reply.trim().chars().nth(80).is_some() { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;
    use proptest::prelude::*;

    fn labels() -> LabelSet {
        Task::built_in("sentiment").expect("built in").labels
    }

    #[test]
    fn a_label_is_read() {
        for reply in [
            "positive",
            " Positive.\n",
            "\"positive\"",
            "'positive'.",
            "`positive`",
            "**positive".trim_matches('*'),
            "“positive”",
            "{\"label\": \"positive\"}",
            "```json\n{\"label\":\"POSITIVE\"}\n```",
            "```\npositive\n```",
            "pos",
            "{\"label\":\"positive\",\"reason\":\"kind words\"}",
            "\"positive.\"",
        ] {
            assert_eq!(parse(&labels(), reply), Ok(2), "{reply}");
        }
    }

    #[test]
    fn anything_else_is_no_label() {
        for reply in [
            "positive or negative",
            "not positive",
            "{\"label\": \"happy\"}",
            "{\"label\": null}",
            "{\"label\": 2}",
            "{\"label\":\"positive\",\"label\":\"negative\"}",
            "{\"label\":\"positive\"} trailing",
            "{\"label\":",
            "2",
            "{\"labels\":[\"positive\"]}",
            "positively",
            "I think it is positive.",
            "[\"positive\"]",
            "positive\nnegative",
        ] {
            assert!(matches!(parse(&labels(), reply), Err(ReplyError::NoLabel { .. })), "{reply}");
        }
        for reply in ["", "  \n", "``````"] {
            assert_eq!(parse(&labels(), reply), Err(ReplyError::Empty));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_label_is_invented(reply in "(positive|negative|\\{|\\}|\"|label|:|`{1,3}|json|\\.|\\PC){0,12}") {
            if let Ok(index) = parse(&labels(), &reply) {
                let set = labels();
                let label = set.iter().nth(index).expect("in the set");
                let lower = reply.to_lowercase();
                prop_assert!(std::iter::once(&label.name).chain(&label.aliases).any(|name| lower.contains(name.as_str())));
            }
        }
    }
}
