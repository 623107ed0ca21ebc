//! The GPU engine: an encoder in WGSL on wgpu, natively and on WebGPU in the browser.
//!
//! The tokens of a batch lie end to end without padding. Embeddings are looked up and normalised on the CPU, so that no
//! table has to fit a binding; from there on everything happens on the device: two buffer writes, one submit and one
//! readback a forward. Pipelines and bind groups are made at load.

mod device;
mod load;
mod shader;

pub use device::{Gpu, GpuOptions};
pub use shader::Shape;

use super::config::EncoderConfig;
use super::cpu::CpuEncoder;
use super::pack::PackedWeights;
use super::weights::{EncoderWeights, Head};
use super::{Batch, SlmError, finite};
use load::{Kernel, LAYER_STEPS, Loader, Matrix, Step};
use shader::{BLOCKS, LANES, NORM_TOKENS, Stored, padded};

/// The most tokens of a forward; a longer batch takes several. A multiple of every kernel's rows.
const TOKENS: usize = 2048;

/// What tells the kernels about texts of these lengths: `[texts, blocks, 0, 0]`; for each text its first token and its
/// length; for each block of `queries` queries the text's first token, its length and the first query.
fn layout_of(lengths: &[usize], queries: usize) -> Vec<[u32; 4]> {
    let mut first = 0;
    let mut texts = Vec::with_capacity(lengths.len());
    for length in lengths {
        texts.push([first, *length as u32, 0, 0]);
        first += *length as u32;
    }
    let blocks = texts
        .iter()
        .flat_map(|[first, length, ..]| (0..*length).step_by(queries).map(move |query| [*first, *length, query, 0]));
    let blocks: Vec<_> = blocks.collect();
    [vec![[texts.len() as u32, blocks.len() as u32, 0, 0]], texts, blocks].concat()
}

/// What a forward is read for.
#[derive(Clone, Copy)]
enum Output {
    Logits,
    Pooled,
}

/// An encoder with its head on a device.
pub struct GpuEngine {
    gpu: Gpu,
    config: EncoderConfig,
    labels: usize,
    precision: &'static str,
    /// Embeds; it has no layers.
    embeddings: CpuEncoder,
    queries: usize,
    states: wgpu::Buffer,
    texts: wgpu::Buffer,
    logits: wgpu::Buffer,
    pooled: wgpu::Buffer,
    staging: wgpu::Buffer,
    steps: Vec<Step>,
    /// The products' shape by the number of tokens: see [`class`].
    shapes: [Shape; CLASSES.len() + 1],
}

/// The most tokens of each class of forwards; the last one has no limit.
const CLASSES: [usize; 3] = [16, 64, 256];

/// Milliseconds that a timing of layers takes at least, on a fast adapter by repeating them.
const LEAST_TIMED: f64 = 8.0;

/// The class of a forward.
fn class(tokens: usize) -> usize {
    CLASSES.partition_point(|limit| *limit < tokens)
}

impl GpuEngine {
    /// Puts weights and head on the device: int8 weights as int8 (a scale for each 32 inputs of an output), others as f16
    /// where every one of them is exact in it, as those of a file in f16 are, and the adapter reads it, else in f32.
    /// An encoder that the kernels do not take (another architecture, or attention heads of a width that is no multiple of
    /// four) or a lack of memory is an error.
    pub async fn new(gpu: &Gpu, weights: PackedWeights, head: &Head) -> Result<Self, SlmError> {
        match weights {
            PackedWeights::F32(weights) => {
                Self::load(gpu, weights, head, |weights| CpuEncoder::from_weights(weights, None)).await
            }
            PackedWeights::Int8(weights) => {
                Self::load(gpu, weights, head, |weights| CpuEncoder::from_int8(weights, None)).await
            }
        }
    }

    async fn load<M: Matrix>(
        gpu: &Gpu,
        mut weights: EncoderWeights<M>,
        head: &Head,
        embeddings: impl FnOnce(EncoderWeights<M>) -> CpuEncoder,
    ) -> Result<Self, SlmError> {
        gpu.check()?;
        let config = weights.config.clone();
        if !(config.hidden_size / config.num_attention_heads).is_multiple_of(4) {
            let problem = "the GPU engine takes heads of a multiple of four values";
            return Err(SlmError::NoGpu(problem.to_owned()));
        }
        if config.max_length() > TOKENS {
            let problem = format!("the GPU engine takes texts of up to {TOKENS} tokens, not {}", config.max_length());
            return Err(SlmError::NoGpu(problem));
        }
        if !config.is_bert_like() || head.dense.as_ref().is_some_and(|dense| dense.norm.is_some()) {
            let name = config.architecture.name();
            return Err(SlmError::NoGpu(format!("the GPU engine has no kernels for {name}")));
        }
        let memory = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let layers = std::mem::take(&mut weights.layers);
        let relative = std::mem::take(&mut weights.relative_bias);
        let loader = Loader::new(gpu, &config, head, &relative);
        let stored = M::stored(&layers, gpu.reads_f16());
        let steps = loader.steps(layers, stored);
        let Loader { states, texts, logits, pooled, attention, .. } = loader;
        let labels = head.linear.outputs;
        let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("to be read"),
            size: (TOKENS * labels.max(config.hidden_size) * size_of::<f32>()) as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let errors = [validation.pop().await, memory.pop().await];
        if let Some(error) = errors.into_iter().flatten().next() {
            // Other models may go on there.
            return Err(SlmError::Gpu(error.to_string()));
        }
        gpu.check()?;
        Ok(Self {
            gpu: gpu.clone(),
            precision: stored.name(),
            embeddings: embeddings(weights),
            queries: attention.queries(),
            shapes: if gpu.is_software() {
                [Shape::Broad; 4]
            } else {
                [Shape::Small, Shape::Wide, Shape::Shared, Shape::Shared]
            },
            config,
            labels,
            states,
            texts,
            logits,
            pooled,
            staging,
            steps,
        })
    }

    /// Its short name, recorded on votes.
    pub fn name(&self) -> &'static str {
        "gpu"
    }

    /// The precision of its weights, recorded on votes.
    pub fn precision(&self) -> &'static str {
        self.precision
    }

    /// Times layers in every shape of the products, for each class of forwards, and keeps the fastest; `now` is a clock
    /// in milliseconds. It takes as long as a few forwards, and where these are short half a second. A shape that the adapter
    /// refuses is left out. [`Shape::Packed`] serves all classes or none, since a text's logits must not depend on the others
    /// in its batch: where it is faster on many tokens by more than a measurement errs, for it rounds its inputs.
    pub async fn tune(&mut self, now: impl Fn() -> f64) -> Result<(), SlmError> {
        let (mut least, mut layers) = (f64::INFINITY, 1);
        for class in 0..self.shapes.len() {
            let mut best = (f64::INFINITY, self.shapes[class]);
            // What the clock and the readback add must not decide.
            let took = self.time((class, best.1, 1), &now).await?;
            layers = (LEAST_TIMED / took).clamp(1.0, 64.0) as usize;
            for shape in Shape::ALL {
                let took = self.time((class, shape, layers), &now).await?;
                if took < best.0 {
                    best = (took, shape);
                }
            }
            (least, self.shapes[class]) = best;
        }
        if self.takes(Shape::Packed) {
            let exact = self.shapes;
            if self.time((exact.len() - 1, Shape::Packed, layers), &now).await? < 0.9 * least {
                self.set_shape(Shape::Packed);
            } else {
                self.shapes = exact;
            }
        }
        Ok(())
    }

    /// Milliseconds of so many layers in a shape, the least of three runs after the one that compiles; infinite where the
    /// adapter refuses it. The class is left in it.
    async fn time(
        &mut self,
        (class, shape, layers): (usize, Shape, usize),
        now: &impl Fn() -> f64,
    ) -> Result<f64, SlmError> {
        let tokens = CLASSES.get(class).copied().unwrap_or(4 * CLASSES[CLASSES.len() - 1]);
        let (lengths, states) = (vec![16; tokens / 16], vec![0.5; tokens * self.config.hidden_size]);
        self.shapes[class] = shape;
        let internal = self.gpu.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let mut least = f64::INFINITY;
        for run in 0..4 {
            let start = now();
            self.forward((&lengths, &states), (LAYER_STEPS, layers), Output::Logits)?;
            self.read(1, Output::Logits).await?;
            if run > 0 {
                least = least.min(now() - start);
            }
        }
        let errors = [validation.pop().await, internal.pop().await];
        let refused = errors.into_iter().flatten().next();
        Ok(refused.map_or(least, |_| f64::INFINITY))
    }

    /// Whether the products of its weights can be cut in a shape on its device.
    pub fn takes(&self, shape: Shape) -> bool {
        shape != Shape::Packed || (self.gpu.packs() && self.precision == Stored::Int8.name())
    }

    /// Has all products cut in one shape that it [`takes`](Self::takes): to test and to compare them.
    pub fn set_shape(&mut self, shape: Shape) {
        self.shapes = [shape; CLASSES.len() + 1];
    }

    /// Raw logits, `[texts x labels]`. After an error the device is of no use.
    pub async fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        finite(self.run(batch, Output::Logits).await?)
    }

    /// The pooled states, `[texts x hidden]`. After an error the device is of no use.
    pub async fn pooled(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        self.run(batch, Output::Pooled).await
    }

    async fn run(&mut self, batch: &Batch, output: Output) -> Result<Vec<f32>, SlmError> {
        let states = self.embeddings.hidden(batch, 0)?;
        let mut values = Vec::new();
        for (group, states) in parts(batch, &states, self.config.hidden_size) {
            self.forward((group, states), (self.steps.len(), 1), output)?;
            values.extend(self.read(group.len(), output).await?);
        }
        Ok(values)
    }

    /// Where an output stands on the device, and its size for so many texts, in bytes.
    fn place(&self, texts: usize, output: Output) -> (&wgpu::Buffer, u64) {
        let (buffer, width) = match output {
            Output::Logits => (&self.logits, self.labels),
            Output::Pooled => (&self.pooled, self.config.hidden_size),
        };
        (buffer, (texts * width * size_of::<f32>()) as u64)
    }

    /// Submits the first `steps` of a forward, so many `times`, over texts of these lengths and embeddings.
    fn forward(
        &self,
        (lengths, states): (&[usize], &[f32]),
        (steps, times): (usize, usize),
        output: Output,
    ) -> Result<(), SlmError> {
        self.gpu.check()?;
        let hidden = self.config.hidden_size;
        let tokens = states.len() / hidden;
        let layout = layout_of(lengths, self.queries);
        self.gpu.queue.write_buffer(&self.texts, 0, bytemuck::cast_slice(&layout));
        if hidden == padded(hidden) {
            self.gpu.queue.write_buffer(&self.states, 0, bytemuck::cast_slice(states));
        } else {
            let mut rows = vec![0.0; tokens * padded(hidden)];
            for (row, state) in rows.chunks_exact_mut(padded(hidden)).zip(states.chunks_exact(hidden)) {
                row[..hidden].copy_from_slice(state);
            }
            self.gpu.queue.write_buffer(&self.states, 0, bytemuck::cast_slice(&rows));
        }
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let steps = &self.steps[..steps.min(self.steps.len())];
            for step in std::iter::repeat_n(steps, times).flatten() {
                self.dispatch(&mut pass, step, tokens, layout[0]);
            }
        }
        let (from, size) = self.place(lengths.len(), output);
        encoder.copy_buffer_to_buffer(from, 0, &self.staging, 0, size);
        self.gpu.queue.submit([encoder.finish()]);
        Ok(())
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step, tokens: usize, [texts, blocks, ..]: [u32; 4]) {
        let shape = self.shapes[class(tokens)];
        let tiles = |size: usize| tokens.div_ceil(size) as u32;
        let (pipeline, x, y) = match &step.kernel {
            Kernel::Product(products, outputs) => {
                let (rows, columns) = shape.workgroup();
                (products.pipeline(&self.gpu, shape), outputs.div_ceil(columns) as u32, tiles(rows))
            }
            Kernel::Attention(pipeline) => (pipeline, blocks.div_ceil(BLOCKS), self.config.num_attention_heads as u32),
            Kernel::Norm(pipeline) => (pipeline, 1, tiles(NORM_TOKENS)),
            Kernel::Text(pipeline, outputs) => (pipeline, outputs.div_ceil(LANES) as u32, texts),
        };
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &step.bindings, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }

    /// The output of the last forward.
    async fn read(&self, texts: usize, output: Output) -> Result<Vec<f32>, SlmError> {
        let (_, size) = self.place(texts, output);
        let (done, mapped) = futures_channel::oneshot::channel();
        self.staging.map_async(wgpu::MapMode::Read, ..size, |result| {
            // Nobody waits any more where the forward was dropped.
            let _ = done.send(result);
        });
        self.gpu.wait()?;
        match mapped.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.gpu.fail(error.to_string())),
            Err(_) => return Err(self.gpu.fail("the device went away")),
        }
        let view = self.staging.get_mapped_range(..size).map_err(|error| self.gpu.fail(error.to_string()))?;
        let values = bytemuck::pod_collect_to_vec(&view);
        drop(view);
        self.staging.unmap();
        self.gpu.check()?;
        Ok(values)
    }
}

/// Whole texts that fit a forward, with their embeddings.
fn parts<'a>(batch: &'a Batch, states: &'a [f32], hidden: usize) -> Vec<(&'a [usize], &'a [f32])> {
    let (mut lengths, mut states) = (&batch.lengths[..], states);
    let mut parts = Vec::new();
    while !lengths.is_empty() {
        let mut tokens = 0;
        let fits = |length: &&usize| {
            tokens += **length;
            tokens <= TOKENS
        };
        let texts = lengths.iter().take_while(fits).count().max(1);
        let tokens: usize = lengths[..texts].iter().sum();
        parts.push((&lengths[..texts], &states[..tokens * hidden]));
        (lengths, states) = (&lengths[texts..], &states[tokens * hidden..]);
    }
    parts
}
