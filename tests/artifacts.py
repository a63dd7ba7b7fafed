"""Small artifacts for tests: a tiny embedder, routers trained on synthetic outcomes, forgeries."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from router.artifact import _dump, _identity, load_artifact, save_artifact
from training.distill import write_static_folder
from training.pipeline import TrainResult, train
from training.search import Objective
from training.synthetic import make_world, sample
from training.table import OutcomeTable

DIMENSION = 16
_N_WORDS = 400

# Texts that a router must survive; each is one query.
HARD_QUERIES = (
    "",
    " \t\n",
    "hello",
    "🙂 family: 👨‍👩‍👧‍👦 flag: 🇪🇸 ✓",
    "ما الفرق بين العملية والخيط؟ \u202eabc\u202c مرحبا",
    "愛と学校 한국어 หนึ่ง हिन्दी",
    "\ud83d lone \udfff surrogates \ud83d\ude00",
    "control \x00\x01\x07\x1b[31m \x7f \x85 \u2028",
    "word " * 100_000,
    "x" * 1_000_000,
    "a" * 40 + "\u0301" * 4000,
    "{'tier': 'nano'} [[tiers]] ${x} %s {} \\ \" '",
)


def sample_table(n: int = 240, seed: int = 3, **options: Any) -> OutcomeTable:
    """Full feedback of three priced tiers, with tokens."""
    return sample(make_world(**options), n, seed).table


def tiny_embedder(folder: Path, texts: Sequence[str], *, seed: int = 0) -> Path:
    """A StaticEmbedding folder: the commonest words of the texts, letters, and random rows."""
    words = Counter(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    known = dict.fromkeys(["[UNK]", *letters, *(f"##{x}" for x in letters)])
    known.update(dict.fromkeys(word for word, _ in words.most_common(_N_WORDS)))
    ids = {token: row for row, token in enumerate(known)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    table = np.random.default_rng(seed).standard_normal((len(ids), DIMENSION))
    write_static_folder(folder, tokenizer.to_str(), table.astype(np.float16), {})
    return folder


def train_tiny(
    table: OutcomeTable, out: Path, embedder: Path, *, estimator: str = "logistic", **options: Any
) -> TrainResult:
    """Train on a table without MLflow; half a second."""
    return train(table, out, embedder=embedder, estimator=estimator, track=False, **options)


def make_small_artifact(folder: Path) -> Path:
    """A router trained on 600 synthetic requests, in a folder within ``folder``."""
    table = sample_table(600)
    embedder = tiny_embedder(folder / "embedder", list(table.query))
    train_tiny(table, folder / "router", embedder, objective=Objective(margin=-0.2))
    return folder / "router"


def resave(
    source: Path,
    target: Path,
    *,
    manifest: Callable[[dict[str, Any]], object] | None = None,
    arrays: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Save an artifact anew with other content: its digests and its id are right."""
    artifact = load_artifact(source)
    changed = json.loads(json.dumps(artifact.manifest))
    if manifest is not None:
        manifest(changed)
    kept = {name: a for name, a in artifact.arrays.items() if name not in without}
    save_artifact(
        target, changed, {**kept, **(arrays or {})}, {**artifact.embedder_files, **(files or {})}
    )
    return target


def forge(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose manifest says something else and has the id that belongs to it."""
    shutil.copytree(source, target)
    path = target / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["artifact_id"] = _identity(manifest)
    path.write_text(_dump(manifest))
    return target
