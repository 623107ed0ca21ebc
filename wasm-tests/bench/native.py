"""`make bench-native`: our native engine against onnxruntime, on 1 and 2 threads.

Prints a table and, last, one line of JSON: geometric means over SLMs and shapes on one thread, above 1 is faster. Both
sides get the same tokens and take turns; onnxruntime counts with the fastest of its graphs (see export.py), inputs bound
before the clock runs.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

import export

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoannotator"
SHAPES = [(1, 32), (1, 128), (8, 32), (8, 128)]
GRAPHS = {"f32": ["model", "model_fused"], "int8": list(export.QUANTIZED)}
SLMS = "sentiment-minilm-l3,sentiment-minilm-l6,sentiment-mpnet"


class Ours:
    """The bench's process of our engine (examples/bench_native.rs)."""

    def __init__(self, binary, home, manifest, threads):
        folder = home / "packed" / manifest["id"] / manifest["version"]
        files = [folder / manifest["tokenizer"]["name"]] + [folder / shard["name"] for shard in manifest["shards"]]
        command = [binary, str(threads), *map(str, files)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("bench_native ended; its error stands above")
        return json.loads(answer)

    def run(self, texts, times):
        answer = self.ask({"texts": texts, "times": times})
        return answer["seconds"], np.array(answer["logits"], np.float32)


class Peer:
    """A session of onnxruntime, its inputs and outputs bound."""

    def __init__(self, path, threads, pad):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.pad = pad
        self.bound = (None, None)

    def bind(self, texts):
        length = max(map(len, texts))
        ids = np.array([text + [self.pad] * (length - len(text)) for text in texts], np.int64)
        mask = np.array([[1] * len(text) + [0] * (length - len(text)) for text in texts], np.int64)
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        binding = self.session.io_binding()
        for wanted in self.session.get_inputs():
            binding.bind_ortvalue_input(wanted.name, onnxruntime.OrtValue.ortvalue_from_numpy(values[wanted.name]))
        binding.bind_output("logits")
        return binding

    def run(self, texts, times):
        if self.bound[0] is not texts:
            self.bound = (texts, self.bind(texts))
        binding = self.bound[1]
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            self.session.run_with_iobinding(binding)
            seconds.append(time.perf_counter() - start)
        time.sleep(0.02)  # its threads spin on for a while
        return statistics.median_high(seconds), binding.copy_outputs_to_cpu()[0].ravel()


def shape(ids, batch, tokens):
    """`batch` texts of `tokens` tokens each, cut from the real ones joined: no two are alike."""
    stream = [token for text in ids for token in text[1:-1]]
    inner = tokens - 2
    return [ids[0][:1] + stream[at * inner : (at + 1) * inner] + ids[0][-1:] for at in range(batch)]


def agree(engines, ids, slm):
    """Checks that both sides are the same model in f32. Gives the q8 graphs that are not worse than the published one, by
    more than chance on these few texts: a graph that is fast and wrong is no peer."""
    step = max(1, len(ids) // 200)
    shares = {}
    logits = {name: np.concatenate([engine.run([text], 1)[1][None] for text in ids[::step]]) for name, engine in engines.items()}
    reference = logits["f32"]
    for name, found in logits.items():
        share, apart = (found.argmax(1) == reference.argmax(1)).mean(), np.abs(found - reference).max()
        print(f"{slm}: {name}: {100 * share:.1f} % of {len(found)} labels as f32, logits within {apart:.1e}", file=sys.stderr)
        if name in GRAPHS["f32"] and (share < 1 or apart > 1e-3):
            sys.exit(f"{slm}: {name} does not agree with our f32: it is not the same model")
        shares[name] = share
    return [name for name in GRAPHS["int8"] if shares[name] >= shares["model_quantized"] - 0.01]


def clock(engines, texts, args):
    """Median seconds of each engine, in turns."""
    repeats, times = {}, {name: [] for name in engines}
    for name, engine in engines.items():
        engine.run(texts, 2)
        repeats[name] = max(1, round(0.05 / engine.run(texts, 1)[0]))
    start = time.perf_counter()
    for turn in range(args.rounds):
        if turn >= 3 and time.perf_counter() - start > args.budget:
            break
        for name in engines if turn % 2 else reversed(list(engines)):
            times[name].append(engines[name].run(texts, repeats[name])[0])
    return {name: statistics.median(values) for name, values in times.items()}


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_home = Path(os.environ.get("AUTOANNOTATOR_HOME") or CACHE)
    shared = Path(os.environ.get("AUTOANNOTATOR_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--quick", action="store_true", help="for development: the smallest SLM, few rounds")
    parser.add_argument("--slms", help=f"ids of SLMs, comma-separated [default: {SLMS}]")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, comma-separated [default: 1,2]")
    parser.add_argument("--rounds", type=int, help="rounds of each shape [default: 30]")
    parser.add_argument("--budget", type=float, default=40, help="seconds after which a shape gets no more rounds [default: 40]")
    parser.add_argument("--texts", type=Path, default=shared / "data/sent_tweet_extraction_test.csv", help="csv with a column 'text'")
    parser.add_argument("--home", type=Path, default=default_home, help="the folder that `autoannotator pack` wrote to")
    parser.add_argument("--binary", required=True, help="the built example bench_native")
    args = parser.parse_args()
    args.slms = (args.slms or ("sentiment-minilm-l3" if args.quick else SLMS)).split(",")
    args.rounds = args.rounds or (5 if args.quick else 30)
    return args


def mean(values):
    return round(math.exp(statistics.mean(map(math.log, values))), 3) if values else None


def main():
    args = options()
    if not args.texts.is_file():
        sys.exit(f"{args.texts} is missing; set AUTOANNOTATOR_SHARED, or give a csv with --texts")
    texts = [row["text"] for row in csv.DictReader(args.texts.open(encoding="utf-8", newline=""))][:500]
    index = json.loads((args.home / "packed/index.json").read_text())["slms"]
    onnx = CACHE / "bench/onnx"
    export.export_all(args.slms, args.home, onnx)
    ratios = {}
    print(f"{'Milliseconds a batch':28}" + "".join(f"{name:>14}" for name in ("f32", "ort f32", "int8", "ort best q8", "ort publ. q8")))
    for slm in args.slms:
        manifests = {("int8" if m["precision"] == "int8" else "f32"): m for m in index if m["id"] == slm}
        pad = 1 if "mpnet" in slm else 0
        for threads in map(int, args.threads.split(",")):
            engines = {name: Ours(args.binary, args.home, manifest, threads) for name, manifest in manifests.items()}
            ids = [engines["f32"].ask({"text": text})["ids"] for text in texts]
            engines |= {name: Peer(onnx / slm / "onnx" / f"{name}.onnx", threads, pad) for names in GRAPHS.values() for name in names}
            graphs = {"f32": GRAPHS["f32"], "int8": agree(engines, ids, slm)}
            for batch, tokens in SHAPES:
                found = clock(engines, shape(ids, batch, tokens), args)
                best = {precision: min(found[name] for name in names) for precision, names in graphs.items()}
                for precision in manifests:
                    ratios.setdefault((precision, threads), []).append(best[precision] / found[precision])
                cells = [found["f32"], best["f32"], found.get("int8"), best["int8"], found["model_quantized"]]
                row = f"{slm.removeprefix('sentiment-')} {batch} x {tokens}, {threads} thread{'s' if threads > 1 else ''}"
                print(f"{row:28}" + "".join(f"{1000 * cell:14.2f}" if cell else f"{'-':>14}" for cell in cells), flush=True)
    for (precision, threads), values in sorted(ratios.items()):
        print(f"{precision} against onnxruntime, threads {threads}: {mean(values)}")
    print(json.dumps({"native_f32_vs_ort": mean(ratios.get(("f32", 1))), "native_int8_vs_ort_q8": mean(ratios.get(("int8", 1)))}))


if __name__ == "__main__":
    main()
