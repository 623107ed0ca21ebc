//! `POST /v1/pool`: reviewed samples that a page hands in, where the operator's spec lets text be kept.

use super::{ApiError, Server};
use crate::review::protocol::{MAX_POOLED, MAX_TEXT, PoolRequest, PoolResponse};
use crate::sample::Annotation;
use crate::spec::Spec;
use crate::tune::pool::{Pool, PoolError, Reviewed};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) async fn pool(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PoolResponse>, ApiError> {
    let body = body.map_err(|error| ApiError::new(error.status(), "request-body", error.body_text()))?;
    let request: PoolRequest = super::json(&headers, &body)?;
    let job = server.task(&request.task)?;
    let spec = job.spec.clone();
    let (Some(pool), true) = (&server.pool, spec.review.keep_text) else {
        let message = "this server keeps no texts of this task. The operator can allow it by keep_text = true in [review] of the spec";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "pool-not-kept", message));
    };
    let count = request.annotations.len() + request.retracted.len();
    if count > MAX_POOLED {
        return Err(bad(format!("{count} annotations were sent, at most {MAX_POOLED} go together")));
    }
    let (samples, back) = (samples(&request.annotations, &spec)?, samples(&request.retracted, &spec)?);
    let (pool, told, rounds) = (pool.clone(), samples.len(), server.rounds.clone());
    let examples = server.panel.as_ref().map(|panel| panel.examples().clone());
    let task = spec.task.name.clone();
    let changed = tokio::task::spawn_blocking(move || {
        let changed = change(&pool, &task, &samples, &back);
        if let (Ok(_), Some(examples)) = (&changed, examples) {
            back.iter().for_each(|sample| examples.forget(&task, &sample.text));
            examples.add(&task, samples.iter().filter_map(|sample| job.example(&sample.text, &sample.label)));
        }
        rounds.look();
        changed
    })
    .await;
    let failed = |problem: &dyn std::fmt::Display| {
        tracing::error!("pool: {problem}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "pool-file", "the pool cannot be written; send it again later")
    };
    let (added, retracted) = changed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Json(PoolResponse { added, known: told - added, left_out: request.annotations.len() - told, retracted }))
}

/// Takes samples out and adds others; returns how many were added, and how many are out.
fn change(
    pool: &Mutex<Pool>,
    task: &str,
    samples: &[Reviewed],
    back: &[Reviewed],
) -> Result<(usize, usize), PoolError> {
    let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
    let retracted = pool.retract(task, back)?;
    Ok((pool.add(task, samples)?, retracted))
}

fn bad(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "pool-sample", message)
}

/// The samples with a reviewer's label; others are left out, and what cannot be is an error.
fn samples(annotations: &[Annotation], spec: &Spec) -> Result<Vec<Reviewed>, ApiError> {
    let mut samples = Vec::new();
    for annotation in annotations {
        let Some(sample) = Reviewed::of(annotation) else { continue };
        let id = &annotation.sample.id;
        let Some(label) = spec.task.labels.index(&sample.label) else {
            return Err(bad(format!("sample {id}: '{}' is no label of the task {}", sample.label, spec.task.name)));
        };
        if sample.text.trim().is_empty() || sample.text.len() > MAX_TEXT {
            return Err(bad(format!("sample {id}: its text must have 1 to {MAX_TEXT} bytes")));
        }
        let fits = |values: &[f32]| {
            values.len() == spec.task.labels.len() && values.iter().all(|value| (0.0..=1.0).contains(value))
        };
        if let Some(vote) = sample.votes.iter().find(|vote| !fits(&vote.probabilities)) {
            return Err(bad(format!("sample {id}: the vote of {} is not one probability a label", vote.slm)));
        }
        let name = spec.task.labels.names()[label].clone();
        samples.push(Reviewed { label: name, ..sample });
    }
    Ok(samples)
}
