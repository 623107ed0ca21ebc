//! The client against the server against the stub: what `annotate --review URL` does.

#[path = "support/stub_llm.rs"]
mod stub_llm;

use autoannotator::review::client::review_blocking;
use autoannotator::review::redact::Redactor;
use autoannotator::serve::config::{Config, Limits};
use autoannotator::serve::{Options, bind, router};
use autoannotator::{Sample, Task};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use stub_llm::Stub;

/// A stub and a server before it, in a runtime of their own.
fn start() -> (tokio::runtime::Runtime, String, Arc<Stub>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = folder.path().join("pool.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let stub = Stub::new(&[("love", "positive")], "neutral", false);
    let url = runtime.block_on(async {
        let spawn = async |app: axum::Router| {
            let listener = bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("address"));
            tokio::spawn(async move { axum::serve(listener, app).await });
            url
        };
        let upstream = spawn(stub.router()).await;
        let llm =
            Config::read(&format!("[llm]\nurl = \"{upstream}\"\nmodel = \"stub\""), |_| None).expect("config").llm;
        let none = std::path::PathBuf::from("none");
        spawn(
            router(
                Options {
                    page: none.clone(),
                    packed: none,
                    specs: vec![],
                    llm,
                    pool,
                    rounds: None,
                    tokens: Vec::new(),
                    limits: Limits { client: std::num::NonZeroU32::MAX, ..Limits::default() },
                    hosts: Vec::new(),
                    origins: Vec::new(),
                },
                true,
            )
            .expect("router"),
        )
        .await
    });
    (runtime, url, stub, folder)
}

fn sample(id: usize, text: &str) -> Sample {
    Sample { id: id.to_string(), text: text.into() }
}

#[test]
fn every_sample_has_its_review_and_is_paid_once() {
    let (_runtime, url, stub, _folder) = start();
    let (task, redactor) = (Task::built_in("sentiment").expect("built in"), Redactor::new(["Zenobia"]));
    let mut samples: Vec<Sample> = (0..20).map(|id| sample(id, &format!("love {id}"))).collect();
    samples.insert(3, sample(100, &"x".repeat(40_000)));
    samples.insert(5, sample(101, "!unknown ann@example.com, zenobia"));
    let reviews = review_blocking(&url, &task, &redactor, &samples).expect("reviews");
    assert!(reviews.iter().zip(&samples).all(|((id, _), sample)| *id == sample.id));
    let label =
        |id: &str| reviews.iter().find(|(other, _)| other == id).map(|(_, review)| review.clone()).expect("there");
    assert_eq!(label("7").label.as_deref(), Some("positive"));
    assert!(label("100").why.expect("why").contains("longer"));
    assert!(label("101").label.is_none() && label("101").why.expect("why").contains("reply-label"));
    assert_eq!(reviews.iter().map(|(_, review)| review.prompt_tokens).sum::<u64>(), 21 * 100);
    assert_eq!(stub.log().len(), 21);
    let sent = format!("{:?}", stub.log());
    assert!(sent.contains("[EMAIL], [NAME]") && !sent.contains("ann@") && !sent.contains("zenobia"));
    assert_eq!(review_blocking(&url, &task, &redactor, &samples).expect("again"), reviews);
    assert_eq!(stub.log().len(), 21, "the second time comes from the record");
}

#[test]
fn a_server_that_is_not_there_or_not_ours_is_named() {
    let (task, redactor) = (Task::built_in("sentiment").expect("built in"), Redactor::default());
    let samples = [sample(1, "x")];
    let error = review_blocking("nonsense", &task, &redactor, &samples).expect_err("no address").to_string();
    assert!(error.starts_with("review-unreachable"), "{error}");
    let (_runtime, url, _stub, _folder) = start();
    let error =
        review_blocking(&format!("{url}/other"), &task, &redactor, &samples).expect_err("no review").to_string();
    assert!(error.starts_with("review-refused"), "{error}");
    let error = review_blocking(&url, &task, &redactor, &[sample(1, "!429")]).expect_err("busy").to_string();
    assert!(error.starts_with("review-busy") && error.contains("77 s"), "{error}");
}
