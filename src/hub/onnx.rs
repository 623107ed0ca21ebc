//! The weights of a BERT encoder out of an ONNX file.
//!
//! An exporter keeps a parameter's name where the graph uses it as it is (embeddings, biases, norms), and calls a matrix
//! that it transposed `onnx::MatMul_<n>`. Whose it is, the graph says: `MatMul(x, onnx::MatMul_n)` feeds an `Add` whose
//! other input is the bias.

use crate::slm::SlmError;
use crate::slm::weights::TensorSource;
use prost::Message;
use std::collections::HashMap;

/// `ModelProto`, the fields that are needed (numbers from the ONNX specification).
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

/// A name that every encoder has.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// The f32 initialisers of an ONNX file under the hub's names.
pub struct OnnxSource {
    file: String,
    tensors: HashMap<String, TensorProto>,
    /// The hub's name of a weight to the initialiser that holds it transposed.
    transposed: HashMap<String, String>,
}

impl OnnxSource {
    /// Reads an ONNX file; `file` names it in errors.
    pub fn new(bytes: &[u8], file: &str) -> Result<Self, SlmError> {
        let fail = |problem: String| SlmError::File { file: file.to_owned(), problem };
        let model =
            ModelProto::decode(bytes).map_err(|e| fail(format!("not a valid ONNX file ({e}); download it again")))?;
        let graph = model.graph.ok_or_else(|| fail("an ONNX file without a graph; download it again".to_owned()))?;
        // An exporter puts the module's path (`model.0.auto_model.`) before the hub's names.
        let prefix =
            graph.initializer.iter().find_map(|tensor| tensor.name.strip_suffix(WORDS)).unwrap_or("").to_owned();
        let hub_name = |name: &str| name.strip_prefix(&prefix).unwrap_or(name).to_owned();
        let transposed =
            transposed_weights(&graph.node).into_iter().map(|(name, matrix)| (hub_name(&name), matrix)).collect();
        let tensors = graph.initializer.into_iter().map(|tensor| (hub_name(&tensor.name), tensor)).collect();
        Ok(Self { file: file.to_owned(), tensors, transposed })
    }

    fn read(&self, tensor: &TensorProto) -> Result<(Vec<usize>, Vec<f32>), SlmError> {
        let fail = |problem: String| {
            Err(SlmError::File { file: self.file.clone(), problem: format!("initialiser '{}' {problem}", tensor.name) })
        };
        if tensor.data_type != FLOAT {
            return fail(format!("has data type {}, expected {FLOAT} (f32)", tensor.data_type));
        }
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let size = shape.as_ref().and_then(|shape| shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim)));
        let (Some(shape), Some(size)) = (shape, size) else {
            return fail(format!("has shape {:?}", tensor.dims));
        };
        let values = match tensor.raw_data.is_empty() {
            true => tensor.float_data.clone(),
            false => tensor.raw_data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        };
        if values.len() != size || !tensor.raw_data.len().is_multiple_of(4) {
            return fail(format!("holds {} values, its shape {shape:?} asks for {size}", values.len()));
        }
        Ok((shape, values))
    }
}

impl TensorSource for OnnxSource {
    fn file(&self) -> &str {
        &self.file
    }

    fn tensor(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>, SlmError> {
        if let Some(tensor) = self.tensors.get(name) {
            return self.read(tensor).map(Some);
        }
        let Some(tensor) = self.transposed.get(name).and_then(|initialiser| self.tensors.get(initialiser)) else {
            return Ok(None);
        };
        let (shape, values) = self.read(tensor)?;
        let [inputs, outputs] = shape[..] else { return Ok(Some((shape, values))) };
        let turned = (0..outputs).flat_map(|o| (0..inputs).map(move |i| (i, o))).map(|(i, o)| values[i * outputs + o]);
        Ok(Some((vec![outputs, inputs], turned.collect())))
    }
}

/// For every `Add` of a `<stem>.bias` to a `MatMul`, the entry `<stem>.weight` -> the product's matrix.
fn transposed_weights(nodes: &[NodeProto]) -> HashMap<String, String> {
    let products: HashMap<&str, &str> = nodes
        .iter()
        .filter(|node| node.op_type == "MatMul")
        .filter_map(|node| Some((node.output.first()?.as_str(), node.input.get(1)?.as_str())))
        .collect();
    let pairs = nodes.iter().filter(|node| node.op_type == "Add").filter_map(|node| {
        let [a, b] = &node.input[..] else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(bias, product)| {
            let stem = bias.strip_suffix(".bias")?;
            let matrix = products.get(product.as_str())?;
            Some((format!("{stem}.weight"), (*matrix).to_owned()))
        })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorProto { dims: dims.to_vec(), data_type: FLOAT, float_data: Vec::new(), name: name.into(), raw_data }
    }

    fn node(op: &str, input: [&str; 2], output: &str) -> NodeProto {
        NodeProto { input: input.map(String::from).to_vec(), output: vec![output.into()], op_type: op.into() }
    }

    fn model() -> ModelProto {
        let graph = GraphProto {
            node: vec![
                node("MatMul", ["x", "onnx::MatMul_7"], "m"),
                node("Add", ["m.0.a.query.bias", "m"], "y"),
                node("MatMul", ["x", "onnx::MatMul_8"], "n"),
                node("Add", ["n", "m.0.a.key.bias"], "z"),
            ],
            initializer: vec![
                tensor("onnx::MatMul_7", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
                tensor("onnx::MatMul_8", &[1, 1], &[9.0]),
                tensor("m.0.embeddings.word_embeddings.weight", &[1], &[0.0]),
                tensor("m.0.a.query.bias", &[3], &[0.1, 0.2, 0.3]),
                tensor("short", &[4], &[0.0]),
                tensor("wild", &[i64::MAX, i64::MAX], &[0.0]),
                tensor("negative", &[-1], &[0.0]),
            ],
        };
        ModelProto { graph: Some(graph) }
    }

    #[test]
    fn a_matrix_is_found_by_its_bias_and_transposed() {
        let source = OnnxSource::new(&model().encode_to_vec(), "m.onnx").expect("sound");
        let (shape, values) = source.tensor("a.query.weight").expect("sound").expect("there");
        assert_eq!((shape, values), (vec![3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        assert_eq!(source.tensor("a.key.weight").expect("sound"), Some((vec![1, 1], vec![9.0])));
        assert_eq!(source.tensor("a.query.bias").expect("sound"), Some((vec![3], vec![0.1, 0.2, 0.3])));
        assert_eq!(source.tensor("a.value.weight").expect("sound"), None);
    }

    #[test]
    fn wild_shapes_are_errors_that_name_the_tensor() {
        let source = OnnxSource::new(&model().encode_to_vec(), "m.onnx").expect("sound");
        for name in ["short", "wild", "negative"] {
            let error = source.tensor(name).expect_err(name).to_string();
            assert!(error.contains("m.onnx") && error.contains(name), "{error}");
        }
        assert!(OnnxSource::new(b"", "empty").is_err());
        // A graph that claims to be 2^60 bytes long.
        assert!(OnnxSource::new(&[0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 1], "long").is_err());
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_read_but_never_a_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let good = model().encode_to_vec();
            let mut bad = good.clone();
            let index = at.index(bad.len());
            bad[index] = byte;
            bad.truncate(cut.index(bad.len()) + 1);
            if let Ok(source) = OnnxSource::new(&bad, "x") {
                for name in ["a.query.weight", "a.key.weight", "a.query.bias", "wild"] {
                    let _ = source.tensor(name);
                }
            }
        }
    }
}
