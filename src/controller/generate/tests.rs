use super::*;
use crate::slm::pack::{FilePart, SHARD_BYTES};
use crate::task::{Label, Task};

/// Labels, definitions and a task that would be code where they were pasted into any.
pub(super) const HOSTILE: [&str; 8] = [
    "</script><script>alert(1)</script>",
    "'; touch pwned; '",
    "\"; import('x'); \"",
    "$(touch pwned) `touch pwned`",
    "%h %n \\\" \\x22",
    "../../../etc/passwd",
    "a\nExecStart=/bin/evil\n[vars]\nREVIEW_URL = \"x\"",
    "{{name}} ${name} {% x %} <!-- --> ]]> \u{202e}\u{2028}\u{7f}",
];

fn hostile() -> Spec {
    let label = |(at, text): (usize, &&str)| Label {
        name: format!("{at} {text}"),
        aliases: vec![format!("alias {at} {text}")],
        definition: Some(format!("definition {text}")),
    };
    let labels = LabelSet::new(HOSTILE.iter().enumerate().map(label).collect()).expect("labels");
    let mut spec = Spec::plain(Task { name: HOSTILE.join(" "), labels }, vec!["tiny-a".into(), "tiny-b".into()]);
    spec.review =
        ReviewSpec { to: ReviewTo::Llm, url: Some("https://review.example/x?a=\"'<>".into()), ..ReviewSpec::default() };
    spec.review.names = vec!["Ann Lee".into()];
    spec
}

fn manifest(id: &str, labels: Vec<String>, mib: u64) -> SlmManifest {
    let bytes = mib << 20;
    let sha256 = "0".repeat(64);
    let part = |name: &str, bytes| FilePart { name: name.into(), bytes, sha256: sha256.clone() };
    let shards = (0..bytes.div_ceil(SHARD_BYTES as u64))
        .map(|at| part(&format!("weights-{at}.bin"), (bytes - at * SHARD_BYTES as u64).min(SHARD_BYTES as u64)));
    SlmManifest {
        id: id.into(),
        task: "t".into(),
        labels,
        version: "000000000000".into(),
        base: "tiny".into(),
        precision: crate::slm::pack::Precision::Int8,
        max_length: 64,
        bytes,
        sha256: sha256.clone(),
        relative_cost: 1.0,
        layers: 2,
        shards: shards.collect(),
        tokenizer: part("tokenizer.json", 1000),
        metrics: None,
    }
}

fn packed(spec: &Spec, mib: &[u64]) -> Models {
    let slms = spec.slms.iter().zip(mib).map(|(id, mib)| manifest(id, spec.task.labels.names(), *mib)).collect();
    Models::Folder { path: "/packed".into(), index: Index { slms } }
}

fn text<'a>(project: &'a Project, path: &str) -> &'a str {
    let file = project.files.iter().find(|file| file.path == path).expect(path);
    let Content::Bytes(bytes) = &file.content else { panic!("{path} is a model's") };
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn source() -> SpecFile {
    SpecFile { bytes: b"task = \"sentiment\"\n".to_vec(), json: false }
}

/// All projects of a spec.
fn all(spec: &Spec) -> Result<[Project; 3], GenerateError> {
    let models = packed(spec, &[1, 1, 1]);
    let package = Package::default();
    let folder = Path::new("/srv/it's 100% \"$HOME\"/a\\b");
    Ok([
        page(spec, &models, &package)?,
        worker(spec, &models, &package)?,
        cli(spec, &source(), Path::new("/opt/it's/autoannotator"), folder)?,
    ])
}

#[test]
fn templates_take_their_values_and_keep_no_placeholder() {
    for project in all(&Spec::built_in("sentiment").expect("built in")).expect("projects") {
        for file in &project.files {
            let Content::Bytes(bytes) = &file.content else { continue };
            assert!(!String::from_utf8_lossy(bytes).contains("{{"), "{}", file.path);
            assert!(!file.path.contains("dot-") && !file.path.contains("NAME"), "{}", file.path);
        }
    }
}

#[test]
fn labels_count_by_name_in_any_order() {
    let spec = Spec::built_in("sentiment").expect("built in");
    let with = |labels: &[&str]| {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let slms = spec.slms.iter().map(|id| manifest(id, labels.clone(), 1)).collect();
        let models = Models::Folder { path: "/packed".into(), index: Index { slms } };
        worker(&spec, &models, &Package::default()).map(drop)
    };
    with(&["positive", "Negative", "neutral"]).expect("the same labels");
    let told = with(&["positive", "negative", "mixed"]).expect_err("another label").to_string();
    assert!(told.starts_with("generate-labels: ") && told.contains("mixed"), "{told}");
}

/// A value may only stand where its encoder is right: inside quotes, in text, or in a plain word's place.
#[test]
fn placeholders_stand_inside_quotes() {
    for (path, text) in [PAGE, WORKER, CLI].concat() {
        for line in text.lines().filter(|line| line.contains("{{")) {
            let sound = match template::Kind::of(path) {
                template::Kind::Quoted => line.contains("\"{{") && line.contains("}}\""),
                template::Kind::Shell => line.contains("='{{") && line.ends_with("}}'"),
                template::Kind::Unit => {
                    line.starts_with("Description=autoannotator: {{name}}")
                        || line == "ExecStart=/bin/sh \"{{script}}\""
                }
                template::Kind::Html => line.contains("<title>{{title}}: ") || line.contains("<bdi>{{title}}</bdi>"),
                template::Kind::Markdown => line.starts_with("# {{title}}: ") || !line.contains("{{title}}"),
                template::Kind::Code => false,
            };
            assert!(sound, "{path}: {line}");
        }
    }
}

/// The files of code are the same whatever the spec says: its words are in data files alone, and there as data.
#[test]
fn a_hostile_spec_is_data_everywhere() {
    let spec = hostile();
    let [page, worker, cli] = all(&spec).expect("projects");
    let plain = all(&Spec::built_in("sentiment").expect("built in")).expect("projects");
    for (project, harmless) in [&page, &worker, &cli].into_iter().zip(&plain) {
        assert!(word(&project.name) && project.name.len() < 60, "{}", project.name);
        for file in project
            .files
            .iter()
            .filter(|file| file.path.ends_with(".ts") || file.path.ends_with(".js") || file.path.ends_with(".css"))
        {
            assert_eq!(text(project, &file.path), text(harmless, &file.path), "{}", file.path);
        }
        // Nothing but the name differs where the values are words.
        let readme = text(project, "README.md");
        assert_eq!(readme.lines().count(), text(harmless, "README.md").lines().count());
        assert!(!readme.contains("<script>"));
    }
    for (project, labels) in [(&page, true), (&worker, false)] {
        let data: serde_json::Value = serde_json::from_str(text(project, "src/project.json")).expect("JSON");
        let read = Spec::from_json(&data["spec"].to_string()).expect("a spec");
        assert_eq!((&read.task, &read.slms), (&spec.task, &spec.slms));
        if labels {
            assert_eq!(data["labels"], serde_json::to_value(&spec.task.labels).expect("JSON"));
            assert_eq!(data["connect"], serde_json::json!(["https://review.example"]));
        }
        let package: serde_json::Value = serde_json::from_str(text(project, "package.json")).expect("JSON");
        assert_eq!(package["name"], project.name);
    }
    let html = text(&page, "index.html");
    assert_eq!(html.matches("<script").count(), 1);
    assert!(html.contains("&lt;/script&gt;") && !html.contains('\u{202e}'));
    let wrangler: toml::Table = text(&worker, "wrangler.toml").parse().expect("TOML");
    assert_eq!(wrangler["name"].as_str(), Some(&*worker.name));
    assert_eq!(wrangler["vars"]["REVIEW_URL"].as_str(), Some("https://review.example/x?a=%22%27%3C%3E"));
    assert_eq!(wrangler["vars"].as_table().map(toml::Table::len), Some(2));
    let unit = text(&cli, &format!("{}.service", cli.name));
    assert_eq!(unit.lines().count(), text(&plain[2], "sentiment-annotate.service").lines().count());
    assert!(unit.contains(r#"ExecStart=/bin/sh "/srv/it's 100%% \"$$HOME\"/a\\b/annotate.sh""#), "{unit}");
    let script = text(&cli, "annotate.sh");
    assert!(script.contains(r"program='/opt/it'\''s/autoannotator'"));
    assert!(!script.contains("pwned"));
}

#[test]
fn what_is_published_is_what_is_needed() {
    let mut spec = hostile();
    spec.review.usd_per_million = Some(crate::spec::Prices { prompt: 1.0, completion: 1.0 });
    spec.review.keep_text = true;
    let names = |spec: &Spec| {
        let [page, worker, _] = all(spec).expect("projects");
        [page, worker].map(|project| text(&project, "src/project.json").contains("Ann Lee"))
    };
    assert_eq!(names(&spec), [true, true], "redaction needs them");
    let [page, ..] = all(&spec).expect("projects");
    assert!(!text(&page, "src/project.json").contains("usd_per_million"));
    (spec.review.to, spec.review.url, spec.review.keep_text) = (ReviewTo::Person, None, false);
    assert_eq!(names(&spec), [false, false]);
}

#[test]
fn addresses_cannot_widen_a_policy() {
    for url in [
        "http://a;script-src%20*/",
        "http://a,b/",
        "https://u:p@a/",
        "https://u@a/",
        "ftp://a/",
        "http:///",
        "https://*.example/",
        "https://a'b/",
        "javascript:alert(1)",
        "https://a b/",
        "",
    ] {
        let error = address("--models", url).expect_err(url).to_string();
        assert!(error.starts_with("generate-address: "), "{error}");
    }
    let found = address("--models", "https://models.example:8443/packed/\"; x").expect("an address");
    assert_eq!(found.origin, "https://models.example:8443");
    assert!(!found.url.contains(['"', ' ']));
    assert_eq!(address("x", "http://[::1]:80/").expect("an address").origin, "http://[::1]");
    let mut spec = hostile();
    spec.review.url = Some("http://a;script-src".into());
    assert!(matches!(all(&spec), Err(GenerateError::Address { .. })));
    spec.review.url = None;
    assert!(matches!(all(&spec), Err(GenerateError::Review)));
}

#[test]
fn models_have_to_fit() {
    let spec = Spec::built_in("sentiment").expect("built in");
    let package = Package::default();
    let project = worker(&spec, &packed(&spec, &[18, 23, 110]), &package).expect("a worker");
    assert_eq!(project.left_out.iter().map(|slm| &*slm.id).collect::<Vec<_>>(), ["sentiment-mpnet"]);
    assert!(!text(&project, "public/models/index.json").contains("mpnet"));
    assert!(!text(&project, "src/project.json").contains("mpnet"));
    assert!(
        project.files.iter().any(|file| file.path == "public/models/sentiment-minilm-l6/000000000000/tokenizer.json")
    );
    let error = worker(&spec, &packed(&spec, &[60, 60, 110]), &package).expect_err("too large").to_string();
    assert!(error.starts_with("generate-memory: ") && error.contains("1 of the spec's 3"), "{error}");
    // A page has room.
    let project = page(&spec, &packed(&spec, &[18, 23, 110]), &package).expect("a page");
    assert!(text(&project, "public/models/index.json").contains("mpnet") && project.left_out.is_empty());

    let error = page(&spec, &packed(&spec, &[1, 1]), &package).expect_err("one is missing").to_string();
    assert!(error.starts_with("generate-slm: 'sentiment-mpnet'") && error.contains("sentiment-minilm-l3"), "{error}");
    let mut other = spec.clone();
    other.task = Task::built_in("toxicity").expect("built in");
    let error = page(&other, &packed(&spec, &[1, 1, 1]), &package).expect_err("other labels").to_string();
    assert!(error.starts_with("generate-labels: "), "{error}");
    // An id that leads elsewhere is none that a packed model can have.
    other = spec.clone();
    other.slms = vec!["../../etc/passwd".into()];
    assert!(matches!(page(&other, &packed(&spec, &[1, 1, 1]), &package), Err(GenerateError::Slm { .. })));
}

#[test]
fn models_at_an_address_are_not_copied() {
    let spec = Spec::built_in("sentiment").expect("built in");
    let models = Models::Address("https://models.example/packed/".into());
    let project = page(&spec, &models, &Package::default()).expect("a page");
    assert!(!project.files.iter().any(|file| file.path.contains("models")));
    let data: serde_json::Value = serde_json::from_str(text(&project, "src/project.json")).expect("JSON");
    assert_eq!(data["models"], "https://models.example/packed/");
    assert_eq!(data["connect"], serde_json::json!(["https://models.example"]));
    let project = worker(&spec, &models, &Package::default()).expect("a worker");
    let wrangler: toml::Table = text(&project, "wrangler.toml").parse().expect("TOML");
    assert_eq!(wrangler["vars"]["MODELS_URL"].as_str(), Some("https://models.example/packed/"));
}

#[test]
fn the_package_is_a_version_or_a_tarball() {
    for version in ["0.1.0", "^0.1.0", "~1.2", "1.0.0-rc.1"] {
        assert_eq!(Package::find(version).expect(version).wanted(), version);
    }
    for wrong in
        ["latest", "file:../x", "0.1.0 || *", "git+ssh://x", "^^1", "", "^", "no-such-file.tgz", "1\"x", "npm:evil@1"]
    {
        assert!(matches!(Package::find(wrong), Err(GenerateError::Package(_))), "{wrong}");
    }
    let place = tempfile::tempdir().expect("a folder");
    let file = |name: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, "a tarball").expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let package = Package::find(&file("autoannotator-0.1.0.tgz")).expect("a tarball");
    assert_eq!(package.wanted(), "file:vendor/autoannotator-0.1.0.tgz");
    let spec = Spec::built_in("sentiment").expect("built in");
    let project = page(&spec, &packed(&spec, &[1, 1, 1]), &package).expect("a page");
    assert_eq!(text(&project, "vendor/autoannotator-0.1.0.tgz"), "a tarball");
    for wrong in [file("x.txt"), file("$(x).tgz"), place.path().to_str().expect("UTF-8").to_owned()] {
        assert!(matches!(Package::find(&wrong), Err(GenerateError::Package(_))), "{wrong}");
    }
}

#[test]
fn names_are_short_and_plain() {
    for (name, expected) in [
        ("sentiment", "sentiment"),
        ("App reviews: bug?", "app-reviews-bug"),
        ("../../etc", "etc"),
        ("李雷", "task"),
        ("--x", "x"),
        ("\n", "task"),
        (&*"long ".repeat(30), "long-long-long-long-long-long-long-long"),
    ] {
        assert_eq!(slug(name), expected);
    }
    assert_eq!(title(" a\n\u{202e}b\tc "), "a b c");
}
