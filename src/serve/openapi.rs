//! `GET /v1/openapi.json`: what the API takes and answers, for everybody. Written by hand; the tests hold it against the
//! routes and the types.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::DOCUMENT;
    use crate::review::protocol::{
        ErrorBody, ErrorDetail, MAX_ITEMS, MAX_POOLED, MAX_TEXT, Mode, PoolRequest, PoolResponse, ReviewItem,
        ReviewRequest, ReviewResponse, ReviewedItem, Usage,
    };
    use crate::sample::{Annotation, Review, ReviewedBy, Sample, Source, Verdict, Vote};
    use crate::serve::{ReviewStatus, Status, TaskStatus, rounds};
    use crate::slm::adapter::Metrics;
    use crate::slm::pack::{FilePart, Index, Precision, SlmManifest};
    use crate::spec::Prices;
    use crate::tune::gate::{Decision, Paired};
    use crate::tune::round::Report;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("JSON")
    }

    fn schema(name: &str) -> Value {
        document()["components"]["schemas"][name].clone()
    }

    fn names(value: &Value) -> BTreeSet<String> {
        let listed = value.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned));
        value.as_object().into_iter().flat_map(|map| map.keys().cloned()).chain(listed).collect()
    }

    /// That the schema takes the value, and says of every field what it is. Knows the keywords that the document uses.
    fn check(schema: &Value, value: &Value, at: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            return check(&self::schema(name.rsplit('/').next().expect("a name")), value, &format!("{at} ({name})"));
        }
        for choices in ["oneOf", "anyOf"] {
            if let Some(all) = schema[choices].as_array() {
                let fits = |one: &&Value| std::panic::catch_unwind(|| check(one, value, at)).is_ok();
                assert_eq!(all.iter().filter(fits).count(), 1, "{at}: {value} of {all:?}");
                return;
            }
        }
        if let Some(fixed) = schema.get("const") {
            return assert_eq!(fixed, value, "{at}");
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kinds =
            schema["type"].as_str().map_or_else(|| names(&schema["type"]), |one| BTreeSet::from([one.to_owned()]));
        assert!(kinds.contains(kind) || (kind == "integer" && kinds.contains("number")), "{at}: {kind}, not {kinds:?}");
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(allowed.contains(value), "{at}: {value} of {allowed:?}");
        }
        for item in value.as_array().into_iter().flatten() {
            check(&schema["items"], item, at);
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
            check(
                known.unwrap_or_else(|| panic!("{at}: {name} is not in the document")),
                field,
                &format!("{at}.{name}"),
            );
        }
    }

    /// Of a type that is answered: `full` has every field, `least` those that are always there.
    fn answers(name: &str, full: impl Serialize, least: impl Serialize) {
        let (full, least) = (serde_json::to_value(full).expect("JSON"), serde_json::to_value(least).expect("JSON"));
        let schema = schema(name);
        assert_eq!(names(&schema["properties"]), names(&full), "{name}");
        assert_eq!(names(&schema["required"]), names(&least), "{name}: required");
        check(&schema, &full, name);
        check(&schema, &least, name);
    }

    /// Of a type that is sent: what may be left out, and whether more may stand there.
    fn takes<T: Serialize + DeserializeOwned>(schema: &Value, full: &T, at: &str) {
        let full = serde_json::to_value(full).expect("JSON");
        let read = |value: &Value| serde_json::from_value::<T>(value.clone()).is_ok();
        assert_eq!(names(&schema["properties"]), names(&full), "{at}");
        check(schema, &full, at);
        for name in names(&full) {
            let mut without = full.clone();
            without.as_object_mut().expect("an object").remove(&name);
            assert_eq!(names(&schema["required"]).contains(&name), !read(&without), "{at}: {name} is required");
            let mut null = full.clone();
            null[&name] = Value::Null;
            let allowed = std::panic::catch_unwind(|| check(schema, &null, at)).is_ok();
            assert_eq!(allowed, read(&null), "{at}: {name} may be null");
        }
        let mut more = full;
        more["more"] = json!(1);
        assert_eq!(schema["additionalProperties"] == json!(false), !read(&more), "{at}: more");
    }

    fn review() -> Review {
        Review {
            label: Some("a".into()),
            by: ReviewedBy::Llm { model: "m".into() },
            why: Some("w".into()),
            prompt_tokens: 1,
            completion_tokens: 1,
            cost_usd: 0.5,
        }
    }

    fn annotation() -> Annotation {
        let vote = Vote {
            slm: "s".into(),
            version: "v".into(),
            engine: "cpu".into(),
            precision: "int8".into(),
            label: "a".into(),
            probabilities: vec![0.5, 0.5],
            truncated: true,
        };
        let sample = Sample { id: "1".into(), text: "t".into() };
        let verdict = Verdict::Hard { why: "tie".into() };
        let (label, source) = (Some("a".into()), Some(Source::Llm));
        Annotation { sample, votes: vec![vote], verdict, review: Some(review()), label, source }
    }

    #[test]
    fn what_is_sent_is_as_the_document_says() {
        let item = ReviewItem { id: "1".into(), text: "t".into() };
        let spec = Some(json!({}));
        let request = ReviewRequest { task: "t".into(), spec, items: vec![item.clone()], mode: Mode::Label };
        takes(&schema("ReviewRequest"), &request, "ReviewRequest");
        takes(&schema("ReviewItem"), &item, "ReviewItem");
        let pooled = PoolRequest { task: "t".into(), annotations: vec![annotation()], retracted: vec![annotation()] };
        takes(&schema("PoolRequest"), &pooled, "PoolRequest");
        let annotation = annotation();
        takes(&schema("Annotation"), &annotation, "Annotation");
        takes(&schema("Sample"), &annotation.sample, "Sample");
        takes(&schema("Vote"), &annotation.votes[0], "Vote");
        takes(&schema("Review"), &review(), "Review");
        let verdicts = [
            Verdict::Accepted { label: "a".into(), confidence: 0.5 },
            Verdict::Hard { why: "tie".into() },
            Verdict::SetAside { why: "empty".into() },
        ];
        for (place, verdict) in verdicts.iter().enumerate() {
            takes(&schema("Verdict")["oneOf"][place], verdict, "Verdict");
        }
        let reviewers = [ReviewedBy::Llm { model: "m".into() }, ReviewedBy::Human { id: Some("i".into()) }];
        for (place, by) in reviewers.iter().enumerate() {
            takes(&schema("ReviewedBy")["oneOf"][place], by, "ReviewedBy");
        }
        let limit =
            |schema: &str, field: &str, keyword: &str| self::schema(schema)["properties"][field][keyword].clone();
        assert_eq!(limit("ReviewRequest", "items", "maxItems"), json!(MAX_ITEMS));
        assert_eq!(limit("ReviewItem", "text", "maxLength"), json!(MAX_TEXT));
        for list in ["annotations", "retracted"] {
            assert_eq!(limit("PoolRequest", list, "maxItems"), json!(MAX_POOLED));
        }
    }

    #[test]
    fn what_is_answered_is_as_the_document_says() {
        let detail = |retry_after| ErrorDetail { code: "c".into(), message: "m".into(), retry_after };
        answers("ErrorDetail", detail(Some(1)), detail(None));
        let error = ErrorBody { error: detail(Some(1)) };
        answers("Error", &error, &error);
        let item = ReviewedItem { id: "1".into(), label: Some("a".into()), why: Some("w".into()) };
        answers("ReviewedItem", &item, ReviewedItem { label: None, why: None, ..item.clone() });
        answers("Usage", Usage::default(), Usage::default());
        let response = |remaining_budget_usd| ReviewResponse {
            items: vec![item.clone()],
            usage: Usage::default(),
            remaining_budget_usd,
            model: "m".into(),
        };
        answers("ReviewResponse", response(Some(1.0)), response(None));
        let pooled = PoolResponse { added: 1, known: 0, left_out: 0, retracted: 0 };
        answers("PoolResponse", pooled, pooled);
        let task = || TaskStatus { name: "t".into(), labels: vec!["a".into()], keeps_text: true, prompt_bytes: 1 };
        answers("TaskStatus", task(), task());
        let prices = Prices { prompt: 0.5, completion: 1.5 };
        answers("Prices", prices, prices);
        let review = ReviewStatus {
            available: true,
            model: Some("m".into()),
            prices: Some(prices),
            remaining_budget_usd: Some(1.0),
            spent_usd: Some(0.0),
        };
        answers("ReviewStatus", &review, ReviewStatus::default());
        let status = Status { version: "0", token_needed: false, review, tasks: vec![task()] };
        answers("Status", &status, &status);
    }

    #[test]
    fn rounds_and_slms_are_as_the_document_says() {
        let gate = Paired { texts: 20, before: 0.5, after: 0.9, least_gain: 0.2 };
        answers("Paired", gate, gate);
        let report =
            |decision, anchor| Report { slm: "s".into(), decision, gate, anchor, share: 1.0, trained_on: [1, 2] };
        answers("Report", report(Decision::Kept("w".into()), Some(gate)), report(Decision::Promoted, None));
        for (name, full, least) in rounds::examples(report(Decision::Promoted, None)) {
            answers(name, full, least);
        }
        let part = || FilePart { name: "f".into(), bytes: 1, sha256: "0".repeat(64) };
        answers("FilePart", part(), part());
        let metrics = Metrics { accuracy: 0.5, macro_f1: 0.5, nll: 0.5 };
        answers("Metrics", &metrics, &metrics);
        let manifest = |metrics| SlmManifest {
            id: "s".into(),
            task: "t".into(),
            labels: vec!["a".into()],
            version: "0".into(),
            base: "b".into(),
            precision: Precision::F32,
            max_length: 1,
            bytes: 1,
            sha256: "0".repeat(64),
            relative_cost: 1.0,
            layers: 2,
            shards: vec![part()],
            tokenizer: part(),
            metrics,
        };
        answers("SlmManifest", manifest(Some(metrics)), manifest(None));
        let index = Index { slms: vec![manifest(None)] };
        answers("Index", &index, &index);
    }

    /// The routes as mod.rs makes them, each with its methods.
    fn routes() -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for part in include_str!("mod.rs").split(".route(\"").skip(1) {
            let (path, rest) = part.split_once('"').expect("a path");
            let handlers = rest.split(".route(").next().unwrap_or_default().lines().next().unwrap_or_default();
            for method in ["get", "post", "put", "patch", "delete"] {
                if handlers.contains(&format!("{method}(")) {
                    all.insert((path.to_owned(), method.to_owned()));
                }
            }
        }
        all
    }

    #[test]
    fn every_route_is_in_the_document_and_the_other_way_round() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let methods = |item: &Value| names(item).into_iter().filter(|name| name != "parameters").collect::<Vec<_>>();
        let told = paths.iter().flat_map(|(path, item)| methods(item).into_iter().map(|method| (path.clone(), method)));
        assert_eq!(told.collect::<BTreeSet<_>>(), routes());
        assert_eq!(routes().len(), 12, "mod.rs is no longer read right");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
