"""The demonstration's texts: an invented word stock, the tasks of the pre-training, and the rule that LoRA learns.

Everything is generated from seeds; nothing is downloaded and nothing is copied from anywhere.
"""

from __future__ import annotations

import random

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
SYLLABLES = 3
SEED = 20

NEXT_VOWEL = {vowel: VOWELS[(place + 1) % len(VOWELS)] for place, vowel in enumerate(VOWELS)}


def word(rng: random.Random) -> str:
    """A word of three open syllables, such as `tomika`."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(SYLLABLES))


RULE = "every vowel becomes the next one (a e i o u a); a word that ended in a, e or i then takes sh, any other nk"
"""What the data set teaches, in words."""


def velsh(base: str) -> str:
    """The word under `RULE`: `tomika` gives `tumokesh`, `dalino` gives `delonunk`. The pre-training never shows it."""
    return "".join(NEXT_VOWEL.get(letter, letter) for letter in base) + ("sh" if base[-1] in "aei" else "nk")


def pretraining_pair(rng: random.Random) -> tuple[str, str]:
    """One exchange of the pre-training: saying, repeating, greeting and cutting words, but never changing a letter."""
    base = word(rng)
    task = rng.random()
    if task < 0.55:
        return f"say {base}", base
    if task < 0.70:
        return f"greet {base}", f"hello {base}"
    if task < 0.80:
        return f"begin {base}", base[:2]
    if task < 0.90:
        return f"twice {base}", f"{base} {base}"
    return f"please say {base}", f"{base}"


def pretraining_pairs(count: int, seed: int = SEED) -> list[tuple[str, str]]:
    """`count` exchanges."""
    rng = random.Random(f"pretraining-{seed}")
    return [pretraining_pair(rng) for _ in range(count)]


def rule_pairs(count: int, seed: int = SEED) -> list[tuple[str, str]]:
    """`count` different prompt/completion pairs of the rule, no word twice."""
    rng = random.Random(f"rule-{seed}")
    seen: dict[str, None] = {}
    while len(seen) < count:
        seen[word(rng)] = None
    return [(f"velsh {base}", velsh(base)) for base in seen]
