//! The gradients on our own kernels against burn's autodiff, on small random encoders.
#![cfg(feature = "native")]

use autoannotator::slm::burn::{Classifier, Padded, Training};
use autoannotator::slm::config::EncoderConfig;
use autoannotator::slm::cpu::backward::{Parameters, Step, Trainee};
use autoannotator::slm::weights::{EncoderWeights, Extras, Head, LayerWeights, Linear, Norm, Pooling};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const LENGTHS: [usize; 5] = [7, 1, 12, 5, 9];
const LABELS: usize = 3;

fn random(chance: &mut StdRng, count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|_| chance.random_range(-size..size)).collect()
}

/// An encoder of odd sizes, which no panel divides.
fn encoder(kind: &str) -> EncoderWeights {
    let json = format!(
        r#"{{"model_type":"{kind}","vocab_size":20,"hidden_size":36,"num_hidden_layers":3,"num_attention_heads":3,
        "intermediate_size":50,"max_position_embeddings":40,"type_vocab_size":2,"layer_norm_eps":1e-12,
        "relative_attention_num_buckets":32}}"#
    );
    let config = EncoderConfig::from_json(json.as_bytes(), "config.json").expect("a config");
    let chance = &mut StdRng::seed_from_u64(7);
    let mut linear = |outputs: usize, inputs: usize| Linear {
        weight: random(chance, outputs * inputs, 0.4),
        bias: random(chance, outputs, 0.2),
        outputs,
        inputs,
    };
    let norm = |from: &Linear| Norm { gamma: from.bias.iter().map(|b| 1.0 + b).collect(), beta: from.bias.clone() };
    let layers = (0..3)
        .map(|_| {
            let [query, key, value, output] = std::array::from_fn(|_| linear(36, 36));
            let (up, down) = (linear(50, 36), linear(36, 50));
            let (attention_norm, output_norm) = (norm(&output), norm(&down));
            LayerWeights { query, key, value, output, attention_norm, up, down, output_norm }
        })
        .collect();
    let chance = &mut StdRng::seed_from_u64(8);
    EncoderWeights {
        words: random(chance, 20 * 36, 1.0),
        positions: random(chance, 40 * 36, 1.0),
        token_types: Vec::new(),
        embedding_norm: Norm { gamma: vec![1.0; 36], beta: vec![0.0; 36] },
        layers,
        extras: Extras::default(),
        relative_bias: if kind == "mpnet" { random(chance, 32 * 3, 0.5) } else { Vec::new() },
        config,
    }
}

/// Moves every parameter a little, so that pairs do not start at zero.
fn moved(model: &Classifier) -> Classifier {
    use burn::module::{Module, ModuleMapper, Param};
    struct Mover(StdRng);
    impl ModuleMapper for Mover {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let trains = param.val().is_require_grad();
            let chance = &mut self.0;
            param.map(|tensor| {
                let change = TensorData::new(random(chance, tensor.shape().num_elements(), 0.05), tensor.dims());
                let moved = tensor.clone().inner() + Tensor::<D>::from_data(change, &Device::flex());
                if trains { Tensor::from_inner(moved).set_require_grad(true) } else { tensor }
            })
        }
    }
    model.clone().map(&mut Mover(StdRng::seed_from_u64(3)))
}

fn check(kind: &str, training: Training, pooling: Pooling) {
    let weights = encoder(kind);
    let device = Device::flex().autodiff();
    let chance = &mut StdRng::seed_from_u64(9);
    let linear = Linear {
        weight: random(chance, LABELS * 36, 0.5),
        bias: random(chance, LABELS, 0.5),
        outputs: LABELS,
        inputs: 36,
    };
    let head = Head { pooling, dense: None, linear, temperature: 1.0 };
    let model = moved(&Classifier::new(&weights, &head, 1, training, 0.0, &device));
    let tokens: usize = LENGTHS.iter().sum();
    let hidden = random(chance, tokens * 36, 1.5);
    let targets: Vec<f32> = random(chance, LENGTHS.len() * LABELS, 1.0).iter().map(|t| t.abs()).collect();
    let total: f32 = targets.iter().sum();

    let padded = Padded::new(&LENGTHS);
    let spread = padded.spread(&LENGTHS, &hidden, 36);
    let input = Tensor::<3>::from_data(TensorData::new(spread, [padded.texts, padded.length, 36]), &device);
    let logits = model.forward(input, &padded);
    let target = Tensor::<2>::from_data(TensorData::new(targets.clone(), [LENGTHS.len(), LABELS]), &device);
    let loss = (log_softmax(logits.clone(), 1) * target).sum() * (-1.0 / total);
    let wanted_loss = autoannotator::slm::burn::values(loss.clone())[0];
    let wanted_logits = autoannotator::slm::burn::values(logits);
    let wanted = GradientsParams::from_grads(loss.backward(), &model);

    let mut trainee = Trainee::new(&weights, 1, pooling);
    let parameters = model.parameters();
    let found = trainee.logits(&parameters, &hidden, &LENGTHS);
    close("logits", &wanted_logits, &found, 1e-5);
    let seeds = [1, 2, 3, 4, 5];
    let step = Step { hidden: &hidden, lengths: &LENGTHS, targets: &targets, total, seeds: &seeds, dropout: 0.0 };
    let (found_loss, gradient) = trainee.gradient(&parameters, &step);
    close("loss", &[wanted_loss], &[found_loss], 1e-5);
    compare(&model, wanted, model.gradients(gradient));
}

fn compare(model: &Classifier, wanted: GradientsParams, found: GradientsParams) {
    use burn::module::{Module, ModuleVisitor, Param};
    struct Compared<'a>(&'a GradientsParams, &'a GradientsParams, usize);
    impl ModuleVisitor for Compared<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let of = |all: &GradientsParams| all.get::<D>(param.id).map(autoannotator::slm::burn::values);
            let (Some(wanted), Some(found)) = (of(self.0), of(self.1)) else {
                assert_eq!(of(self.0), of(self.1), "one of both has no gradient");
                return;
            };
            close(&format!("gradient {}", self.2), &wanted, &found, 3e-5);
            self.2 += 1;
        }
    }
    let mut compared = Compared(&wanted, &found, 0);
    model.visit(&mut compared);
    assert!(compared.2 > 20, "{} gradients were compared", compared.2);
}

/// Within `tolerance` of the largest value.
fn close(what: &str, wanted: &[f32], found: &[f32], tolerance: f32) {
    assert_eq!(wanted.len(), found.len(), "{what}");
    let size = wanted.iter().fold(1e-3f32, |size, x| size.max(x.abs()));
    for (at, (wanted, found)) in wanted.iter().zip(found).enumerate() {
        assert!((wanted - found).abs() <= tolerance * size, "{what} at {at}: {found}, expected {wanted} (size {size})");
    }
}

const LORA: Training = Training::Lora { rank: 4, alpha: 8.0, embedding_rank: 0, seed: 1 };

#[test]
fn lora_gradients_are_those_of_autodiff() {
    check("bert", LORA, Pooling::Mean);
    check("mpnet", LORA, Pooling::Mean);
}

#[test]
fn full_gradients_are_those_of_autodiff() {
    check("bert", Training::Full, Pooling::Cls);
    check("mpnet", Training::Full, Pooling::Mean);
}

/// With dropout the loss is another function, but its gradient has to fit it: a small step along it lowers the loss as told.
#[test]
fn gradients_fit_the_loss_with_dropout() {
    let weights = encoder("mpnet");
    let device = Device::flex().autodiff();
    let chance = &mut StdRng::seed_from_u64(9);
    let linear = Linear { weight: random(chance, LABELS * 36, 0.5), bias: vec![0.0; 3], outputs: LABELS, inputs: 36 };
    let head = Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 };
    let model = moved(&Classifier::new(&weights, &head, 1, LORA, 0.0, &device));
    let hidden = random(chance, LENGTHS.iter().sum::<usize>() * 36, 1.5);
    let targets = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]].concat();
    let step = Step {
        hidden: &hidden,
        lengths: &LENGTHS,
        targets: &targets,
        total: 5.0,
        seeds: &[1, 2, 3, 4, 5],
        dropout: 0.2,
    };
    let mut trainee = Trainee::new(&weights, 1, Pooling::Mean);
    let parameters = model.parameters();
    let (loss, gradient) = trainee.gradient(&parameters, &step);
    assert_eq!(trainee.gradient(&parameters, &step), (loss, gradient.clone()), "the same seeds drop the same values");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        assert_eq!(
            pool.install(|| trainee.gradient(&parameters, &step)),
            (loss, gradient.clone()),
            "{threads} threads"
        );
    }
    let plain = trainee.gradient(&parameters, &Step { dropout: 0.0, ..step }).0;
    assert!((plain - loss).abs() > 1e-3, "dropout does nothing");
    let steepness: f32 = values(&gradient).iter().map(|x| x * x).sum();
    let mut at = |by: f32| {
        let mut moved = parameters.clone();
        apply(&mut moved, &gradient, by);
        trainee.gradient(&moved, &step).0
    };
    let by = 2e-3 / steepness.sqrt();
    let slope = (at(by) - at(-by)) / (2.0 * by);
    assert!((slope / steepness - 1.0).abs() < 0.02, "slope {slope}, expected {steepness}");
}

fn values(parameters: &Parameters) -> Vec<f32> {
    let mut copy = parameters.clone();
    copy.slices().flat_map(|slice| slice.clone()).collect()
}

fn apply(parameters: &mut Parameters, gradient: &Parameters, by: f32) {
    let mut gradient = gradient.clone();
    for (values, slope) in parameters.slices().zip(gradient.slices()) {
        values.iter_mut().zip(slope).for_each(|(value, slope)| *value += by * *slope);
    }
}
