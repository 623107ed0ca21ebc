//! The WGSL of the kernels, written out for the sizes of a model; the products take theirs as they run, so that one
//! pipeline serves all of them. What a register tile holds is a variable of its own.
//!
//! Activations are rows of vec4, tokens end to end; a row's length is its width up to whole [`COLUMNS`].

use super::super::config::Activation;
use super::super::weights::Pooling;
use std::fmt::Write;

/// Rows of activations are filled up to a multiple of this.
const COLUMNS: usize = 16;

/// A width filled up to whole [`COLUMNS`].
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(COLUMNS)
}

/// Inputs of a linear map that share a scale in int8.
pub(super) const GROUP: usize = 32;

/// The largest value in int8, on a device where products do not have to fit 16 bits.
pub(super) const LEVELS: f32 = 127.0;

/// Tokens of a LayerNorm's workgroup.
pub(super) const NORM_TOKENS: usize = 8;

/// Lanes of a LayerNorm that share a token.
const NORM_LANES: usize = 8;

/// Invocations of an attention workgroup: blocks of queries.
pub(super) const BLOCKS: u32 = 16;

/// Invocations of a workgroup that pools a text, or maps its pooled state.
pub(super) const LANES: usize = 64;

/// How a matrix product is cut into invocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Four rows by four columns an invocation, for few rows.
    Small,
    /// Eight rows by eight columns an invocation.
    Wide,
    /// Eight rows by sixteen columns an invocation: for adapters in software, to which a load is dear.
    Broad,
    /// Tiles of 32 rows by 32 columns in shared memory, four rows by four columns an invocation.
    Shared,
    /// The same tiles in int8 on both sides, four products an instruction: inputs too are rounded, [`GROUP`] by [`GROUP`]. For
    /// int8 weights on devices that know [`Gpu::packs`](super::Gpu::packs).
    Packed,
}

impl Shape {
    /// Each of those that round nothing.
    pub const ALL: [Self; 4] = [Self::Small, Self::Wide, Self::Broad, Self::Shared];

    /// Rows and columns of a workgroup.
    pub(super) fn workgroup(self) -> (usize, usize) {
        let (rows, vectors) = self.tile();
        let (x, y) = self.invocations();
        (rows * y, 4 * vectors * x)
    }

    /// Rows and vectors of columns an invocation.
    fn tile(self) -> (usize, usize) {
        match self {
            Self::Small | Self::Shared | Self::Packed => (4, 1),
            Self::Wide => (8, 2),
            Self::Broad => (8, 4),
        }
    }

    /// Invocations of a workgroup along columns and rows.
    fn invocations(self) -> (usize, usize) {
        match self {
            Self::Small => (16, 4),
            Self::Wide => (16, 1),
            Self::Broad => (4, 1),
            Self::Shared | Self::Packed => (8, 8),
        }
    }
}

/// How the weights of products lie on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    /// Where every one of them is exact in f16, and the adapter reads that: half of what a product has to load.
    F16,
    /// With a scale for each [`GROUP`] inputs of an output.
    Int8,
}

impl Stored {
    /// As recorded on votes.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// What a product adds or applies at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The bias.
    Bias,
    /// The bias, then GELU.
    Gelu,
    /// The bias and a residual.
    Residual,
    /// The bias, then GELU by its approximation with tanh.
    GeluTanh,
}

/// The activations.
const GELU: &str = "
// x / 2 (1 + erf(x / sqrt 2)), absolute error below 3e-7: max(x, 0) less a rational function of |x|, as on the CPU.
fn gelu(x: vec4f) -> vec4f {
    let s = min(abs(x), vec4f(5.4));
    let above = ((((-0.00015244981 * s + 0.0038005563) * s - 0.038109705) * s + 0.19226742) * s - 0.4883807) * s + 0.5000072;
    let below = ((((((0.00074817357 * s - 0.0019567912) * s + 0.007248074) * s + 0.012291545) * s - 0.012113438) * s
        + 0.24031952) * s - 0.17861007) * s + 1.0;
    return max(x, vec4f(0.0)) - above * s / below;
}

// x / 2 (1 + tanh u) is x / (1 + e^-2u).
fn gelu_tanh(x: vec4f) -> vec4f {
    let u = -1.5957691 * (x + 0.044715 * x * x * x);
    return x / (vec4f(1.0) + exp(clamp(u, vec4f(-80.0), vec4f(80.0))));
}
";

/// The head of a product's code. Bindings: 0 input rows, 1 weights `[inputs][outputs]`, 2 residual rows, 3 output rows, 4
/// the bias (behind the scales `[groups][outputs]` in int8), 5 the vectors of an input row, those of an output row, the
/// vector that the bias begins at, and the [`Ending`]. One pipeline serves all products of a model.
const PRODUCT: &str = "
@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> residual: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(4) var<storage, read> scales: array<vec4f>;
@group(0) @binding(5) var<uniform> sizes: vec4u;

fn put(at: u32, sum: vec4f) {
    if (sizes.w == 1u) {
        c[at] = gelu(sum);
    } else if (sizes.w == 2u) {
        c[at] = sum + residual[at];
    } else if (sizes.w == 3u) {
        c[at] = gelu_tanh(sum);
    } else {
        c[at] = sum;
    }
}
";

/// An input's weights of four columns as floats: a column's word has four inputs.
const UNPACK: &str = "
fn unpack(columns: vec4u, input: u32) -> vec4f {
    return vec4f(vec4i(columns << vec4u(24u - 8u * input)) >> vec4u(24u));
}
";

const COMPONENTS: [&str; 4] = ["x", "y", "z", "w"];

/// The code of the products of a shape.
pub(super) fn product(shape: Shape, stored: Stored) -> String {
    let enable = if stored == Stored::F16 { "enable f16;" } else { "" };
    let mut code = format!("{enable}{GELU}{PRODUCT}");
    let weights = match stored {
        Stored::F32 => "vec4f",
        Stored::F16 => "vec4<f16>",
        Stored::Int8 => "vec4u",
    };
    line(&mut code, format!("@group(0) @binding(1) var<storage, read> w: array<{weights}>;"));
    let int8 = stored == Stored::Int8;
    if int8 {
        code += UNPACK;
    }
    match shape {
        Shape::Shared => shared(&mut code, int8),
        Shape::Packed => packed(&mut code),
        _ => registers(&mut code, shape, int8),
    }
    code
}

/// An invocation's tile in registers, without shared memory.
fn registers(code: &mut String, shape: Shape, int8: bool) {
    let ((rows, vectors), (x, y)) = (shape.tile(), shape.invocations());
    line(
        code,
        format!(
            "@compute @workgroup_size({x}, {y})
            fn main(@builtin(global_invocation_id) id: vec3u) {{
            let K = sizes.x;
            let N = sizes.y;
            let column = id.x * {vectors}u;
            let row = id.y * {rows}u;
            if (column >= N) {{ return; }}"
        ),
    );
    for v in 0..vectors {
        line(code, format!("let bias{v} = scales[sizes.z + column + {v}u];"));
        (0..rows).for_each(|r| line(code, format!("var c{r}_{v} = bias{v};")));
    }
    if int8 {
        // The sums of a group are scaled before they are added.
        let group = GROUP / 4;
        line(code, format!("for (var g = 0u; g * {group}u < K; g++) {{"));
        for v in 0..vectors {
            (0..rows).for_each(|r| line(code, format!("var s{r}_{v} = vec4f(0.0);")));
        }
        line(code, format!("for (var k = g * {group}u; k < min(K, (g + 1u) * {group}u); k++) {{"));
        for v in 0..vectors {
            line(code, format!("let w{v} = w[k * N + column + {v}u];"));
            (0..4).for_each(|i| line(code, format!("let b{i}_{v} = unpack(w{v}, {i}u);")));
        }
        step(code, rows, vectors, "s");
        line(code, "}");
        for v in 0..vectors {
            line(code, format!("let scale{v} = scales[g * N + column + {v}u];"));
            (0..rows).for_each(|r| line(code, format!("c{r}_{v} += s{r}_{v} * scale{v};")));
        }
        line(code, "}");
    } else {
        line(code, "for (var k = 0u; k < K; k++) {");
        for i in 0..4 {
            for v in 0..vectors {
                line(code, format!("let b{i}_{v} = vec4f(w[(k * 4u + {i}u) * N + column + {v}u]);"));
            }
        }
        step(code, rows, vectors, "c");
        line(code, "}");
    }
    store(code, rows, vectors);
    line(code, "}");
}

/// Adds the products of four inputs: sums are written once for four of them, since some compilers keep variables in memory.
fn step(code: &mut String, rows: usize, vectors: usize, sum: &str) {
    for r in 0..rows {
        line(code, format!("let a{r} = a[(row + {r}u) * K + k];"));
        for v in 0..vectors {
            let products: Vec<String> = (0..4).map(|i| format!("a{r}.{} * b{i}_{v}", COMPONENTS[i])).collect();
            line(code, format!("{sum}{r}_{v} = {sum}{r}_{v} + {};", products.join(" + ")));
        }
    }
}

/// The tail of a kernel whose sums stand in `c<row>_<vector>`. Many are put by a loop, since each place where code stores
/// takes a compiler for an adapter in software two milliseconds.
fn store(code: &mut String, rows: usize, vectors: usize) {
    let sums = (0..rows).flat_map(|r| (0..vectors).map(move |v| (r, v)));
    if rows * vectors <= 16 {
        sums.for_each(|(r, v)| line(code, format!("put((row + {r}u) * N + column + {v}u, c{r}_{v});")));
        return;
    }
    line(code, format!("var sums: array<vec4f, {}>;", rows * vectors));
    sums.for_each(|(r, v)| line(code, format!("sums[{}] = c{r}_{v};", r * vectors + v)));
    line(
        code,
        format!(
            "for (var i = 0u; i < {}u; i++) {{ put((row + i / {vectors}u) * N + column + i % {vectors}u, sums[i]); }}",
            rows * vectors
        ),
    );
}

/// The head of a kernel of tiles of 32 rows by 32 columns: where an invocation stands, and what its sums start from.
const TILE: &str = "
@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
    let K = sizes.x;
    let N = sizes.y;
    let column = group.x * 8u + local.x;
    let row = group.y * 32u + local.y * 4u;
    let inside = column < N;
    let lane = local.y * 8u + local.x;
    var c0_0 = scales[sizes.z + min(column, N - 1u)];
    var c1_0 = c0_0;
    var c2_0 = c0_0;
    var c3_0 = c0_0;
";

/// A step takes 16 inputs: 32 rows of four vectors, and 16 rows of eight vectors of weights.
fn shared(code: &mut String, int8: bool) {
    let weight = match int8 {
        true => format!("unpack(w[(input / 4u) * N + column], input % 4u) * scales[(input / {GROUP}u) * N + column]"),
        false => "vec4f(w[input * N + column])".to_owned(),
    };
    line(
        code,
        format!(
            "var<workgroup> left: array<vec4f, 128>;
            var<workgroup> right: array<vec4f, 128>;
            {TILE}
            for (var k = 0u; k < K; k += 4u) {{
            for (var i = lane; i < 128u; i += 64u) {{
            left[i] = a[(group.y * 32u + i / 4u) * K + k + i % 4u];
            }}
            for (var i = local.y; i < 16u; i += 8u) {{
            let input = k * 4u + i;
            var b = vec4f(0.0);
            if (inside) {{ b = {weight}; }}
            right[i * 8u + local.x] = b;
            }}
            workgroupBarrier();
            for (var i = 0u; i < 4u; i++) {{"
        ),
    );
    for i in 0..4 {
        line(code, format!("let b{i} = right[(i * 4u + {i}u) * 8u + local.x];"));
    }
    for r in 0..4 {
        line(code, format!("let a{r} = left[(local.y * 4u + {r}u) * 4u + i];"));
        line(code, format!("c{r}_0 += a{r}.x * b0 + a{r}.y * b1 + a{r}.z * b2 + a{r}.w * b3;"));
    }
    line(code, "}\nworkgroupBarrier();\n}\nif (inside) {");
    store(code, 4, 1);
    line(code, "}\n}");
}

/// A step takes [`GROUP`] inputs: words of 32 rows, and of eight vectors of columns. Two lanes round a row.
fn packed(code: &mut String) {
    line(
        code,
        format!(
            "var<workgroup> left: array<u32, 256>;
            var<workgroup> right: array<vec4u, 64>;
            var<workgroup> units: array<f32, 32>;
            {TILE}
            let own = lane / 2u;
            let begin = (group.y * 32u + own) * K;
            let half = (lane % 2u) * 4u;
            for (var g = 0u; g * {words}u < K; g++) {{
            let first = g * {words}u;
            var most = vec4f(0.0);
            for (var k = first; k < min(K, first + {words}u); k++) {{ most = max(most, abs(a[begin + k])); }}
            let largest = max(max(most.x, most.y), max(most.z, most.w));
            let inverse = select(0.0, {LEVELS:?} / largest, largest > 1e-30);
            for (var i = half; i < half + 4u; i++) {{
            var word = 0u;
            if (first + i < K) {{ word = pack4xI8(vec4i(round(a[begin + first + i] * inverse))); }}
            left[own * {words}u + i] = word;
            }}
            if (half == 0u) {{ units[own] = largest / {LEVELS:?}; }}
            var b = vec4u(0u);
            if (inside && first + local.y < K) {{ b = w[(first + local.y) * N + column]; }}
            right[lane] = b;
            workgroupBarrier();
            var s0 = vec4i(0);
            var s1 = s0;
            var s2 = s0;
            var s3 = s0;
            for (var i = 0u; i < {words}u; i++) {{
            let b = right[i * 8u + local.x];",
            words = GROUP / 4
        ),
    );
    for r in 0..4 {
        let products = COMPONENTS.map(|lane| format!("dot4I8Packed(a{r}, b.{lane})")).join(", ");
        line(code, format!("let a{r} = left[(local.y * 4u + {r}u) * {}u + i];", GROUP / 4));
        line(code, format!("s{r} += vec4i({products});"));
    }
    line(code, "}\nlet scale = scales[g * N + min(column, N - 1u)];");
    (0..4).for_each(|r| line(code, format!("c{r}_0 += vec4f(s{r}) * (units[local.y * 4u + {r}u] * scale);")));
    line(code, "workgroupBarrier();\n}\nif (inside) {");
    store(code, 4, 1);
    line(code, "}\n}");
}

/// Attention of a block of queries of one text, one head an invocation: key after key, with a running maximum (online
/// softmax, arXiv 1805.02867).
pub(super) struct Attention {
    /// Width of a token's state.
    pub hidden: usize,
    /// Heads.
    pub heads: usize,
    /// The longest text of a model with a relative bias, `2 * longest - 1` values a head; none where there is none.
    pub relative: Option<usize>,
}

impl Attention {
    /// Queries of an invocation: as many as leave registers for others.
    pub(super) fn queries(&self) -> usize {
        if self.hidden / self.heads > 32 { 1 } else { 2 }
    }

    /// Bindings: 0 rows of queries, keys and values, 1 [`super::layout_of`], 2 result rows, 3 the relative bias.
    pub(super) fn wgsl(&self) -> String {
        let (size, queries) = (self.hidden / self.heads / 4, self.queries());
        let mut code = format!(
            "@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
             @group(0) @binding(1) var<storage, read> texts: array<vec4u>;
             @group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
             @group(0) @binding(3) var<storage, read> distances: array<f32>;
             const ROW = {}u;
             const OUT = {}u;
             const HIDDEN = {}u;
             @compute @workgroup_size({BLOCKS})
             fn main(@builtin(global_invocation_id) id: vec3u) {{
             let count = texts[0].x;
             if (id.x >= texts[0].y) {{ return; }}
             let block = texts[1u + count + id.x];
             let first = block.x;
             let length = block.y;
             let query = block.z;
             let head = id.y * {size}u;\n",
            padded(3 * self.hidden) / 4,
            padded(self.hidden) / 4,
            self.hidden / 4
        );
        let (scale, all) = (1.0 / (4.0 * size as f32).sqrt(), queries * size);
        // Queries beyond the text repeat its last one and are not stored. Loops load and store, as in the products.
        line(
            &mut code,
            format!(
                "var rows: array<vec4f, {all}>;
                for (var i = 0u; i < {all}u; i++) {{
                let at = first + min(query + i / {size}u, length - 1u);
                rows[i] = qkv[at * ROW + head + i % {size}u] * {scale:?};
                }}"
            ),
        );
        for q in 0..queries {
            line(&mut code, format!("var m{q} = -1e30; var l{q} = 0.0;"));
            for i in 0..size {
                line(&mut code, format!("let q{q}_{i} = rows[{}]; var o{q}_{i} = vec4f(0.0);", q * size + i));
            }
        }
        line(&mut code, "for (var j = 0u; j < length; j++) {");
        line(&mut code, "let key = (first + j) * ROW + HIDDEN + head;");
        for i in 0..size {
            line(&mut code, format!("let k{i} = qkv[key + {i}u];"));
        }
        for q in 0..queries {
            let dots: Vec<String> = (0..size).map(|i| format!("dot(q{q}_{i}, k{i})")).collect();
            let relative = self.relative.map_or(String::new(), |longest| {
                let (values, center) = (2 * longest - 1, longest - 1);
                format!(" + distances[id.y * {values}u + {center}u + j - min(query + {q}u, length - 1u)]")
            });
            line(
                &mut code,
                format!(
                    "let s{q} = {}{relative};
                    let n{q} = max(m{q}, s{q});
                    let f{q} = exp(m{q} - n{q});
                    let p{q} = exp(s{q} - n{q});
                    m{q} = n{q};
                    l{q} = l{q} * f{q} + p{q};",
                    dots.join(" + ")
                ),
            );
        }
        for i in 0..size {
            line(&mut code, format!("let v{i} = qkv[key + HIDDEN + {i}u];"));
            for q in 0..queries {
                line(&mut code, format!("o{q}_{i} = o{q}_{i} * f{q} + p{q} * v{i};"));
            }
        }
        line(&mut code, "}");
        for (q, i) in (0..queries).flat_map(|q| (0..size).map(move |i| (q, i))) {
            line(&mut code, format!("rows[{}] = o{q}_{i} / l{q};", q * size + i));
        }
        line(
            &mut code,
            format!(
                "for (var i = 0u; i < {all}u; i++) {{
                let at = query + i / {size}u;
                if (at < length) {{ out[(first + at) * OUT + head + i % {size}u] = rows[i]; }}
                }}"
            ),
        );
        line(&mut code, "}");
        code
    }
}

/// An affine LayerNorm of rows, in place. Bindings: 0 the rows, 1 gamma, then beta.
pub(super) fn layer_norm(hidden: usize, epsilon: f32) -> String {
    let (vectors, row) = (hidden / 4, padded(hidden) / 4);
    format!(
        "@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
        @group(0) @binding(1) var<storage, read> affine: array<vec4f>;
        var<workgroup> partial: array<f32, {}>;
        fn total(lane: u32, token: u32, value: f32) -> f32 {{
            workgroupBarrier();
            partial[token * {NORM_LANES}u + lane] = value;
            workgroupBarrier();
            var sum = 0.0;
            for (var i = 0u; i < {NORM_LANES}u; i++) {{ sum += partial[token * {NORM_LANES}u + i]; }}
            return sum;
        }}
        fn sum(v: vec4f) -> f32 {{ return (v.x + v.y) + (v.z + v.w); }}
        @compute @workgroup_size({NORM_LANES}, {NORM_TOKENS})
        fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_id) local: vec3u) {{
            let base = id.y * {row}u;
            var s = vec4f(0.0);
            for (var i = local.x; i < {vectors}u; i += {NORM_LANES}u) {{ s += x[base + i]; }}
            let mean = total(local.x, local.y, sum(s)) / {hidden}.0;
            s = vec4f(0.0);
            for (var i = local.x; i < {vectors}u; i += {NORM_LANES}u) {{ let d = x[base + i] - mean; s += d * d; }}
            let scale = 1.0 / sqrt(total(local.x, local.y, sum(s)) / {hidden}.0 + {epsilon:?});
            for (var i = local.x; i < {vectors}u; i += {NORM_LANES}u) {{
                x[base + i] = (x[base + i] - mean) * scale * affine[i] + affine[{row}u + i];
            }}
        }}",
        NORM_LANES * NORM_TOKENS
    )
}

/// A text's pooled state, a vector an invocation. Bindings: 0 rows, 1 [`super::layout_of`], 2 the pooled states.
pub(super) fn pool(hidden: usize, pooling: Pooling) -> String {
    let (vectors, row) = (hidden / 4, padded(hidden) / 4);
    let tokens = if pooling == Pooling::Mean { "text.y" } else { "1u" };
    format!(
        "@group(0) @binding(0) var<storage, read> x: array<vec4f>;
        @group(0) @binding(1) var<storage, read> texts: array<vec4u>;
        @group(0) @binding(2) var<storage, read_write> pooled: array<vec4f>;
        @compute @workgroup_size({LANES})
        fn main(@builtin(global_invocation_id) id: vec3u) {{
            if (id.x >= {vectors}u) {{ return; }}
            let text = texts[1u + id.y];
            var sum = vec4f(0.0);
            for (var t = 0u; t < {tokens}; t++) {{ sum += x[(text.x + t) * {row}u + id.x]; }}
            pooled[id.y * {vectors}u + id.x] = sum / f32({tokens});
        }}"
    )
}

/// A linear map of texts' states with what follows it, an output an invocation. Bindings: 0 the states, 1 the weights by
/// output, then the bias of each in a vector of its own, 2 the outputs.
pub(super) fn map(inputs: usize, outputs: usize, activation: Option<Activation>) -> String {
    let vectors = inputs / 4;
    let value = match activation {
        None => "sum",
        Some(Activation::Gelu) => "gelu(vec4f(sum)).x",
        Some(Activation::GeluTanh) => "gelu_tanh(vec4f(sum)).x",
        Some(Activation::Tanh) => "tanh(clamp(sum, -20.0, 20.0))",
        Some(Activation::Relu) => "max(sum, 0.0)",
    };
    format!(
        "{GELU}
        @group(0) @binding(0) var<storage, read> x: array<vec4f>;
        @group(0) @binding(1) var<storage, read> w: array<vec4f>;
        @group(0) @binding(2) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size({LANES})
        fn main(@builtin(global_invocation_id) id: vec3u) {{
            if (id.x >= {outputs}u) {{ return; }}
            var sum = w[{}u + id.x].x;
            for (var i = 0u; i < {vectors}u; i++) {{ sum += dot(w[id.x * {vectors}u + i], x[id.y * {vectors}u + i]); }}
            y[id.y * {outputs}u + id.x] = {value};
        }}",
        outputs * vectors
    )
}

fn line(code: &mut String, text: impl AsRef<str>) {
    // Writing to a string cannot fail.
    let _ = writeln!(code, "{}", text.as_ref());
}
