"""Embedders: what users rely on, against sentence-transformers and against plain numpy."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from router import embedding, static_embedding, word_memory
from router.embedding import (
    SentenceTransformerEmbedder,
    StaticEmbedder,
    default_embedder_folder,
    embedder_spec,
    load_embedder,
    static_files,
)
from router.errors import EmbeddingError, MissingExtraError
from router.text import MAX_CHARACTERS, readable
from router.word_memory import unpacked
from tests.minilm import TEXTS, minilm_folder, static_folder, tiny_encoder, tiny_tokenizer
from training.distill import prune_tokenizer, usable_tokens, write_static_folder

# All of Unicode, lone surrogates included.
ANY_TEXT = st.text(st.characters())
WORDS_AND_MARKS = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\x0b\x1c\x85\xa0\u2028!?.,=$^`'aAzZ0_ñÉß愛ΣİÅ\u0338\u0301\u200d"),
        st.characters(),
    ),
    max_size=60,
)


@cache
def shipped() -> StaticEmbedder:
    return StaticEmbedder.load(static_folder())


@pytest.fixture
def tiny_static(tmp_path: Path) -> Path:
    """A static folder with a handful of tokens in four dimensions."""
    tokenizer = tiny_tokenizer()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    kept = usable_tokens(tokenizer)
    table = np.random.default_rng(0).normal(size=(len(kept) + 1, 4)).astype(np.float16)
    table[0] = 0
    write_static_folder(tmp_path / "tiny", prune_tokenizer(tokenizer, kept), table, {})
    return tmp_path / "tiny"


@cache
def parsed(folder: Path) -> tuple[Tokenizer, np.ndarray[Any, Any]]:
    table = safetensors.numpy.load_file(folder / "model.safetensors")["embedding.weight"]
    return Tokenizer.from_file(str(folder / "tokenizer.json")), table.astype(np.float32)


def by_hand(folder: Path, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Tokenize with tokenizers, mean of float32 rows, unit length: nothing clever."""
    tokenizer, table = parsed(folder)
    rows = []
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        row = table[encoding.ids].mean(axis=0) if encoding.ids else np.zeros(table.shape[1])
        rows.append(row / max(float(np.linalg.norm(row)), 1e-12))
    return np.array(rows, dtype=np.float32)


# --- the shipped static embedder ---------------------------------------------------------------


def test_same_vectors_as_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    texts = [*TEXTS, "", "   ", "x" * 200]
    model = SentenceTransformer(str(static_folder()), device="cpu").float()
    theirs = model.encode(texts, convert_to_numpy=True)
    ours = shipped().embed(texts)
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # The comparison would be empty if the vectors were.
    np.testing.assert_allclose(np.linalg.norm(ours[: len(TEXTS)], axis=1), 1.0, atol=1e-5)


def test_every_character_reads_as_the_tokenizer_reads_it() -> None:
    code_points = [c for c in range(0x11000) if not 0xD800 <= c < 0xE000]
    words = [f"x{chr(c)}y {chr(c)}" for c in code_points]
    texts = ["|".join(words[i : i + 16]) for i in range(0, len(words), 16)]
    np.testing.assert_allclose(shipped().embed(texts), by_hand(static_folder(), texts), atol=1e-5)


@given(WORDS_AND_MARKS.filter(lambda text: text == readable(text)))
def test_reading_word_by_word_is_exact(text: str) -> None:
    np.testing.assert_allclose(
        shipped().embed_one(text), by_hand(static_folder(), [text])[0], atol=1e-5
    )


@given(ANY_TEXT)
@example("\ud800")
@example("\x00\x01")
@example("\udcff\ud83d")
def test_any_text_gives_a_finite_unit_or_zero_vector(text: str) -> None:
    vector = shipped().embed_one(text)
    assert vector.shape == (256,) and vector.dtype == np.float32
    assert np.isfinite(vector).all()
    length = float(np.linalg.norm(vector))
    assert length == 0.0 or length == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(shipped().embed([text, "cat"])[0], vector, atol=1e-6)


@pytest.mark.parametrize("text", ["", " \t\n", "\x00\x07", "\u200b\u200f", "a" * 101, "\ud800"])
def test_nothing_to_read_gives_the_zero_vector(text: str) -> None:
    assert not shipped().embed_one(text).any()
    assert not shipped().embed([text]).any()


def test_surrogate_pairs_are_read_and_lone_ones_passed_over() -> None:
    pairs = "What does \ud83d\ude42 mean, naïve \ud835\udc00?"
    np.testing.assert_array_equal(
        shipped().embed_one(pairs), shipped().embed_one("What does 🙂 mean, naïve 𝐀?")
    )
    np.testing.assert_array_equal(
        shipped().embed_one("What \ud83dis this?\udc00"), shipped().embed_one("What is this?")
    )


def test_of_a_100_000_word_query_both_ends_are_read() -> None:
    words = [f"word{i % 977}" for i in range(100_000)]
    text = " ".join(words)
    vector = shipped().embed_one(text)
    assert len(readable(text)) == MAX_CHARACTERS + 1
    np.testing.assert_array_equal(vector, shipped().embed_one(text[:8000] + " " + text[-8000:]))
    middle = " ".join([*words[:40_000], "elephant", *words[40_000:]])
    np.testing.assert_array_equal(vector, shipped().embed_one(middle))
    for changed in ("elephant " + text, text + " elephant"):
        assert (vector != shipped().embed_one(changed)).any()


def test_all_is_read_up_to_the_limit() -> None:
    at_limit = "cat " * (MAX_CHARACTERS // 4)
    assert readable(at_limit) == at_limit
    assert readable("x" * (MAX_CHARACTERS + 1)) == "x" * 8000 + " " + "x" * 8000


def test_work_does_not_grow_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    embedder = StaticEmbedder.load(static_folder())
    split = embedder._split

    def counting(text: str) -> bytes:
        read.append(len(text))
        return split(text)

    monkeypatch.setattr(embedder, "_split", counting)
    embedder.embed_one("word " * 10**6)
    assert read == [MAX_CHARACTERS + 1]


def test_many_texts_give_the_rows_of_one_each() -> None:
    texts = [*TEXTS, "", "\ud800 cat"] * 3
    vectors = shipped().embed(texts)
    assert vectors.shape == (len(texts), 256)
    for row, text in zip(vectors, texts, strict=True):
        np.testing.assert_allclose(row, shipped().embed_one(text), atol=1e-6)
    assert shipped().embed([]).shape == (0, 256)


def test_similar_questions_are_close() -> None:
    question, same, other = shipped().embed(
        [
            "How do I reverse a list in Python?",
            "reversing a python list",
            "Translate this poem about the sea into Spanish.",
        ]
    )
    assert question @ same > question @ other + 0.2


def test_threads_share_one_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    # So few remembered words that threads keep clearing them under each other.
    monkeypatch.setattr(word_memory, "_MAX_PIECES", 5)
    embedder = StaticEmbedder.load(static_folder())
    texts = [f"{text} {i}" for i in range(40) for text in TEXTS[:7]]
    expected = by_hand(static_folder(), texts)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(embedder.embed_one, texts))
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


def test_words_are_remembered_with_the_tokenizers_ids() -> None:
    tokenizer = Tokenizer.from_file(str(static_folder() / "tokenizer.json"))
    memory = static_embedding._remembered(tokenizer, tokenizer.model, True)
    for text in (
        "Cats",
        "(cats,\tdogs)",
        "Geopoliticq7",
        "x" * 100,
        "x" * 101,
        "x" * 10_000,
        "naïve",
        "",
        "\n",
        "...",
    ):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        for _ in range(2):
            assert unpacked(memory.of(text)).tolist() == expected
    # A piece, and the words and marks in it, which other pieces may have too.
    assert {"(cats,\tdogs)", "(", "cats", ",", "dogs"} <= set(memory)


def test_vectors_are_the_same_one_by_one_and_together() -> None:
    """To the last bit: training reads many, serving one."""
    texts = [*TEXTS, "", "a  b\n\nc", "\ud800 cat"]
    np.testing.assert_array_equal(
        shipped().embed(texts), [shipped().embed_one(text) for text in texts]
    )


def test_the_shipped_folder_is_small_half_precision_and_without_unused_tokens() -> None:
    folder = static_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    table = safetensors.numpy.load_file(folder / "model.safetensors")["embedding.weight"]
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert table.dtype == np.float16
    assert table.shape == (len(settings["model"]["vocab"]), 256)
    assert not table[settings["model"]["vocab"]["[UNK]"]].any()
    assert not [token for token in settings["model"]["vocab"] if token.startswith("[unused")]
    assert settings["truncation"] is None and settings["padding"] is None


def test_forked_children_can_embed() -> None:
    code = (
        "import os, sys; from router.embedding import StaticEmbedder\n"
        "e = StaticEmbedder.load(sys.argv[1]); texts = ['how are you'] * 500\n"
        "e.embed(texts); child = os.fork()\n"
        "if child == 0:\n    e.embed(texts); os._exit(0)\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(static_folder())],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(embedding.__file__).parent.parent,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- static folders in general -----------------------------------------------------------------


def test_the_digest_follows_both_files(tiny_static: Path) -> None:
    files = static_files(tiny_static)
    first = StaticEmbedder.from_files(files)
    joined = "".join(
        hashlib.sha256(files[name]).hexdigest() for name in ("tokenizer.json", "model.safetensors")
    )
    assert first.digest == hashlib.sha256(joined.encode()).hexdigest()
    assert first.digest[:8] in first.id and first.dimension == 4
    tokenizer = files["tokenizer.json"] + b"\n"
    table = safetensors.numpy.load(files["model.safetensors"])["embedding.weight"]
    weights = safetensors.numpy.save({"embedding.weight": table * 2})
    assert StaticEmbedder.from_files({**files, "tokenizer.json": tokenizer}).digest != first.digest
    assert StaticEmbedder.from_files({**files, "model.safetensors": weights}).digest != first.digest


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_above_the_tokenizers_own_limit_stay_unknown(tmp_path: Path, lowercase: bool) -> None:
    settings = json.loads(tiny_tokenizer().to_str())
    settings.update(added_tokens=[], truncation=None, padding=None)
    settings["model"]["max_input_chars_per_word"] = 4
    settings["normalizer"]["lowercase"] = lowercase
    rows = np.random.default_rng(1).normal(size=(len(settings["model"]["vocab"]), 3))
    write_static_folder(tmp_path / "s", json.dumps(settings), rows.astype(np.float16), {})
    texts = ["Upper", "upper cat", "CAT Cat cat", "Upper sat"]
    np.testing.assert_allclose(
        StaticEmbedder.load(tmp_path / "s").embed(texts), by_hand(tmp_path / "s", texts), atol=1e-5
    )


def test_a_tokenizer_that_looks_beyond_words_is_asked_as_a_whole(tmp_path: Path) -> None:
    tokenizer = Tokenizer(
        models.BPE({"a": 0, " ": 1, "b": 2, "a b": 3, "a ": 4}, [("a", " "), ("a ", "b")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "isolated")
    rows = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    write_static_folder(tmp_path / "bpe", tokenizer.to_str(), rows, {})
    embedder = StaticEmbedder.load(tmp_path / "bpe")
    np.testing.assert_allclose(
        embedder.embed_one("a b"), rows[3] / np.linalg.norm(rows[3]), atol=1e-6
    )
    assert not embedder.embed_one("\ud800").any()


def _cut(name: str, n: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n])


def _table(**arrays: np.ndarray[Any, Any]) -> Callable[[Path], object]:
    named = {name.replace("__", "."): array for name, array in arrays.items()}
    return lambda folder: (folder / "model.safetensors").write_bytes(safetensors.numpy.save(named))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "modules.json"),
        (lambda folder: (folder / "modules.json").unlink(), "modules.json"),
        (lambda folder: (folder / "modules.json").write_text('[{"type": "x.Dense"}]'), "modules"),
        (lambda folder: (folder / "modules.json").write_text("{"), "modules.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (_cut("model.safetensors", 60), "model.safetensors"),
        (_cut("model.safetensors", 0), "model.safetensors"),
        (_cut("tokenizer.json", 200), "tokenizer.json"),
        (_table(other=np.zeros((99, 4), np.float16)), "embedding.weight"),
        (_table(embedding__weight=np.zeros(99, np.float16)), "embedding.weight"),
        (_table(embedding__weight=np.zeros((3, 4), np.float16)), "rows"),
        (_table(embedding__weight=np.full((99, 4), np.nan, np.float16)), "NaN"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(
    tiny_static: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(tiny_static)
    with pytest.raises(EmbeddingError, match=re.escape(says)) as caught:
        StaticEmbedder.load(tiny_static)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"], ("a", "b")])
def test_what_is_no_text_is_refused_without_being_shown(value: Any) -> None:
    with pytest.raises(EmbeddingError, match=type(value).__name__):
        shipped().embed_one(value)
    with pytest.raises(EmbeddingError, match=type(value).__name__):
        shipped().embed(["fine", value])


def test_one_text_is_no_sequence_of_texts() -> None:
    with pytest.raises(EmbeddingError, match="sequence"):
        shipped().embed("secret words")


# --- which embedder a name stands for ----------------------------------------------------------


def test_load_embedder_by_name_and_folder(tiny_static: Path) -> None:
    by_folder = load_embedder(tiny_static)
    assert isinstance(by_folder, StaticEmbedder)
    assert embedder_spec(by_folder) == {
        "kind": "static",
        "id": by_folder.id,
        "digest": by_folder.digest,
        "dimension": 4,
    }
    named = load_embedder("some/encoder")
    assert isinstance(named, SentenceTransformerEmbedder) and named.id == "some/encoder"


def test_static_names_the_one_that_ships(
    tiny_static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = tiny_static.parent / "artifact"
    monkeypatch.setattr(embedding, "default_artifact_folder", lambda: artifact)
    artifact.mkdir()
    (artifact / "embedder-note.txt").write_text("not a folder")
    with pytest.raises(EmbeddingError, match="got 0"):
        default_embedder_folder()
    shutil.copytree(tiny_static, artifact / "embedder-a")
    assert load_embedder("static").digest == StaticEmbedder.load(tiny_static).digest
    shutil.copytree(tiny_static, artifact / "embedder-b")
    with pytest.raises(EmbeddingError, match="got 2"):
        default_embedder_folder()


# --- contextual encoders -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def tiny(encoder_folder: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(encoder_folder)


@given(ANY_TEXT)
def test_an_encoder_takes_any_text(tiny: SentenceTransformerEmbedder, text: str) -> None:
    vectors = tiny.embed([text, "the cat"])
    assert vectors.shape == (2, 8) and vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[1] == pytest.approx(1.0, abs=1e-5)
    assert lengths[0] == (0.0 if not text.strip() else pytest.approx(1.0, abs=1e-5))


def test_an_encoder_tells_how_far_it_is(tiny: SentenceTransformerEmbedder) -> None:
    done: list[int] = []
    vectors = tiny.embed(["the cat", ""] * 300, on_progress=done.append)
    assert done == [256, 512, 600]
    assert (vectors[1::2] == 0).all() and (vectors[::2] == vectors[0]).all()
    np.testing.assert_allclose(tiny.embed_one("the cat"), vectors[0], atol=1e-6)
    assert tiny.embed([]).shape == (0, 8)


def test_other_weights_under_the_same_name_are_noticed(
    encoder_folder: Path, tmp_path: Path
) -> None:
    first = SentenceTransformerEmbedder(encoder_folder)
    other = SentenceTransformerEmbedder(tiny_encoder(tmp_path / "other", seed=1))
    copy = SentenceTransformerEmbedder(shutil.copytree(encoder_folder, tmp_path / "copy"))
    assert first.digest == copy.digest != other.digest
    spec = embedder_spec(first)
    assert spec["kind"] == "sentence-transformers" and spec["dimension"] == 8
    reloaded = SentenceTransformerEmbedder(spec["id"], expected_digest=spec["digest"])
    np.testing.assert_array_equal(reloaded.embed(["a cat"]), first.embed(["a cat"]))
    swapped = SentenceTransformerEmbedder(tmp_path / "other", expected_digest=spec["digest"])
    with pytest.raises(EmbeddingError, match="train again"):
        swapped.embed(["a cat"])


def test_the_digest_covers_every_setting(encoder_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(encoder_folder, tmp_path / "copy")
    before = SentenceTransformerEmbedder(copy).digest
    (copy / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    assert SentenceTransformerEmbedder(copy).digest != before


def test_pickled_weights_are_refused_unread(encoder_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(encoder_folder, tmp_path / "copy")
    expected = SentenceTransformerEmbedder(copy).digest
    for weights in copy.rglob("*.safetensors"):
        weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(EmbeddingError, match="safetensors"):
        SentenceTransformerEmbedder(copy, expected_digest=expected).embed(["a cat"])


def test_an_encoder_is_loaded_on_first_use_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    embedder = SentenceTransformerEmbedder("all-MiniLM-L6-v2")
    with pytest.raises(MissingExtraError, match=r"cps-router\[encoder\]"):
        embedder.embed(["hello"])


def test_a_name_that_stands_for_nothing_is_one_sentence(tmp_path: Path) -> None:
    embedder = SentenceTransformerEmbedder("no-such/model", local_files_only=True)
    with pytest.raises(EmbeddingError, match="no-such/model"):
        embedder.embed(["secret words"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddingError):
        _ = SentenceTransformerEmbedder(tmp_path / "empty").digest


@pytest.mark.slow
def test_a_model_in_the_hub_cache_is_found_by_name(encoder_folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--sentence-transformers--tiny"
    shutil.copytree(encoder_folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    code = (
        "from router.embedding import SentenceTransformerEmbedder as E\n"
        "e = E('tiny'); v = e.embed(['the cat'])[0]; print(e.digest, *v.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=Path(embedding.__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest, *numbers = done.stdout.split()
    local = SentenceTransformerEmbedder(encoder_folder)
    assert digest == local.digest
    np.testing.assert_allclose([float(x) for x in numbers], local.embed(["the cat"])[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.network
def test_contextual_minilm_for_real() -> None:
    from sentence_transformers import SentenceTransformer

    folder = minilm_folder()
    embedder = SentenceTransformerEmbedder(folder)
    texts = [text for text in TEXTS if len(text) < 5000]
    vectors = embedder.embed(texts)
    assert embedder.dimension == 384 and vectors.shape == (len(texts), 384)
    reference = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, reference, atol=1e-5)
    bank, money, river = embedder.embed(
        ["The bank raised its rates.", "Interest at the lender went up.", "The river bank flooded."]
    )
    assert bank @ money > bank @ river
