"""The model that an adapter is trained on, and the adapter's files. Knows nothing of pairs, people or losses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from serve.artifacts.adapters import CONFIG, FILES
from serve.engines.feature_space import FeatureSpace
from serve.errors import ConfigurationError
from serve.jobs.adapt.pairs import Pair
from serve.jobs.adapt.training import Tokens
from serve.models import sha256_of


def load_model(path: str, device: str) -> tuple[Any, Any]:
    """Load a model and its tokenizer, in bfloat16 wherever that is fast: four times as fast on CPUs that multiply it.

    Raises:
        ConfigurationError: the tokenizer has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - seconds

    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.chat_template:
        raise ConfigurationError(f"The tokenizer in {path} has no chat template: answers cannot be laid out.")
    dtype = torch.bfloat16 if device != "cpu" or _multiplies_bfloat16() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
    return model.to(device), tokenizer


def layers_above(space: FeatureSpace, num_layers: int) -> list[int]:
    """Return the layers that an adapter may change: those above every layer that is read.

    So features of an adapted answer stay what they are of any other: the base model's reading of its text.

    Raises:
        ConfigurationError: none is left.
    """
    layers = list(range(max(*space.pooled_layers, space.steered_layer) + 1, num_layers))
    if not layers:
        raise ConfigurationError(
            f"Feature space {space.id} reads the model's last layer: an adapter would change what judges it."
        )
    return layers


def tokenized(tokenizer: Any, pairs: Sequence[Pair], max_tokens: int, max_prompt_tokens: int) -> list[Tokens]:
    """Tokenize pairs as the server lays conversations out; too long prompts and pairs of equal tokens are left out."""
    found = []
    for pair in pairs:
        messages = [{"role": role, "content": content} for role, content in pair.messages]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        chosen, rejected = (
            _ended(tokenizer, said.text, max_tokens, is_whole=said.is_whole) for said in (pair.chosen, pair.rejected)
        )
        if len(prompt) <= max_prompt_tokens and chosen and rejected and chosen != rejected:
            found.append(Tokens(prompt, chosen, rejected, pair.weight))
    return found


def save_adapter(tuned: Any, folder: Path, model_name: str) -> None:
    """Write a PEFT model's adapter: its two files, without this machine's paths; aside first, then renamed."""
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    tuned.save_pretrained(str(aside), safe_serialization=True, save_embedding_layers=False)
    for path in aside.iterdir():
        if path.name not in FILES:
            path.unlink()
    described = json.loads((aside / CONFIG).read_text()) | {"base_model_name_or_path": model_name}
    (aside / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def weights_digest(path: str) -> str:
    """Hash a model's weights, file by file in the order of their names; 2 s a gigabyte."""
    digest = hashlib.sha256()
    for file in sorted(Path(path).glob("*.safetensors")):
        digest.update(f"{file.name}:{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _ended(tokenizer: Any, text: str, max_tokens: int, *, is_whole: bool) -> tuple[int, ...]:
    """Tokenize an answer; one that ended by itself, within the limit, gets its end."""
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if is_whole and len(ids) < max_tokens and tokenizer.eos_token_id is not None:
        ids = (*ids, tokenizer.eos_token_id)
    return ids[:max_tokens]
