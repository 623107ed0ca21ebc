//! What is made once: buffers, pipelines, bind groups.

use super::super::config::{Activation, EncoderConfig};
use super::super::cpu::distances;
use super::super::quant::{Int8Matrix, level};
use super::super::weights::{Dense, Head, LayerWeights, Linear, Norm};
use super::shader::{self, Attention, Ending, GROUP, LEVELS, Shape, Stored, padded};
use super::{Gpu, TOKENS};
use std::sync::{Arc, OnceLock};

/// Dispatches of a layer.
pub(super) const LAYER_STEPS: usize = 7;

/// A dispatch.
#[derive(Clone)]
pub(super) struct Step {
    pub kernel: Kernel,
    pub bindings: wgpu::BindGroup,
}

/// What a dispatch runs.
#[derive(Clone)]
pub(super) enum Kernel {
    /// With its number of outputs, filled up.
    Product(Arc<Products>, usize),
    Attention(wgpu::ComputePipeline),
    Norm(wgpu::ComputePipeline),
    /// With its number of outputs a text.
    Text(wgpu::ComputePipeline, usize),
}

/// The pipelines of the products, made as they are first used.
pub(super) struct Products {
    stored: Stored,
    layout: wgpu::BindGroupLayout,
    pipelines: [OnceLock<wgpu::ComputePipeline>; Shape::ALL.len() + 1],
}

impl Products {
    fn new(gpu: &Gpu, stored: Stored) -> Self {
        Self { stored, layout: layout(gpu, "rrrwru"), pipelines: Default::default() }
    }

    pub(super) fn pipeline(&self, gpu: &Gpu, shape: Shape) -> &wgpu::ComputePipeline {
        let make = || pipeline(gpu, &format!("product {shape:?}"), &self.layout, shader::product(shape, self.stored));
        self.pipelines[shape as usize].get_or_init(make)
    }
}

/// A matrix that the device can take.
pub(super) trait Matrix: Sized {
    /// How weights of a model lie on a device that may read f16.
    fn stored(layers: &[LayerWeights<Self>], f16: bool) -> Stored;

    /// The map's weights `[outputs x inputs]`, as they act on plain inputs.
    fn plain(map: Linear<Self>) -> Vec<f32>;
}

impl Matrix for Vec<f32> {
    fn stored(layers: &[LayerWeights], f16: bool) -> Stored {
        let exact = |value: &f32| half::f16::from_f32(*value).to_f32() == *value;
        let exact = |map: &Linear| map.weight.iter().all(exact);
        if f16 && layers.iter().flat_map(LayerWeights::linears).all(exact) { Stored::F16 } else { Stored::F32 }
    }

    fn plain(map: Linear) -> Vec<f32> {
        map.weight
    }
}

impl Matrix for Int8Matrix {
    fn stored(_: &[LayerWeights<Self>], _: bool) -> Stored {
        Stored::Int8
    }

    fn plain(map: Linear<Self>) -> Vec<f32> {
        map.weight.plain(map.inputs)
    }
}

/// Makes everything that stays.
pub(super) struct Loader<'a> {
    gpu: &'a Gpu,
    config: &'a EncoderConfig,
    head: &'a Head,
    pub attention: Attention,
    pub states: wgpu::Buffer,
    pub texts: wgpu::Buffer,
    pub logits: wgpu::Buffer,
    pub pooled: wgpu::Buffer,
    distances: wgpu::Buffer,
}

/// Where a product takes its inputs and puts its outputs.
struct Flow<'a> {
    from: &'a wgpu::Buffer,
    to: &'a wgpu::Buffer,
    residual: Option<&'a wgpu::Buffer>,
    ending: Ending,
}

impl<'a> Loader<'a> {
    pub(super) fn new(gpu: &'a Gpu, config: &'a EncoderConfig, head: &'a Head, relative: &[f32]) -> Self {
        let attention = Attention {
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            relative: (!relative.is_empty()).then(|| config.max_length()),
        };
        // BERT has none, and a binding of some size is needed all the same.
        let mut distances = distances(config, relative, 0).concat();
        distances.resize(distances.len().max(1), 0.0);
        let copied = wgpu::BufferUsages::COPY_DST;
        Self {
            states: storage(gpu, "states", TOKENS * padded(config.hidden_size), copied),
            texts: storage(gpu, "texts", 4 * (1 + 2 * TOKENS), copied),
            logits: storage(gpu, "logits", TOKENS * head.linear.outputs, wgpu::BufferUsages::COPY_SRC),
            pooled: storage(gpu, "pooled", TOKENS * config.hidden_size, wgpu::BufferUsages::COPY_SRC),
            distances: floats(gpu, "relative bias", &distances),
            gpu,
            config,
            head,
            attention,
        }
    }

    /// The dispatches of a forward: [`LAYER_STEPS`] a layer, one for pooling, and one for each map of the head.
    pub(super) fn steps<M: Matrix>(&self, layers: Vec<LayerWeights<M>>, stored: Stored) -> Vec<Step> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let rows = |label, width| storage(self.gpu, label, TOKENS * padded(width), wgpu::BufferUsages::empty());
        let qkv = rows("query, key, value", 3 * hidden);
        let (context, attended, lifted) = (rows("context", hidden), rows("attended", hidden), rows("inner", inner));
        let products = Arc::new(Products::new(self.gpu, stored));
        let (attend, norm) = (self.attend(&qkv, &context), self.norm());
        let x = &self.states;
        let gelu = match self.config.activation {
            Activation::GeluTanh => Ending::GeluTanh,
            _ => Ending::Gelu,
        };
        let mut distinct = Vec::new();
        for layer in layers {
            let mut steps = Vec::new();
            let LayerWeights { query, key, value, output, attention_norm, up, down, output_norm } = layer;
            let map =
                |maps, from, to, ending, residual| self.product(&products, maps, Flow { from, to, residual, ending });
            steps.push(map(vec![query, key, value], x, &qkv, Ending::Bias, None));
            steps.push(Step { kernel: Kernel::Attention(attend.0.clone()), bindings: attend.1.clone() });
            steps.push(map(vec![output], &context, &attended, Ending::Residual, Some(x)));
            steps.push(self.norm_of(&norm, &attention_norm, &attended));
            steps.push(map(vec![up], &attended, &lifted, gelu, None));
            steps.push(map(vec![down], &lifted, x, Ending::Residual, Some(&attended)));
            steps.push(self.norm_of(&norm, &output_norm, x));
            distinct.push(steps);
        }
        // ALBERT uses a layer's weights several times.
        let order = (0..self.config.num_hidden_layers).filter_map(|layer| distinct.get(self.config.weights_of(layer)));
        let mut steps: Vec<Step> = order.flatten().cloned().collect();
        steps.extend(self.head());
        steps
    }

    /// A linear map, or several of the same inputs side by side.
    fn product<M: Matrix>(&self, products: &Arc<Products>, maps: Vec<Linear<M>>, flow: Flow<'_>) -> Step {
        let width = maps.first().map_or(0, |map| map.inputs);
        let (inputs, outputs) = (padded(width), padded(maps.iter().map(|map| map.outputs).sum()));
        let mut bias: Vec<f32> = maps.iter().flat_map(|map| &map.bias).copied().collect();
        bias.resize(outputs, 0.0);
        let rows: Vec<f32> = maps.into_iter().flat_map(M::plain).collect();
        let (weights, mut scales) = match products.stored {
            Stored::Int8 => int8_columns(&rows, width, inputs, outputs),
            Stored::F16 => {
                let columns = columns(&rows, width, inputs, outputs);
                (columns.iter().flat_map(|value| half::f16::from_f32(*value).to_ne_bytes()).collect(), Vec::new())
            }
            Stored::F32 => (bytemuck::pod_collect_to_vec(&columns(&rows, width, inputs, outputs)), Vec::new()),
        };
        let weights = bytes(self.gpu, "weights", &weights);
        let sizes = [inputs / 4, outputs / 4, scales.len() / 4, flow.ending as usize];
        scales.extend(bias);
        let scales = floats(self.gpu, "scales and bias", &scales);
        let sizes = uniform(self.gpu, sizes);
        let buffers = [flow.from, &weights, flow.residual.unwrap_or(&weights), flow.to, &scales, &sizes];
        Step {
            bindings: bind(self.gpu, &products.layout, buffers),
            kernel: Kernel::Product(Arc::clone(products), outputs),
        }
    }

    fn attend(&self, qkv: &wgpu::Buffer, context: &wgpu::Buffer) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
        let layout = layout(self.gpu, "rrwr");
        let bindings = bind(self.gpu, &layout, [qkv, &self.texts, context, &self.distances]);
        (pipeline(self.gpu, "attention", &layout, self.attention.wgsl()), bindings)
    }

    fn norm(&self) -> (wgpu::ComputePipeline, wgpu::BindGroupLayout) {
        let layout = layout(self.gpu, "wr");
        let hidden = self.config.hidden_size;
        let code = shader::layer_norm(hidden, self.config.layer_norm_eps);
        (pipeline(self.gpu, "layer norm", &layout, code), layout)
    }

    fn norm_of(
        &self,
        (pipeline, layout): &(wgpu::ComputePipeline, wgpu::BindGroupLayout),
        norm: &Norm,
        rows: &wgpu::Buffer,
    ) -> Step {
        let mut affine = norm.gamma.clone();
        affine.resize(padded(affine.len()), 0.0);
        affine.extend(&norm.beta);
        affine.resize(2 * padded(norm.beta.len()), 0.0);
        let affine = floats(self.gpu, "affine", &affine);
        Step { bindings: bind(self.gpu, layout, [rows, &affine]), kernel: Kernel::Norm(pipeline.clone()) }
    }

    /// Pooling, and the head's maps.
    fn head(&self) -> Vec<Step> {
        let hidden = self.config.hidden_size;
        let Head { pooling, dense, linear, .. } = self.head;
        let pool = shader::pool(hidden, *pooling);
        let mut steps = vec![self.of_texts(("pool", pool, hidden / 4), [&self.states, &self.texts, &self.pooled])];
        match dense {
            None => steps.push(self.map(linear, None, [&self.pooled, &self.logits])),
            Some(Dense { linear: first, activation, .. }) => {
                let lifted = storage(self.gpu, "lifted", TOKENS * hidden, wgpu::BufferUsages::empty());
                steps.push(self.map(first, Some(*activation), [&self.pooled, &lifted]));
                steps.push(self.map(linear, None, [&lifted, &self.logits]));
            }
        }
        steps
    }

    fn map(&self, map: &Linear, activation: Option<Activation>, [from, to]: [&wgpu::Buffer; 2]) -> Step {
        let mut values = map.weight.clone();
        values.extend(map.bias.iter().flat_map(|bias| [*bias, 0.0, 0.0, 0.0]));
        let values = floats(self.gpu, "head", &values);
        let code = shader::map(map.inputs, map.outputs, activation);
        self.of_texts(("head", code, map.outputs), [from, &values, to])
    }

    /// A step with so many outputs a text.
    fn of_texts(&self, (label, code, outputs): (&str, String, usize), buffers: [&wgpu::Buffer; 3]) -> Step {
        let layout = layout(self.gpu, "rrw");
        let kernel = Kernel::Text(pipeline(self.gpu, label, &layout, code), outputs);
        Step { bindings: bind(self.gpu, &layout, buffers), kernel }
    }
}

/// Rows of `width` values as the columns of `[inputs x outputs]`, filled up with zeros.
fn columns(rows: &[f32], width: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    let mut columns = vec![0.0; inputs * outputs];
    // Some rows at a time, so that what is written lies together.
    for (block, rows) in rows.chunks(16 * width).enumerate() {
        for input in 0..width {
            let target = columns[input * outputs + 16 * block..].iter_mut();
            target.zip(rows.chunks_exact(width)).for_each(|(target, row)| *target = row[input]);
        }
    }
    columns
}

/// As [`columns`], in int8, four inputs of an output side by side, with the scales `[groups x outputs]`.
fn int8_columns(rows: &[f32], width: usize, inputs: usize, outputs: usize) -> (Vec<u8>, Vec<f32>) {
    let mut values = vec![0; inputs * outputs];
    let mut scales = vec![0.0; inputs.div_ceil(GROUP) * outputs];
    for (output, row) in rows.chunks_exact(width).enumerate() {
        for (group, row) in row.chunks(GROUP).enumerate() {
            // So few inputs share a scale that one below what fits the largest would gain nothing.
            let scale = row.iter().fold(0.0f32, |most, x| most.max(x.abs())) / LEVELS;
            scales[group * outputs + output] = scale;
            for (place, x) in row.iter().enumerate() {
                let word = (group * GROUP + place) / 4 * outputs + output;
                values[4 * word + place % 4] = (level(*x, scale, LEVELS) as i8).cast_unsigned();
            }
        }
    }
    (values, scales)
}

fn storage(gpu: &Gpu, label: &str, values: usize, more: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: (values * size_of::<f32>()) as u64,
        usage: wgpu::BufferUsages::STORAGE | more,
        mapped_at_creation: false,
    })
}

/// A buffer with these contents. It is not mapped to be filled: where there is no room for that, a browser would throw and not
/// tell the error scope.
fn filled(gpu: &Gpu, label: &str, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: contents.len() as u64,
        usage: usage | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue.write_buffer(&buffer, 0, contents);
    // Natively what is written waits for a submit in a copy: not that of all weights at once.
    gpu.queue.submit([]);
    buffer
}

fn bytes(gpu: &Gpu, label: &str, contents: &[u8]) -> wgpu::Buffer {
    filled(gpu, label, contents, wgpu::BufferUsages::STORAGE)
}

fn floats(gpu: &Gpu, label: &str, values: &[f32]) -> wgpu::Buffer {
    bytes(gpu, label, bytemuck::cast_slice(values))
}

fn uniform(gpu: &Gpu, values: [usize; 4]) -> wgpu::Buffer {
    let contents: Vec<u8> = bytemuck::pod_collect_to_vec(&values.map(|value| value as u32));
    filled(gpu, "sizes", &contents, wgpu::BufferUsages::UNIFORM)
}

/// A layout of buffers: `r` for a storage buffer that is read, `w` for one that is written too, `u` for a uniform.
fn layout(gpu: &Gpu, kinds: &str) -> wgpu::BindGroupLayout {
    let entry = |(binding, kind)| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match kind {
                'u' => wgpu::BufferBindingType::Uniform,
                kind => wgpu::BufferBindingType::Storage { read_only: kind == 'r' },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = kinds.chars().enumerate().map(entry).collect();
    gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

fn bind<'b>(
    gpu: &Gpu,
    layout: &wgpu::BindGroupLayout,
    buffers: impl IntoIterator<Item = &'b wgpu::Buffer>,
) -> wgpu::BindGroup {
    let entry = |(binding, buffer): (usize, &'b wgpu::Buffer)| wgpu::BindGroupEntry {
        binding: binding as u32,
        resource: buffer.as_entire_binding(),
    };
    let entries: Vec<_> = buffers.into_iter().enumerate().map(entry).collect();
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

fn pipeline(gpu: &Gpu, label: &str, layout: &wgpu::BindGroupLayout, code: String) -> wgpu::ComputePipeline {
    let source = wgpu::ShaderSource::Wgsl(code.into());
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(label), source });
    let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(label),
        bind_group_layouts: &[Some(layout)],
        immediate_size: 0,
    });
    gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(label),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}
