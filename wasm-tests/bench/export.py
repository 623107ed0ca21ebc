"""Packed SLMs as ONNX, for the peers of the benches: one folder an SLM in the layout of the Hugging Face hub.

`onnx/model.onnx` is the graph an exporter writes (transformers.js: dtype fp32) and `onnx/model_quantized.onnx` that graph
quantised as transformers.js' conversion script does (dtype q8). The others hold the same weights in onnxruntime's own
fused operators, or quantised otherwise: whatever is fastest counts for onnxruntime.
"""

import argparse
import hashlib
import json
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

OPSET = 17
CONTRIB = "com.microsoft"
LOWEST = float(np.finfo(np.float32).min)
# name -> (graph to start from, per channel, weight type); the first is the published one.
QUANTIZED = {
    "model_quantized": ("model", False, QuantType.QInt8),
    "model_quantized_channel": ("model", True, QuantType.QInt8),
    "model_fused_quantized": ("model_fused", False, QuantType.QInt8),
    "model_fused_quantized_channel": ("model_fused", True, QuantType.QInt8),
}


class Packed:
    """A packed SLM: its header and its tensors in f32."""

    def __init__(self, data):
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        self.meta = json.loads(header.pop("__metadata__")["autoannotator"])
        if self.meta["precision"] not in ("f16", "f32") or self.meta["pooling"] != "mean":
            raise ValueError(f"{self.meta['id']}: only f16 or f32 with mean pooling is exported")
        kinds = {"F16": np.float16, "F32": np.float32}
        self.tensors = {
            name: np.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], kinds[entry["dtype"]])
            .reshape(entry["shape"])
            .astype(np.float32)
            for name, entry in header.items()
        }


class Graph:
    """Nodes and initialisers in the making."""

    def __init__(self):
        self.nodes = []
        self.initialisers = {}

    def const(self, name, values):
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def op(self, kind, *inputs, domain="", outputs=None, **attributes):
        outputs = outputs or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, f"{kind}_{len(self.nodes)}", domain=domain, **attributes))
        return outputs[0]


class Encoder:
    """Writes an SLM as a graph, in standard operators or, `fused`, in onnxruntime's: attention with its projections
    (`True`), or alone (`heads`), which the WebGPU provider wants where there is a mask."""

    NAMES = {
        "bert": ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "attention.output.LayerNorm"),
        "mpnet": ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm"),
    }

    def __init__(self, packed, fused):
        self.packed, self.fused, self.graph = packed, fused, Graph()
        self.config = packed.meta["config"]
        self.bert = self.config["model_type"] == "bert"
        self.hidden, self.heads = self.config["hidden_size"], self.config["num_attention_heads"]

    def weight(self, name):
        return self.graph.const(name, self.packed.tensors[name])

    def ints(self, name, *values):
        return self.graph.const(name, np.array(values, np.int64))

    def scalar(self, name, value):
        return self.graph.const(name, np.array(value, np.float32))

    def matmul(self, x, name):
        return self.graph.op("MatMul", x, self.graph.const(f"{name}.transposed", self.packed.tensors[f"{name}.weight"].T))

    def linear(self, x, name):
        return self.graph.op("Add", self.weight(f"{name}.bias"), self.matmul(x, name))

    def norm(self, x, name):
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=self.config["layer_norm_eps"])

    def project(self, x, residual, name, norm):
        """A linear map, the residual and the norm behind it."""
        if not self.fused:
            return self.norm(self.graph.op("Add", self.linear(x, name), residual), norm)
        parts = [self.weight(f"{norm}.weight"), self.weight(f"{norm}.bias"), self.weight(f"{name}.bias")]
        epsilon = self.config["layer_norm_eps"]
        return self.graph.op("SkipLayerNormalization", self.matmul(x, name), residual, *parts, domain=CONTRIB, epsilon=epsilon)

    def embed(self):
        op = self.graph.op
        length = op("Gather", op("Shape", "input_ids"), self.ints("one", 1), axis=0)
        words = op("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        positions = self.packed.tensors["embeddings.position_embeddings.weight"]
        if self.bert:
            types = self.packed.tensors["embeddings.token_type_embeddings.weight"]
            if self.fused:
                positions = positions + types[0]
            else:
                words = op("Add", words, op("Gather", self.graph.const("embeddings.token_types", types), "token_type_ids"))
            ids = np.arange(len(positions), dtype=np.int64)[None]
        else:
            ids = np.arange(self.config["pad_token_id"] + 1, len(positions), dtype=np.int64)[None]
        ids = op("Slice", self.graph.const("positions", ids), self.ints("zero", 0), length, self.ints("one", 1))
        rows = op("Gather", self.graph.const("embeddings.positions", positions), ids)
        return self.norm(op("Add", words, rows), "embeddings.LayerNorm"), length

    def relative(self, length):
        """MPNet's bias by head, query and key, cut to the length of the batch."""
        if self.bert:
            return None
        longest, buckets = self.packed.meta["max_length"], self.config["relative_attention_num_buckets"]
        places = np.arange(longest)
        table = self.packed.tensors["encoder.relative_attention_bias.weight"][bucket(places[None] - places[:, None], buckets)]
        whole = self.graph.const("relative_bias", table.transpose(2, 0, 1)[None])
        both = self.graph.op("Concat", length, length, axis=0)
        return self.graph.op("Slice", whole, self.ints("zeros", 0, 0), both, self.ints("last_two", 2, 3))

    def mask(self, bias):
        op = self.graph.op
        if self.fused is True:
            return op("Cast", "attention_mask", to=TensorProto.INT32)
        wide = op("Unsqueeze", "attention_mask", self.ints("middle", 1, 2))
        away = op("Sub", self.scalar("one_f", 1), op("Cast", wide, to=TensorProto.FLOAT))
        added = op("Mul", away, self.scalar("lowest", LOWEST))
        if bias or not self.fused:
            return op("Add", bias, added) if bias else added
        # By query and key, though all queries have the same.
        length = op("Gather", op("Shape", "input_ids"), self.ints("one", 1), axis=0)
        one = self.ints("one", 1)
        return op("Expand", added, op("Concat", one, one, length, one, axis=0))

    def split(self, x, perm):
        heads = self.ints("heads", 0, 0, self.heads, self.hidden // self.heads)
        return self.graph.op("Transpose", self.graph.op("Reshape", x, heads), perm=perm)

    def attend(self, x, at, mask, bias):
        op = self.graph.op
        names = [f"{at}.{name}" for name in self.NAMES[self.config["model_type"]][:3]]
        if self.fused is True:
            tensors = self.packed.tensors
            weight = self.graph.const(f"{at}.qkv", np.concatenate([tensors[f"{name}.weight"].T for name in names], axis=1))
            shift = self.graph.const(f"{at}.qkv_bias", np.concatenate([tensors[f"{name}.bias"] for name in names]))
            inputs = [x, weight, shift, mask] + (["", bias] if bias else [])
            return op("Attention", *inputs, domain=CONTRIB, num_heads=self.heads)
        query, key, value = (self.linear(x, name) for name in names)
        if self.fused:
            return op("MultiHeadAttention", query, key, value, "", "", mask, domain=CONTRIB, num_heads=self.heads)
        scores = op("MatMul", self.split(query, [0, 2, 1, 3]), self.split(key, [0, 2, 3, 1]))
        scores = op("Div", scores, self.scalar("root", np.sqrt(self.hidden // self.heads)))
        weights = op("Softmax", op("Add", scores, mask), axis=-1)
        mixed = op("Transpose", op("MatMul", weights, self.split(value, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return op("Reshape", mixed, self.ints("joined", 0, 0, self.hidden))

    def gelu(self, x, name):
        op = self.graph.op
        if self.fused:
            return op("BiasGelu", self.matmul(x, name), self.weight(f"{name}.bias"), domain=CONTRIB)
        x = self.linear(x, name)
        erf = op("Erf", op("Div", x, self.scalar("root_two", np.sqrt(2))))
        return op("Mul", op("Mul", x, op("Add", erf, self.scalar("one_f", 1))), self.scalar("half", 0.5))

    def layer(self, x, index, mask, bias):
        at = f"encoder.layer.{index}"
        output, norm = (f"{at}.{name}" for name in self.NAMES[self.config["model_type"]][3:])
        x = self.project(self.attend(x, at, mask, bias), x, output, norm)
        inner = self.gelu(x, f"{at}.intermediate.dense")
        return self.project(inner, x, f"{at}.output.dense", f"{at}.output.LayerNorm")

    def pool(self, x):
        """The mean over the tokens of the mask."""
        op = self.graph.op
        mask = op("Cast", op("Unsqueeze", "attention_mask", self.ints("last", -1)), to=TensorProto.FLOAT)
        total = op("ReduceSum", op("Mul", x, mask), self.ints("one", 1), keepdims=0)
        return op("Div", total, op("ReduceSum", mask, self.ints("one", 1), keepdims=0))

    def model(self):
        x, length = self.embed()
        bias = self.relative(length)
        mask = self.mask(bias)
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(x, index, mask, bias)
        self.graph.op("Gemm", self.pool(x), self.weight("head.weight"), self.weight("head.bias"), outputs=["logits"], transB=1)
        inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if self.bert and not self.fused else [])
        graph = helper.make_graph(
            self.graph.nodes,
            self.packed.meta["id"],
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(self.packed.meta["labels"])])],
            list(self.graph.initialisers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(CONTRIB, 1)] if self.fused else [])
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def bucket(relative, buckets):
    """T5's buckets of relative positions, as MPNet uses them: one for each near distance, then logarithmic up to 128."""
    half = buckets // 2
    exact = half // 2
    distance = np.abs(relative)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.log(np.float32(128 / exact))
    far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return np.where(distance < exact, distance, far) + np.where(relative > 0, half, 0)


def hub_files(packed, tokenizer):
    """The small files that transformers.js wants beside the graph."""
    meta, bert = packed.meta, packed.meta["config"]["model_type"] == "bert"
    labels = dict(enumerate(meta["labels"]))
    config = meta["config"] | {
        "architectures": ["BertForSequenceClassification" if bert else "MPNetForSequenceClassification"],
        "id2label": labels,
        "label2id": {label: index for index, label in labels.items()},
        "problem_type": "single_label_classification",
    }
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if bert else ["<pad>", "[UNK]", "<s>", "</s>", "<mask>"]
    names = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    settings = dict(zip(names, special)) | {
        "tokenizer_class": "BertTokenizer" if bert else "MPNetTokenizer",
        "model_max_length": meta["max_length"],
        "do_lower_case": True,
    }
    dump = lambda value: json.dumps(value, ensure_ascii=False).encode()
    return {"config.json": dump(config), "tokenizer_config.json": dump(settings), "tokenizer.json": tokenizer}


def export(manifest, home, out):
    source, target = home / "packed" / manifest["id"] / manifest["version"], out / manifest["id"]
    stamp = hashlib.sha256(manifest["version"].encode() + Path(__file__).read_bytes()).hexdigest()
    if (target / ".stamp").is_file() and (target / ".stamp").read_text() == stamp:
        return
    print(f"{manifest['id']} {manifest['version']}: to ONNX", file=sys.stderr)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises shape inference, which changes nothing here
    packed = Packed(b"".join((source / shard["name"]).read_bytes() for shard in manifest["shards"]))
    (target / "onnx").mkdir(parents=True, exist_ok=True)
    for name, data in hub_files(packed, (source / manifest["tokenizer"]["name"]).read_bytes()).items():
        (target / name).write_bytes(data)
    path = lambda name: str(target / "onnx" / f"{name}.onnx")
    for name, fused in (("model", False), ("model_fused", True), ("model_heads", "heads")):
        model = Encoder(packed, fused).model()
        onnx.checker.check_model(model)
        onnx.save(model, path(name))
    for name, (graph, per_channel, kind) in QUANTIZED.items():
        options = {"EnableSubgraph": True, "MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(path(graph), path(name), per_channel=per_channel, weight_type=kind, extra_options=options)
    (target / ".stamp").write_text(stamp)


def export_all(slms, home, out):
    """Exports packed SLMs of these ids, those that have changed."""
    index = json.loads((home / "packed" / "index.json").read_text())["slms"]
    for slm in slms:
        found = [manifest for manifest in index if manifest["id"] == slm and manifest["precision"] in ("f16", "f32")]
        if not found:
            sys.exit(f"{slm} is not packed in f16 or f32 below {home}; run `autoannotator pack`")
        export(found[0], home, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slms", nargs="+", help="ids of packed SLMs")
    parser.add_argument("--home", type=Path, required=True, help="the folder that `autoannotator pack` wrote to")
    parser.add_argument("--out", type=Path, required=True, help="the folder for what is written")
    args = parser.parse_args()
    export_all(args.slms, args.home, args.out)


if __name__ == "__main__":
    main()
