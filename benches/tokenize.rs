//! Tokenizing short posts with the bases' tokenizers: our WordPiece and the `tokenizers` crate, one thread, in texts a
//! second. It wants the bases (`make pull`); where they are not there it says so.

use autoannotator::hub::{Catalogue, Home};
use autoannotator::slm::tokenize::Tokenizer;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Made up: plain, with names and tags, shouted, with accents, emoji and other scripts, and a long one.
const TEXTS: [&str; 8] = [
    "Just landed in Lisbon and the weather is unbelievable, see you all on Thursday!",
    "@maria_k have you seen the new #Interstellar cut?? http://t.co/aB3dE9xYz1 totally worth 3 hours of your life",
    "WHY is the 8:15 ALWAYS late... third time this week, @RailHelp do something!!!",
    "Première at the Café de l’Ambassade tonight — très chic, naïve prices though 😂😂",
    "meh. the update broke my playlists & now it crashes on startup, thx",
    "今日はとても楽しかった! ありがとう 🎉 see u tmrw",
    "Can't believe Juventus lost 0-3 at home; worst September in decades, hope Allegri's job isn't at risk on Sat",
    "so ... we tried the antidisestablishmentarianism burger (yes, really), the wasabi-mayonnaise was unforgettable \
     and the waiter recommended a superb non-alcoholic gooseberry spritz, would absolutely go back next Friday w/ kids",
];

fn tokenize(criterion: &mut Criterion) {
    let (catalogue, home) = (Catalogue::find().expect("catalogue"), Home::find(None).expect("home"));
    for entry in &catalogue.bases {
        let Some(base) = entry.cached(&home).expect("the cache can be read") else {
            eprintln!("skipped: the base {} is not in {}; `make pull` brings it", entry.id, home.path().display());
            continue;
        };
        let ours = Tokenizer::from_json(&base.tokenizer_json, 128).expect("a tokenizer");
        let json = std::str::from_utf8(&base.tokenizer_json).expect("UTF-8");
        let mut theirs: tokenizers::Tokenizer = json.parse().expect("a tokenizer");
        theirs.with_padding(None);
        let mut group = criterion.benchmark_group(format!("tokenize {}", entry.id));
        group.bench_function("load", |b| b.iter(|| Tokenizer::from_json(black_box(&base.tokenizer_json), 128)));
        group.throughput(Throughput::Elements(TEXTS.len() as u64));
        group.bench_function("wordpiece", |b| b.iter(|| TEXTS.map(|text| ours.encode(black_box(text)).expect("ids"))));
        group.bench_function("tokenizers", |b| {
            b.iter(|| TEXTS.map(|text| theirs.encode_fast(black_box(text), true).expect("ids")));
        });
        group.finish();
    }
}

criterion_group!(benches, tokenize);
criterion_main!(benches);
