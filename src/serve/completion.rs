//! What goes to an upstream and comes back: a chat completion.

use super::upstream::{Question, UpstreamError};
use crate::review::prompt::Prompt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::Range;

/// Bytes of an upstream's answer at most.
const MAX_ANSWER: usize = 1 << 20;
/// The temperature of samples whose agreement is measured.
const TEMPERATURE: f64 = 0.7;

/// The answer of an upstream.
#[derive(Deserialize)]
pub(super) struct Completion {
    choices: Vec<Choice>,
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    logprobs: Option<LogProbs>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

#[derive(Deserialize)]
struct LogProbs {
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: Option<f64>,
}

#[derive(Deserialize)]
struct Tokens {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Completion {
    /// What the LLM wrote.
    pub(super) fn content(&self) -> &str {
        self.choices.first().and_then(|choice| choice.message.content.as_deref()).unwrap_or_default()
    }

    /// Tokens of prompt and reply, where it tells them.
    pub(super) fn tokens(&self) -> Option<(u64, u64)> {
        let tokens = self.usage.as_ref()?;
        // More than any call can take is no count.
        let sound = |(prompt, completion): &(u64, u64)| *prompt > 0 && (*prompt).max(*completion) < 1 << 32;
        tokens.prompt_tokens.zip(tokens.completion_tokens).filter(sound)
    }

    /// The probability of what stands in a byte range of the content: the product over the tokens that reach into it.
    pub(super) fn probability(&self, range: Range<usize>) -> Option<f64> {
        let tokens = self.choices.first()?.logprobs.as_ref()?.content.as_ref()?;
        let whole: String = tokens.iter().map(|token| token.token.as_str()).collect();
        // Tokens that are not the content's cannot be placed in it; an end token may follow.
        if !whole.starts_with(self.content()) {
            return None;
        }
        let (mut at, mut sum) = (0, 0.0);
        for Token { token, logprob } in tokens {
            if at < range.end && at + token.len() > range.start {
                sum += (*logprob)?;
            }
            at += token.len();
        }
        Some(sum.exp().clamp(0.0, 1.0)).filter(|probability| probability.is_finite())
    }
}

/// The request.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    model: &'a str,
    temperature: f64,
    max_tokens: u64,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    json_schema: Schema<'a>,
}

#[derive(Serialize)]
struct Schema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a Value,
}

impl<'a> Body<'a> {
    pub(super) fn new(model: &'a str, question: &Question<'_>, prompt: &'a Prompt<'_>, schema: bool) -> Self {
        let turn = |role, content| Turn { role, content };
        let mut messages = vec![turn("system", prompt.system)];
        for [user, reply] in prompt.examples.iter() {
            messages.extend([turn("user", user), turn("assistant", reply)]);
        }
        messages.push(turn("user", &prompt.user));
        let sampled = question.sample > 0;
        let schema = prompt.schema.as_deref().filter(|_| schema);
        let json_schema = |schema| Schema { name: "label", strict: true, schema };
        Self {
            model,
            temperature: if sampled { TEMPERATURE } else { 0.0 },
            max_tokens: prompt.reply_tokens,
            messages,
            seed: sampled.then_some(question.sample),
            logprobs: question.confidence.then_some(true),
            response_format: schema.map(|schema| Format { r#type: "json_schema", json_schema: json_schema(schema) }),
        }
    }
}

/// Reads an answer, as far as one can be long.
pub(super) async fn read(mut response: reqwest::Response) -> Result<Completion, UpstreamError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if bytes.len() + chunk.len() > MAX_ANSWER {
            return Err(UpstreamError::Garbage);
        }
        bytes.extend_from_slice(&chunk);
    }
    let completion: Completion = serde_json::from_slice(&bytes).map_err(|_| UpstreamError::Garbage)?;
    if completion.choices.is_empty() { Err(UpstreamError::Garbage) } else { Ok(completion) }
}

pub(super) fn failed(error: &reqwest::Error) -> UpstreamError {
    match error {
        // Also where connecting took too long: nothing was sent.
        error if error.is_connect() || error.is_builder() => UpstreamError::Unreachable,
        error if error.is_timeout() => UpstreamError::Timeout,
        error if error.is_decode() => UpstreamError::Garbage,
        _ => UpstreamError::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn completion(tokens: &[(&str, f64)]) -> Completion {
        let content: String = tokens.iter().map(|(token, _)| *token).collect();
        let tokens: Vec<Value> =
            tokens.iter().map(|(token, logprob)| json!({ "token": token, "logprob": logprob })).collect();
        serde_json::from_value(json!({
            "choices": [{ "message": { "content": content }, "logprobs": { "content": tokens } }],
        }))
        .expect("a completion")
    }

    #[test]
    fn a_probability_is_that_of_the_tokens_of_the_label() {
        let ln = f64::ln;
        let reply = completion(&[("{\"label\": ", ln(0.5)), ("\"pos", ln(0.8)), ("itive", ln(0.9)), ("\"}", ln(0.7))]);
        let at = reply.content().find("positive").expect("there");
        let probability = reply.probability(at..at + 8).expect("told");
        assert!((probability - 0.72).abs() < 1e-9, "{probability}");
        assert!(reply.tokens().is_none());
    }

    #[test]
    fn tokens_that_do_not_make_the_content_give_no_probability() {
        let mut reply = completion(&[("positive", 0.0)]);
        reply.choices[0].message.content = Some("positively".into());
        assert_eq!(reply.probability(0..8), None);
        let none: Completion =
            serde_json::from_value(json!({ "choices": [{ "message": { "content": "x" }, "logprobs": null }] }))
                .expect("a completion");
        assert_eq!(none.probability(0..1), None);
    }
}
