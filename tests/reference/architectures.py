"""Writes the reference values of tests/architectures.rs: tiny classifiers with random weights of every architecture that is
served, as `transformers` saves them, and their logits, computed by it in f64.

    pip install -r requirements-architectures.txt
    python architectures.py                  # writes architectures/ and architectures.json beside this file
    python architectures.py --full FOLDER    # writes the six models of the paper at full size with random weights, see
                                             # examples/full_size.rs
"""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")

import torch
from transformers import (
    AlbertConfig, AutoModelForSequenceClassification, BertConfig, DebertaV2Config, DistilBertConfig, ElectraConfig,
    ModernBertConfig, MPNetConfig, RobertaConfig, XLMRobertaConfig,
)  # fmt: skip

HERE = Path(__file__).resolve().parent
LABELS = {0: "negative", 1: "neutral", 2: "positive"}
VOCABULARY = 120
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=52,
    max_position_embeddings=48,
)  # fmt: skip
ROBERTA = SIZES | dict(max_position_embeddings=50, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
MODERN = SIZES | dict(
    num_hidden_layers=4, local_attention=8, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
    sep_token_id=3, reference_compile=False,
)  # fmt: skip

MODELS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**ROBERTA),
    "xlm-roberta": XLMRobertaConfig(**ROBERTA, num_labels=3),
    # BERTweet is a RoBERTa; this one says of each label by itself whether it holds.
    "bertweet": RobertaConfig(**ROBERTA, problem_type="multi_label_classification"),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=52, max_position_embeddings=48
    ),
    "electra": ElectraConfig(**SIZES, embedding_size=20),
    "electra-wide": ElectraConfig(**SIZES, embedding_size=32, hidden_act="gelu_new"),
    "mpnet": MPNetConfig(**SIZES | dict(max_position_embeddings=50, layer_norm_eps=1e-5, pad_token_id=1)),
    "albert": AlbertConfig(**SIZES | dict(num_hidden_layers=3), embedding_size=20),
    "albert-groups": AlbertConfig(**SIZES | dict(num_hidden_layers=3), embedding_size=32, num_hidden_groups=2),
    "deberta-v2": DebertaV2Config(
        **SIZES, relative_attention=True, max_relative_positions=10, pos_att_type=["c2p", "p2c"],
        share_att_key=False, position_biased_input=True, conv_kernel_size=3, conv_act="gelu", type_vocab_size=2,
    ),
    "deberta-v2-p2c": DebertaV2Config(
        **SIZES, relative_attention=True, max_relative_positions=12, pos_att_type=["p2c"], share_att_key=False,
        position_biased_input=False, norm_rel_ebd="layer_norm", conv_kernel_size=5, hidden_act="gelu_new",
    ),
    "deberta-v3": DebertaV2Config(
        **SIZES, relative_attention=True, max_relative_positions=-1, position_buckets=8, pos_att_type="p2c|c2p",
        share_att_key=True, position_biased_input=False, norm_rel_ebd="layer_norm",
    ),
    "modernbert": ModernBertConfig(**MODERN),
    "modernbert-mean": ModernBertConfig(
        **MODERN, classifier_pooling="mean", global_attn_every_n_layers=2, attention_bias=True, mlp_bias=True,
        norm_bias=True, classifier_bias=True, local_rope_theta=None, global_rope_theta=1000.0,
    ),
}  # fmt: skip

# Sizes as published in each model's config.json on the hub.
BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
PAPER = {
    "cardiffnlp/twitter-roberta-base-sentiment-latest": RobertaConfig(
        **BASE, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=3
    ),
    "cardiffnlp/twitter-xlm-roberta-base-sentiment": XLMRobertaConfig(
        **BASE, vocab_size=250002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=3
    ),
    "finiteautomata/bertweet-base-sentiment-analysis": RobertaConfig(
        **BASE, vocab_size=64001, max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=3
    ),
    "s-nlp/roberta_toxicity_classifier": RobertaConfig(
        **BASE, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=2
    ),
    "JungleLee/bert-toxic-comment-classification": BertConfig(
        **BASE, vocab_size=30522, max_position_embeddings=512, type_vocab_size=2, layer_norm_eps=1e-12, num_labels=2
    ),
    "garak-llm/toxic-comment-model": DistilBertConfig(
        vocab_size=30522, dim=768, n_layers=6, n_heads=12, hidden_dim=3072, max_position_embeddings=512, num_labels=2
    ),
}  # fmt: skip


def scale(model, generator):
    """Weights large enough that a mistake anywhere shows in the logits; no two norms or biases are alike."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name.lower() and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embeddings" in name or "relative_attention_bias" in name:
            value = noise
        else:
            value = 1.5 * noise / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)


def logits(model, texts):
    rows = []
    for ids in texts:
        ids = torch.tensor([ids])
        with torch.no_grad():
            rows.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0])
    return [[float(f"{v:.8g}") for v in row.tolist()] for row in rows]


def tiny():
    shutil.rmtree(HERE / "architectures", ignore_errors=True)
    cases = []
    for seed, (name, config) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(seed + 1)
        config.id2label, config.label2id = LABELS, {v: k for k, v in LABELS.items()}
        config._attn_implementation = "eager"
        model = AutoModelForSequenceClassification.from_config(config).eval()
        scale(model, generator)
        # Stored in half precision; the values are those of what is stored.
        model = model.half()
        model.save_pretrained(HERE / "architectures" / name)
        longest = config.max_position_embeddings - (2 if config.pad_token_id == 1 else 0)
        lengths = [1, 2, 3, 6, 11, 19, 33, longest]
        texts = [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
        cases.append({
            "model": name, "longest": longest, "sigmoid": config.problem_type == "multi_label_classification",
            "texts": texts, "logits": logits(model.double(), texts),
        })
    text = json.dumps({"labels": list(LABELS.values()), "cases": cases}, separators=(",", ":"))
    (HERE / "architectures.json").write_text(text + "\n")


def full(folder):
    for name, config in PAPER.items():
        torch.manual_seed(7)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        place = folder / name.replace("/", "--")
        model.save_pretrained(place)
        texts = [torch.randint(4, config.vocab_size, (n,)).tolist() for n in [5, 24, 100]]
        (place / "logits.json").write_text(json.dumps({"texts": texts, "logits": logits(model, texts)}) + "\n")
        print(name)


if sys.argv[1:2] == ["--full"]:
    full(Path(sys.argv[2]))
else:
    tiny()
