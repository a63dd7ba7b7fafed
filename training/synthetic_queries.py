"""Queries that look like real traffic, in English and Spanish, written from templates and slots.

What makes a query hard can be read in it: the kind of task, how many steps or operands it asks for,
how long it is, and whether it speaks in expert vocabulary. :func:`write_query` returns these beside
the text, and :mod:`training.synthetic` turns them into the true difficulty.

Only ``random.Random.random()`` is used to draw, because Python promises its stream for a seed in
every version: the committed sample can be made again byte for byte.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from training.synthetic_vocabulary import LANGUAGES, Language

TASKS: tuple[str, ...] = (
    "extraction",
    "classification",
    "translation",
    "summarising",
    "qa",
    "code",
    "mathematics",
    "analysis",
)

TASK_SHARE: Mapping[str, float] = {
    "extraction": 0.15,
    "classification": 0.15,
    "translation": 0.10,
    "summarising": 0.12,
    "qa": 0.16,
    "code": 0.12,
    "mathematics": 0.10,
    "analysis": 0.10,
}

EXPERT_SHARE = 0.30
"""Share of the queries that draw their subjects from the expert vocabulary."""

_TASK_DIFFICULTY: Mapping[str, float] = {
    "extraction": -1.0,
    "classification": -1.2,
    "translation": -0.5,
    "summarising": -0.5,
    "qa": -0.2,
    "code": 0.7,
    "mathematics": 0.8,
    "analysis": 1.1,
}
# Mean and standard deviation of the raw difficulty over the default mix of queries; fixed numbers,
# so that the truth about one text does not depend on which other texts were drawn with it.
_RAW_MEAN, _RAW_SD = 0.41, 0.98
_MEAN_CHARS_PER_TOKEN = 4.0
_PROMPT_OVERHEAD_TOKENS = 24


@dataclass(frozen=True, slots=True)
class SyntheticQuery:
    """One query and what can be read in it.

    ``steps`` counts the demands beyond the first (clauses, operands, fields), ``expert_terms`` the
    expert words and formulas; ``language`` is ``"en"`` or ``"es"``.
    """

    text: str
    task: str
    language: str
    steps: int
    expert_terms: int

    @property
    def n_words(self) -> int:
        """Number of words, split at white space."""
        return len(self.text.split())

    @property
    def input_tokens(self) -> int:
        """Prompt tokens billed: about one per four characters, plus the fixed instructions."""
        return _PROMPT_OVERHEAD_TOKENS + math.ceil(len(self.text) / _MEAN_CHARS_PER_TOKEN)

    @property
    def difficulty(self) -> float:
        """Readable difficulty: a function of the text alone, mean 0 and variance 1 over the mix."""
        raw = (
            _TASK_DIFFICULTY[self.task]
            + 0.35 * self.steps
            + 0.40 * min(self.expert_terms, 3)
            + 0.25 * math.log(self.n_words / 25.0)
        )
        return (raw - _RAW_MEAN) / _RAW_SD


@dataclass(slots=True)
class _Slots:
    """Fills ``{slot}`` by drawing from the vocabulary, never the same word twice in one query."""

    rng: random.Random
    language: Language
    expert: bool
    expert_terms: int = 0
    used: set[str] = field(default_factory=set)

    def __getitem__(self, slot: str) -> str:
        if slot in _NUMBERS:
            low, high = _NUMBERS[slot]
            return str(low + int(self.rng.random() * (high - low + 1)))
        if slot == "hard":  # marks a template that is hard whatever fills it
            self.expert_terms += 1
            return ""
        if self.expert and slot in ("topic", "thing"):
            self.expert_terms += 1
            slot = f"expert_{slot}"
        return self.fill(self.draw(self.language.words[slot]))

    def draw(self, choices: Sequence[str]) -> str:
        """One of the choices, a fresh one while there is any chance of that."""
        choice = _pick(self.rng, choices)
        for _ in range(8):
            if choice not in self.used:
                break
            choice = _pick(self.rng, choices)
        self.used.add(choice)
        return choice

    def fill(self, template: str) -> str:
        return template.format_map(self) if "{" in template else template


_NUMBERS: Mapping[str, tuple[int, int]] = {
    "small": (2, 9),
    "n2": (11, 98),
    "n3": (103, 989),
    "n4": (1_024, 9_870),
    "day": (1, 28),
    "year": (2024, 2027),
}


def _pick(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


def _pick_task(rng: random.Random) -> str:
    draw = rng.random()
    for task, share in TASK_SHARE.items():
        draw -= share
        if draw < 0.0:
            return task
    return TASKS[-1]


def _count(rng: random.Random, continue_share: float, most: int) -> int:
    """Geometric number of further items, at most ``most``."""
    count = 0
    while count < most and rng.random() < continue_share:
        count += 1
    return count


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def write_query(rng: random.Random, *, spanish_share: float = 0.3) -> SyntheticQuery:
    """Write one query; ``rng`` alone decides which.

    >>> query = write_query(random.Random(1), spanish_share=0.0)
    >>> query.language, query.text == write_query(random.Random(1), spanish_share=0.0).text
    ('en', True)
    """
    name = "es" if rng.random() < spanish_share else "en"
    language = LANGUAGES[name]
    task = _pick_task(rng)
    slots = _Slots(rng, language, expert=rng.random() < EXPERT_SHARE)
    parts = [_sentence(slots.fill(slots.draw(language.cores[task])))]
    steps = _count(rng, 0.55, 4)
    parts += [_sentence(slots.fill(slots.draw(language.clauses[task]))) for _ in range(steps)]
    text = " ".join(parts).replace("\n\n ", "\n\n").rstrip()  # snippets end a paragraph
    opener = _pick(rng, language.openers)
    if opener:
        text = f"{slots.fill(opener)} {text}"
    if task in language.passage_tasks:
        longer = 0.80 if task == "summarising" else 0.45
        sentences = 1 + _count(rng, longer, 24)
        passage = " ".join(
            _sentence(slots.fill(slots.draw(language.sentences))) for _ in range(sentences)
        )
        text = f"{text}\n\n{passage}"
    for written, contracted in language.contractions:
        text = text.replace(written, contracted)
    return SyntheticQuery(text, task, name, steps, slots.expert_terms)


def write_queries(n: int, seed: int, *, spanish_share: float = 0.3) -> list[SyntheticQuery]:
    """Write ``n`` queries; the first ``k`` of them do not depend on ``n``."""
    rng = random.Random(seed)
    return [write_query(rng, spanish_share=spanish_share) for _ in range(n)]
