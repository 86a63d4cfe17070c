#!/usr/bin/env python3
"""Writes low-rank adapters of the reference models, and what the framework says of them.

usage: generate.py FIXTURES OUT

FIXTURES is a folder of reference data (models/NAME with config.json and
model.safetensors). For each adapter OUT gets a folder as PEFT saves it
(adapter_config.json, adapter_model.safetensors), the same adapter as a GGUF file with
the rows of queries and keys ordered as GGUF models of the architecture have them
(adapter.gguf), and golden.json: for prompts of the model's own golden the logits of
the last position in float32, with the adapter applied ("last_logits") and with it
merged into the weights ("merged_logits"), the greedy ids and the gaps between the two
largest logits. All weights are random; the same call writes the same values.

Needs torch, transformers, peft, safetensors and gguf.
"""
import base64
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from gguf import GGUFWriter
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GREEDY = 8
ADAPTERS = {
    "llama-a": dict(model="llama", rank=4, alpha=8, targets=LLAMA),
    "llama-b": dict(model="llama", rank=3, alpha=5, targets=["q_proj", "v_proj", "down_proj"], rslora=True),
    "qwen2": dict(model="qwen2", rank=4, alpha=8, targets=LLAMA),
    "phi3": dict(model="phi3", rank=4, alpha=8, targets=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "gemma2": dict(model="gemma2", rank=4, alpha=8, targets=LLAMA),
    "mixtral": dict(model="mixtral", rank=4, alpha=8, targets=["q_proj", "k_proj", "v_proj", "o_proj"]),
}
MODULES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
}
ARCH = {"mixtral": "llama"}


def tensor(values):
    a = np.ascontiguousarray(values, dtype="<f4")
    return {"dtype": "f32", "shape": list(a.shape), "b64": base64.b64encode(a.tobytes()).decode()}


def last_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].float().numpy()


def greedy(model, ids):
    ids, out, gaps = list(ids), [], []
    for _ in range(GREEDY):
        logits = last_logits(model, ids)
        first, second = np.sort(logits)[::-1][:2]
        out.append(int(np.argmax(logits)))
        gaps.append(float(first - second))
        ids.append(out[-1])
    return out, gaps


def permuted(b, heads):
    """The order of rows in GGUF files: rotated pairs are neighbours."""
    return b.reshape(heads, 2, b.shape[0] // heads // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def write_gguf(path, folder, spec, config):
    arch = ARCH.get(spec["model"], spec["model"])
    writer = GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    rank = spec["rank"]
    alpha = spec["alpha"] * (rank**0.5 if spec.get("rslora") else 1)
    writer.add_float32("adapter.lora.alpha", float(alpha))
    for name, value in sorted(load_file(folder / "adapter_model.safetensors").items()):
        layer, rest = name.split(".layers.")[1].split(".", 1)
        module, which = rest.rsplit(".lora_", 1)
        value = value.float().numpy()
        if arch == "llama" and which[0] == "B" and module.endswith(("q_proj", "k_proj")):
            value = permuted(value, config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads)
        writer.add_tensor(f"blk.{layer}.{MODULES[module]}.weight.lora_{which[0].lower()}", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    fixtures, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.set_num_threads(1)
    for number, (name, spec) in enumerate(ADAPTERS.items()):
        base = fixtures / "models" / spec["model"]
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        config = model.config
        peft = get_peft_model(model, LoraConfig(
            r=spec["rank"], lora_alpha=spec["alpha"], target_modules=spec["targets"], use_rslora=spec.get("rslora", False), task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(100 + number)
        for key, p in sorted(peft.named_parameters()):
            if "lora_" in key:  # about as large as a training leaves them; halves hold the values
                value = torch.randn(p.shape, generator=generator) / p.shape[1] ** 0.5 * 0.3
                p.data = value.half().float()
        peft.eval()
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        peft.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        saved = json.loads((folder / "adapter_config.json").read_text())
        saved["base_model_name_or_path"] = spec["model"]
        saved["target_modules"] = sorted(saved["target_modules"])
        (folder / "adapter_config.json").write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n")
        write_gguf(folder / "adapter.gguf", folder, spec, config)
        prompts = []
        for p in json.loads((base / "golden.json").read_text())["prompts"]:
            ids, gaps = greedy(peft, p["ids"])
            prompts.append({"ids": p["ids"], "last_logits": tensor(last_logits(peft, p["ids"])), "greedy": ids, "greedy_top2_gap": gaps})
        merged = peft.merge_and_unload()
        for p in prompts:
            p["merged_logits"] = tensor(last_logits(merged, p["ids"]))
        golden = {"model": spec["model"], "prompts": prompts}
        (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
        print(name, "ok")


if __name__ == "__main__":
    main()
