"""`make bench-train`: our trainer against PyTorch on the CPU, on 2 threads.

Both train the upper layers by LoRA (rank 16 on every linear map of a layer, with norms, biases and head; AdamW; dropout
0.1), on the same batches of 32 texts of similar length, in turns. PyTorch runs transformers' model as its users do: the
frozen layers are computed in every step, without gradients. Ours keeps their output. PyTorch's weights are random, which
changes nothing of its time. Prints a table and, last, one line of JSON: the ratio of steps per second, above 1 is faster.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

THREADS = 2
CASES = {
    "train_l6_vs_torch": ("all-MiniLM-L6-v2", 6, "bert", dict(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)),
    "train_mpnet_top2_vs_torch": ("all-mpnet-base-v2", 2, "mpnet", {}),
}


class Ours:
    """The bench's process of our trainer (examples/bench_train.rs)."""

    def __init__(self, binary, base, layers, batches):
        env = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
        command = [binary, base, str(layers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ask({"prepare": batches})

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("bench_train ended; its error stands above")
        return json.loads(answer)

    def run(self, steps):
        return self.ask({"steps": steps})["seconds"]


class Torch:
    """The peer."""

    def __init__(self, kind, layers, shape, batches):
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.torch = torch
        if kind == "bert":
            model = transformers.BertModel(transformers.BertConfig(num_attention_heads=12, **shape), add_pooling_layer=False)
        else:
            model = transformers.MPNetModel(transformers.MPNetConfig(vocab_size=30527), add_pooling_layer=False)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for layer in model.encoder.layer[-layers:]:
            adapt(torch, layer)
        self.head = torch.nn.Linear(model.config.hidden_size, 3)
        self.model = model.train()
        trained = [p for p in model.parameters() if p.requires_grad] + list(self.head.parameters())
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
        self.batches = [self.padded(batch) for batch in batches]
        self.step = 0

    def padded(self, batch):
        length = max(map(len, batch))
        ids = self.torch.tensor([text + [1] * (length - len(text)) for text in batch])
        mask = self.torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in batch])
        return ids, mask

    def run(self, steps):
        return statistics.median(self.one() for _ in range(steps))

    def one(self):
        start = time.perf_counter()
        ids, mask = self.batches[self.step % len(self.batches)]
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = (mask / mask.sum(1, keepdim=True)).unsqueeze(-1)
        logits = self.head((hidden * weights).sum(1))
        targets = self.torch.arange(len(ids)) % 3
        loss = self.torch.nn.functional.cross_entropy(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return time.perf_counter() - start


def adapt(torch, layer):
    """A low-rank pair on each linear map of a layer; norms and biases train as well."""

    class Lora(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear
            linear.bias.requires_grad_(True)
            self.a = torch.nn.Parameter(torch.randn(linear.in_features, 16) * 0.02)
            self.b = torch.nn.Parameter(torch.zeros(16, linear.out_features))

        def forward(self, x):
            return self.linear(x) + (x @ self.a) @ self.b * 2.0

    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(parent, name, Lora(child))
            elif isinstance(child, torch.nn.LayerNorm):
                for parameter in child.parameters():
                    parameter.requires_grad_(True)


def batches():
    """Batches of 32 texts of similar length, as a trainer forms them; lengths as of tweets."""
    chance = random.Random(0)
    return [
        [[chance.randrange(1000, 30000) for _ in range(middle + chance.randrange(-2, 3))] for _ in range(32)]
        for middle in (14, 20, 25, 30, 35, 44)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the built example bench_train")
    parser.add_argument("--rounds", type=int, default=5, help="turns each side takes [5]")
    args = parser.parse_args()
    data, result = batches(), {}
    for key, (base, layers, kind, shape) in CASES.items():
        sides = {"ours": Ours(args.binary, base, layers, data), "torch": Torch(kind, layers, shape, data)}
        seconds = {name: [] for name in sides}
        for turn in range(args.rounds + 1):
            for name, side in sides.items():
                found = side.run(len(data))
                # The first turn warms up.
                if turn > 0:
                    seconds[name].append(found)
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        result[key] = round(middle["torch"] / middle["ours"], 3)
        print(f"{base}, top {layers} layers: ours {middle['ours']:.3f} s a step, PyTorch {middle['torch']:.3f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
