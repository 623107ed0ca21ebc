//! Cold start: a task for which there is no SLM gets its own, a head and an adapter on each of the bases at hand, trained on
//! a seed of labelled texts. Rounds go on from there. Which texts are worth a label first is chosen by clusters.

use crate::slm::adapter::{Method, Metrics};
use crate::slm::config::EncoderConfig;
use crate::task::Task;
use crate::tune::TuneError;
use crate::tune::dataset::{Columns, DataFile};
use crate::tune::round::Labelled;
use crate::tune::teacher::Teacher;
use crate::tune::train::{BaseModel, Choice, Options, Places, Running, train};
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};

/// Texts of a label below which nothing can be learnt of it and held out as well.
pub const FEWEST_OF_A_LABEL: usize = 5;
/// One text in so many is held out to stop, choose and calibrate by.
const HELD_OUT: usize = 5;
/// Steps of a training at least: few texts are passed over more often.
const STEPS: usize = 200;
/// Texts a step.
const BATCH: usize = 16;
/// Bases of more layers than [`DEEP`] are trained in so many upper ones; what is below runs once.
const LAYERS: usize = 4;
const DEEP: usize = 6;
/// Share of a target that is the teacher's.
const TEACHER_WEIGHT: f32 = 0.5;

/// What a smaller SLM learns from besides the seed.
pub struct Lesson {
    /// A larger SLM, trained on the same seed.
    pub teacher: Teacher,
    /// Texts of which it gives the labels, in CSV files with the column text.
    pub unlabelled: Vec<DataFile>,
}

impl Lesson {
    /// Texts without a label.
    fn texts(&self) -> Result<usize, TuneError> {
        let count = |file: &DataFile| {
            let rows = csv::Reader::from_path(&file.path).map(|mut rows| rows.records().count());
            let rows = rows.map_err(|error| TuneError::Data { path: file.path.clone(), problem: error.to_string() })?;
            Ok((rows as f64 * file.fraction) as usize)
        };
        self.unlabelled.iter().map(count).sum()
    }
}

/// The id of the SLM that a task gets on a base.
pub fn slm_id(task: &str, base: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    format!("{task}-{base}").chars().map(plain).collect()
}

/// Checks that there is enough of every label of the task.
pub fn check(task: &Task, seed: &[Labelled]) -> Result<(), TuneError> {
    let count = |label: usize| seed.iter().filter(|row| row.label == label).count();
    let few: Vec<String> = (0..task.labels.len())
        .map(|label| (task.labels.name(label).unwrap_or_default(), count(label)))
        .filter(|(_, count)| *count < FEWEST_OF_A_LABEL)
        .map(|(name, count)| format!("{name} has {count}"))
        .collect();
    if few.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "a seed needs at least {FEWEST_OF_A_LABEL} texts of each label, but {}; label more, or leave the label out of the task",
        few.join(", ")
    );
    Err(TuneError::Options(problem))
}

/// Parts a seed into what is trained on and what is held out, with the same share of each label in both.
pub fn split(rows: &[Labelled], labels: usize, seed: u64) -> (Vec<Labelled>, Vec<Labelled>) {
    let mut chance = StdRng::seed_from_u64(seed);
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for label in 0..labels {
        let mut of_label: Vec<&Labelled> = rows.iter().filter(|row| row.label == label).collect();
        of_label.shuffle(&mut chance);
        let out = of_label.len().div_ceil(HELD_OUT).min(of_label.len().saturating_sub(1));
        held.extend(of_label.iter().take(out).copied().cloned());
        kept.extend(of_label.into_iter().skip(out).cloned());
    }
    (kept, held)
}

/// How an SLM is trained on so many texts.
pub fn options(id: String, config: &EncoderConfig, texts: usize, seed: u64) -> Options {
    let rank = 16;
    let an_epoch = texts.div_ceil(BATCH).max(1);
    Options {
        id,
        method: Method::Lora,
        rank,
        alpha: 2.0 * rank as f32,
        embedding_rank: 0,
        layers: if config.num_hidden_layers > DEEP { LAYERS } else { config.num_hidden_layers },
        lr: 5e-4,
        epochs: STEPS.div_ceil(an_epoch).clamp(4, 12),
        batch: BATCH,
        weight_decay: 0.01,
        warmup: 0.1,
        train_length: config.max_length().min(64),
        max_length: config.max_length().min(128),
        class_weights: false,
        dropout: 0.1,
        teacher_weight: 0.0,
        interpolation: 1.0,
        choice: Choice::Likelihood,
        evaluations: 2,
        patience: 6,
        seed,
    }
}

/// Trains an SLM of the task on a base, and writes its folder into `models`. Its figures are those on the texts that were held
/// out. A training that was stopped goes on.
pub fn start(
    task: &Task,
    base: BaseModel,
    (rows, lesson): (&[Labelled], Option<Lesson>),
    models: &Path,
    running: Running,
    seed: u64,
    progress: &ProgressBar,
) -> Result<(String, Metrics), TuneError> {
    check(task, rows)?;
    let id = slm_id(&task.name, &base.id);
    let (kept, held) = split(rows, task.labels.len(), seed);
    let data = write(task, &kept, &running.scratch.join("seed.csv"))?;
    let validation = write(task, &held, &running.scratch.join("held-out.csv"))?;
    let texts = kept.len() + lesson.as_ref().map_or(Ok(0), Lesson::texts)?;
    let mut options = options(id.clone(), &base.weights.config, texts, seed);
    let (teacher, unlabelled) = lesson.map(|lesson| (lesson.teacher, lesson.unlabelled)).unzip();
    if teacher.is_some() {
        options.teacher_weight = TEACHER_WEIGHT;
    }
    let places = Places {
        data: vec![DataFile { path: data, fraction: 1.0 }],
        unlabelled: unlabelled.unwrap_or_default(),
        validation,
        transfer: None,
        columns: Columns { text: "text".to_owned(), label: "label".to_owned() },
        out: models.join(&id),
        running,
    };
    Ok((id, train(task, base, teacher, &options, &places, progress)?))
}

fn write(task: &Task, rows: &[Labelled], path: &Path) -> Result<PathBuf, TuneError> {
    let fail = |error: csv::Error| TuneError::Data { path: path.to_owned(), problem: error.to_string() };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|source| TuneError::Io { path: folder.to_owned(), source })?;
    }
    let mut writer = csv::Writer::from_path(path).map_err(fail)?;
    writer.write_record(["text", "label"]).map_err(fail)?;
    for row in rows {
        let label = task.labels.name(row.label).unwrap_or_default();
        writer.write_record([row.text.as_str(), label]).map_err(fail)?;
    }
    writer.flush().map_err(|source| TuneError::Io { path: path.to_owned(), source })?;
    Ok(path.to_owned())
}

/// Rounds of Lloyd's algorithm; texts hardly change their cluster after them.
const LLOYD: usize = 12;

/// Chooses `count` vectors `[texts x width]` that are unlike each other and like many: k-means from k-means++ seeds
/// (Arthur and Vassilvitskii 2007), and of each cluster the vector nearest to its mean. Indices in rising order; all where
/// there are no more. The same for the same seed.
pub fn diverse(vectors: &[f32], width: usize, count: usize, seed: u64) -> Vec<usize> {
    let rows: Vec<&[f32]> = vectors.chunks_exact(width.max(1)).collect();
    if rows.len() <= count {
        return (0..rows.len()).collect();
    }
    let mut chance = StdRng::seed_from_u64(seed);
    let mut centres = plus_plus(&rows, count, &mut chance);
    let mut cluster = vec![0; rows.len()];
    for _ in 0..LLOYD {
        for (of, row) in cluster.iter_mut().zip(&rows) {
            *of = nearest(row, &centres).0;
        }
        for (at, centre) in centres.iter_mut().enumerate() {
            let members: Vec<&&[f32]> =
                rows.iter().zip(&cluster).filter(|(_, of)| **of == at).map(|(row, _)| row).collect();
            // An empty cluster stays where it is.
            if !members.is_empty() {
                let mean = |column: usize| members.iter().map(|row| row[column]).sum::<f32>() / members.len() as f32;
                *centre = (0..width).map(mean).collect();
            }
        }
    }
    let mut taken = vec![false; rows.len()];
    for centre in &centres {
        let free = rows.iter().enumerate().filter(|(at, _)| !taken[*at]);
        let best = free.min_by(|(_, a), (_, b)| distance(a, centre).total_cmp(&distance(b, centre))).map(|(at, _)| at);
        if let Some(at) = best {
            taken[at] = true;
        }
    }
    (0..rows.len()).filter(|at| taken[*at]).collect()
}

/// The first centre by chance, each next one by chance in proportion to its squared distance from the nearest.
fn plus_plus(rows: &[&[f32]], count: usize, chance: &mut StdRng) -> Vec<Vec<f32>> {
    let mut centres = vec![rows[chance.random_range(0..rows.len())].to_vec()];
    let mut far: Vec<f32> = rows.iter().map(|row| distance(row, &centres[0])).collect();
    while centres.len() < count {
        let sum: f32 = far.iter().sum();
        let mut draw = chance.random_range(0.0..1.0) * sum;
        let at = far.iter().position(|distance| {
            draw -= distance;
            draw < 0.0
        });
        // Where all are the same, any will do.
        let centre = rows[at.unwrap_or_else(|| chance.random_range(0..rows.len()))].to_vec();
        far.iter_mut().zip(rows).for_each(|(far, row)| *far = far.min(distance(row, &centre)));
        centres.push(centre);
    }
    centres
}

fn nearest(row: &[f32], centres: &[Vec<f32>]) -> (usize, f32) {
    let distances = centres.iter().map(|centre| distance(row, centre)).enumerate();
    distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f32::INFINITY))
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(counts: [usize; 3]) -> Vec<Labelled> {
        let of = |(label, count): (usize, usize)| {
            (0..count).map(move |at| Labelled { text: format!("{label} {at}"), label })
        };
        counts.into_iter().enumerate().flat_map(of).collect()
    }

    #[test]
    fn a_split_keeps_the_shares_and_every_text_once() {
        let all = rows([100, 50, 5]);
        let (kept, held) = split(&all, 3, 0);
        let count = |rows: &[Labelled], label: usize| rows.iter().filter(|row| row.label == label).count();
        assert_eq!([0, 1, 2].map(|label| count(&held, label)), [20, 10, 1]);
        let mut both: Vec<String> = kept.iter().chain(&held).map(|row| row.text.clone()).collect();
        both.sort();
        both.dedup();
        assert_eq!(both.len(), all.len());
        assert_eq!(split(&all, 3, 0), (kept, held));
    }

    #[test]
    fn a_label_with_too_few_texts_is_named() {
        let task = Task::built_in("sentiment").expect("built in");
        let message = check(&task, &rows([9, 4, 0])).expect_err("too few").to_string();
        let [second, third] = [1, 2].map(|label| task.labels.name(label).expect("a label"));
        assert!(message.contains(&format!("{second} has 4, {third} has 0")), "{message}");
        assert!(check(&task, &rows([5, 5, 5])).is_ok());
    }

    #[test]
    fn ids_are_folder_names() {
        assert_eq!(slm_id("app reviews", "all-MiniLM-L6-v2"), "app-reviews-all-minilm-l6-v2");
    }

    #[test]
    fn each_cloud_is_chosen_from() {
        // Ten clouds of very different sizes, far from each other.
        let mut vectors = Vec::new();
        let mut cloud = Vec::new();
        for centre in 0..10u8 {
            for at in 0..=3 * usize::from(centre) {
                vectors.extend([f32::from(centre) * 10.0, (at % 5) as f32 * 0.1]);
                cloud.push(centre);
            }
        }
        for seed in 0..5 {
            let mut seen: Vec<u8> = diverse(&vectors, 2, 10, seed).iter().map(|at| cloud[*at]).collect();
            seen.dedup();
            assert!(seen.len() >= 9, "{seen:?}");
        }
    }

    proptest! {
        #[test]
        fn so_many_distinct_texts_are_chosen(
            vectors in proptest::collection::vec(prop_oneof![Just(0.0f32), -1.0f32..1.0], 0..120), count in 1usize..30,
        ) {
            let chosen = diverse(&vectors, 3, count, 7);
            prop_assert_eq!(chosen.len(), count.min(vectors.len() / 3));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
