#!/usr/bin/env python3
"""Writes a llama model of random f16 weights, for measuring speed alone.

usage: generate_model.py TOKENIZER.gguf OUT.gguf

About 0.38 B parameters, too many for most caches, in dimensions that are
multiples of 256 so that every weight format fits. The tokenizer is that of
TOKENIZER.gguf. The same call writes the same bytes. Needs the package gguf.
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT = 1536, 12, 24, 8, 64, 4096, 4096


def copy_tokenizer(writer, path):
    """Copies all tokenizer keys and returns the number of tokens."""
    for name, field in GGUFReader(path).fields.items():
        if not name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        sub = field.types[1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
        if name == "tokenizer.ggml.tokens":
            tokens = len(field.data)
    return tokens


def add_hyperparameters(writer, tokens):
    writer.add_name("generated")
    writer.add_vocab_size(tokens)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def add_tensors(writer, tokens):
    rng = np.random.default_rng(1)

    def matrix(name, rows, cols):
        w = rng.standard_normal((rows, cols), dtype=np.float32) / np.float32(np.sqrt(cols))
        writer.add_tensor(name, w.astype(np.float16), raw_dtype=GGMLQuantizationType.F16)

    def ones(name):
        writer.add_tensor(name, np.ones(HIDDEN, dtype=np.float32))

    matrix("token_embd.weight", tokens, HIDDEN)  # also the head
    ones("output_norm.weight")
    for i in range(LAYERS):
        block = f"blk.{i}."
        ones(block + "attn_norm.weight")
        matrix(block + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        ones(block + "ffn_norm.weight")
        matrix(block + "ffn_gate.weight", FFN, HIDDEN)
        matrix(block + "ffn_up.weight", FFN, HIDDEN)
        matrix(block + "ffn_down.weight", HIDDEN, FFN)


def main():
    tokenizer, out = sys.argv[1:]
    writer = GGUFWriter(out, "llama")
    tokens = copy_tokenizer(writer, tokenizer)
    add_hyperparameters(writer, tokens)
    add_tensors(writer, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
