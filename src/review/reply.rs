//! What a reviewer's reply says: exactly one of the labels, or nothing. Never a default.

use crate::task::LabelSet;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use thiserror::Error;

/// Why a reply gives no label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// Nothing was said.
    #[error("reply-empty: the reviewer's reply is empty")]
    Empty,
    /// Something else than one label was said. It is not repeated: it may hold the text, or what an upstream should not tell.
    #[error("reply-label: the reviewer's reply is none of the labels: {labels}")]
    NoLabel {
        /// The labels that were asked for.
        labels: String,
    },
}

/// A label that a reply names, and where: a byte range of the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The label's index.
    pub label: usize,
    /// Where it stands, by which its tokens' probabilities are found.
    pub at: Range<usize>,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    label: &'a RawValue,
}

#[derive(Deserialize)]
struct Objects<'a> {
    #[serde(borrow)]
    answers: Vec<Answer<'a>>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    label: &'a RawValue,
}

/// The label that a reply names: `{"label": "..."}` or the bare label; quotes, whitespace, a code fence and a full stop
/// around it are tolerated.
pub fn parse(labels: &LabelSet, reply: &str) -> Result<Found, ReplyError> {
    let bare = fenced(reply.trim());
    if bare.is_empty() {
        return Err(ReplyError::Empty);
    }
    let found = if bare.starts_with('{') {
        // A repeated key is an error here: two labels are none.
        serde_json::from_str::<Object<'_>>(bare).ok().and_then(|object| in_json(labels, reply, object.label))
    } else {
        let whole = |part: &str| Some(Found { label: labels.index(part)?, at: place(reply, part) });
        whole(bare).or_else(|| whole(stripped(bare)))
    };
    found.ok_or_else(|| ReplyError::NoLabel { labels: labels.names().join(", ") })
}

/// The labels that a reply to several texts names, by the ids that were asked about: `{"answers": [{"id", "label"}]}`.
/// None for an id that it does not name, names twice, or gives something else than a label.
pub fn parse_many(labels: &LabelSet, reply: &str, ids: &[&str]) -> Vec<Option<Found>> {
    let objects = serde_json::from_str::<Objects<'_>>(fenced(reply.trim()));
    let answers = objects.map_or_else(|_| Vec::new(), |objects| objects.answers);
    let mut by_id: HashMap<&str, Option<&RawValue>> = HashMap::new();
    for answer in &answers {
        by_id.entry(&answer.id).and_modify(|known| *known = None).or_insert(Some(answer.label));
    }
    ids.iter().map(|id| in_json(labels, reply, (*by_id.get(id)?)?)).collect()
}

fn in_json(labels: &LabelSet, reply: &str, value: &RawValue) -> Option<Found> {
    let label = labels.index(&serde_json::from_str::<String>(value.get()).ok()?)?;
    Some(Found { label, at: place(reply, value.get()) })
}

/// Where a part that borrows from the whole stands in it.
fn place(whole: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start + part.len()
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
            let found = parse(&labels(), reply).expect(reply);
            assert_eq!(found.label, 2, "{reply}");
            assert!(reply[found.at].to_lowercase().contains("pos"), "{reply}");
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

    #[test]
    fn several_labels_are_read_by_their_ids() {
        let read = |reply: &str| -> Vec<Option<usize>> {
            parse_many(&labels(), reply, &["a", "b"]).into_iter().map(|found| Some(found?.label)).collect()
        };
        let both = r#"{"answers": [{"id": "b", "label": "negative"}, {"id": "a", "label": "pos"}]}"#;
        assert_eq!(read(both), [Some(2), Some(0)]);
        assert_eq!(read(&format!("```json\n{both}\n```")), [Some(2), Some(0)]);
        let found = parse_many(&labels(), both, &["a"]);
        assert_eq!(&both[found[0].clone().expect("found").at], "\"pos\"");
        for (reply, expected) in [
            (r#"{"answers": [{"id": "a", "label": "positive"}]}"#, [Some(2), None]),
            (r#"{"answers": [{"id": "a", "label": "positive"}, {"id": "c", "label": "negative"}]}"#, [Some(2), None]),
            (
                r#"{"answers": [{"id": "a", "label": "positive"}, {"id": "a", "label": "positive"}, {"id": "b", "label": "neutral"}]}"#,
                [None, Some(1)],
            ),
            (r#"{"answers": [{"id": "a", "label": "happy"}, {"id": "b", "label": 1}]}"#, [None, None]),
            (r#"[{"id": "a", "label": "positive"}]"#, [None, None]),
            (r#"{"label": "positive"}"#, [None, None]),
            ("positive", [None, None]),
            (r#"{"answers": [{"id": "a", "label": "positive"}, {"id":"#, [None, None]),
            ("", [None, None]),
        ] {
            assert_eq!(read(reply), expected, "{reply}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_label_is_invented(reply in "(positive|negative|\\{|\\}|\"|label|:|`{1,3}|json|\\.|\\PC){0,12}") {
            if let Ok(Found { label: index, .. }) = parse(&labels(), &reply) {
                let set = labels();
                let label = set.iter().nth(index).expect("in the set");
                let lower = reply.to_lowercase();
                prop_assert!(std::iter::once(&label.name).chain(&label.aliases).any(|name| lower.contains(name.as_str())));
            }
        }
    }
}
