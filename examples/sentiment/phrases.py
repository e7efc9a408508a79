"""Training text beyond the sentences in `data/train.tsv`: short phrases made from a lexicon, and variants of sentences.

What negation does to an opinion cannot be learned from a few thousand sentences alone. Here it is written down once, as
templates that keep the opinion of the words put into them, and templates that turn it around. Phrases need not make
sense ("the soup is never punctual"), only their label must be right. Nothing in here ever touches the test rows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

Row = tuple[str, int]
"""A text and its label: 0 negative, 1 positive."""

# Fields: {np} a noun phrase, with {is} {was} {do} {has} {looks} that agree with it, {some} another noun phrase, {noun} a
# bare noun, {very} a booster or nothing, {who} people. All others are headings of the lexicon; a second word of the same
# kind ends in 2. Verbs come in forms, as {love:0} "like" and {love:1} "liked", {does:1} agrees with {np}.
KEEP = {
    "adjective": """
        {np} {is} {very}{adjective} | {np} {was} {very}{adjective} | {np} {was} {very}{adjective} and {adjective2}
        it is {very}{adjective} | everything was {very}{adjective} | {np} {looks} {adjective} | {np} felt {adjective}
        {np} turned out to be {adjective} | {np} {was}, as always, {adjective} | they were {very}{adjective}
        {adjective} {noun} | what a {adjective} {noun} | a {adjective} {noun} with {adjective2} {noun2}
        {adjective} {noun}, {adjective2} {noun2} | it was a {adjective} {noun} | we had a {adjective} {noun}
        {adjective}, {adjective2} and {adjective3} | the most {adjective} {noun} i have ever had
        {np} {is} not only {adjective} but also {adjective2} | not just {adjective}, but {adjective2}
    """,
    "thing": """
        {np} {is} {thing} | {np} {was} {thing} | {thing} | what {thing} | {np} turned out to be {thing}
        it was {thing} from start to finish | nothing less than {thing} | {thing} and {thing2}
    """,
    "quality": """
        {np} {has} {quality} | {np} {has} so much {quality} | full of {quality} | {np} {was} full of {quality}
        {quality} and {quality2} | plenty of {quality} | nothing but {quality} | {quality}, {quality2} and {quality3}
        so much {quality} | {np} brought us {quality} | it was all {quality} and {quality2}
    """,
    "love": """
        i {love:1} {np} | i {love:0} {np} | we {love:1} {np} | {who} {love:1} {np} | we all {love:1} it
        you will {love:0} {np} | everyone {love:1} it | {who} really {love:1} {np} | i always {love:0} {np}
    """,
    "does": """
        {np} {does:2} | {np} {does:1} | {np} always {does:1} | {np} will {does:0} | {np} really {does:2}
        {np} {does:2} from the start | {np} never fails to {does:0} | it {does:2} every time | {np} {does:2} again
    """,
    "feel": """
        i was {very}{feel} | we were {very}{feel} | i felt {very}{feel} | {who} were {very}{feel} | i am {very}{feel}
        i was {feel} with {np} | i am {feel} about {np} | we were {feel} by {np} | we left {feel}
    """,
    "manner": """
        {np} {was} made {manner} | {np} {was} cooked {manner} | {np} {was} treated {manner} | {np} worked {manner}
        {np} {was} organised {manner} | {np} {was} explained {manner} | {manner} written | {manner} made | it went {manner}
        they played {manner} | he behaved {manner} | {np} {was} served {manner} | {np} {was} handled {manner}
    """,
    "more": """
        {np} {was} much {more} than i expected | {np} {was} {more} than the last one | {more} than ever
        {np} gets {more} every time | {np} {has} never been {more} | {np} couldn't be {more}
        {np} could not have been {more} | nothing could be {more} | there is no {more} {noun}
        you won't find a {more} {noun} | i can't imagine a {more} {noun} | i have never seen a {more} {noun}
    """,
}
TURN = {
    "adjective": """
        {np} {is} not {very}{adjective} | {np} {was} not {adjective} | {np} {is}n't {very}{adjective} | it isn't {adjective}
        {np} {was}n't {adjective} at all | {np} {was} never {adjective} | {np} {is} never {adjective} | it is hardly {adjective}
        {np} {was} hardly {adjective} | {np} {is} far from {adjective} | {np} {was} anything but {adjective}
        {np} {is} by no means {adjective} | {np} {is} no longer {adjective} | {np} {was} neither {adjective} nor {adjective2}
        {np} {was}n't {adjective} or {adjective2} | {np} {was} not {adjective} in the least | nothing was {adjective}
        {np} can't be called {adjective} | {np} {was} not once {adjective} | {np} {is} nowhere near {adjective}
        {np} {was} in no way {adjective} | {np} {do}n't feel {adjective} | {np} didn't look {adjective} | they weren't {adjective}
        {np} {has} never been {adjective} | {np} {is} not exactly {adjective} | neither {adjective} nor {adjective2}
        this is not a {adjective} {noun} | not a {adjective} {noun} | it isn't a {adjective} {noun} | never a {adjective} {noun}
        not a single {adjective} {noun} | there wasn't one {adjective} {noun} | no {adjective} {noun} | hardly a {adjective} {noun}
        i have never had a {adjective} {noun} here | i wouldn't call it a {adjective} {noun} | without a {adjective} {noun}
        it was anything but a {adjective} {noun} | nobody could call this a {adjective} {noun} | not the least bit {adjective}
        none of it was {adjective} | not at all {adjective} | nobody was {adjective} | not {adjective}, not {adjective2}
    """,
    "thing": """
        {np} {is} not {thing} | {np} {was}n't {thing} | it isn't {thing} | {np} {is} anything but {thing}
        {np} {was} never {thing} | far from {thing} | hardly {thing} | {np} {is} by no means {thing} | not {thing} at all
        i wouldn't call {np} {thing} | nobody would call it {thing} | it was not {thing} after all
    """,
    "quality": """
        no {quality} | no {quality}, no {quality2} | {np} {has} no {quality} | without {quality} | free of {quality}
        {np} {was} without any {quality} | hardly any {quality} | there was no {quality} at all | {np} lacked {quality}
        there isn't any {quality} | we didn't have any {quality} | i never had any {quality} with {np} | zero {quality}
        a complete lack of {quality} | not a hint of {quality} | neither {quality} nor {quality2} | i found no {quality}
        {np} came with no {quality} | devoid of {quality} | very little {quality} | it lacks {quality} and {quality2}
    """,
    "love": """
        i don't {love:0} {np} | {who} didn't {love:0} {np} | i can't {love:0} {np} | nobody {love:1} {np} | i never {love:1} {np}
        you will never {love:0} {np} | you won't {love:0} {np} | i couldn't {love:0} {np} | none of us {love:1} {np}
        no one could {love:0} {np} | i wouldn't {love:0} {np} | we did not {love:0} {np} at all | hardly anyone {love:1} {np}
        i find it hard to {love:0} {np} | it is impossible to {love:0} {np} | there is no reason to {love:0} {np}
        i can't say that i {love:1} {np} | i don't think anyone could {love:0} it | not one of us {love:1} {np}
    """,
    "does": """
        {np} {do}n't {does:0} | {np} didn't {does:0} | {np} never {does:2} | {np} never {does:1} | {np} won't {does:0}
        {np} did not {does:0} | it didn't {does:0} once | {np} hardly ever {does:2} | it doesn't {does:0}
        {np} rarely {does:2} | {np} no longer {does:1} | {np} didn't {does:0} at all | nothing {does:2}
        not once did {np} {does:0} | {np} couldn't {does:0} | none of it {does:2} | {np} {has} yet to {does:0}
    """,
    "feel": """
        i wasn't {feel} | we weren't {feel} with {np} | i was not {feel} | i'm not {feel} | nobody was {feel} | i never felt {feel}
        i have never been {feel} with {np} | you won't be {feel} | we didn't feel {feel} | you will never be {feel}
        i can't say i was {feel} | no one left {feel} | i was far from {feel} | i was anything but {feel} | i wasn't at all {feel}
        not once did i feel {feel} | i was neither {feel} nor {feel2} | i have yet to be {feel} | {who} weren't {feel}
    """,
    "manner": """
        {np} {was}n't made {manner} | {np} {was} not cooked {manner} | {np} {was} never treated {manner} | it didn't go {manner}
        they never played {manner} | {np} {was}n't organised {manner} | {np} {was}n't explained {manner} | not made {manner}
    """,
    "more": "{np} {is} no {more} than the others | {np} did not get any {more} | it isn't {more} than before",
}
WEIGHTS = {
    "adjective": 9,
    "thing": 2,
    "quality": 2,
    "love": 2,
    "does": 4,
    "feel": 3,
    "manner": 1.5,
    "more": 1.5,
}

BUT = [", but ", ", but ", " but ", ", yet ", ". however, ", ", but in the end ", ", but overall "]
ALTHOUGH = ["although", "even though", "while", "though"]
AND = [" and ", ", and ", ". ", "; ", ", "]
DETERMINERS = ["the", "the", "the", "this", "their", "our", "my", "your", "his", "her", "that"]
PEOPLE = ["my friends", "my kids", "they", "the children", "my parents", "the guests"]
VERY = [
    "",
    "",
    "",
    "very ",
    "really ",
    "so ",
    "quite ",
    "absolutely ",
    "truly ",
    "extremely ",
    "simply ",
    "just ",
    "too ",
]
PLURAL = {"is": "are", "was": "were", "do": "do", "has": "have", "looks": "look"}
SINGULAR = {"is": "is", "was": "was", "do": "does", "has": "has", "looks": "looks"}


def read_lexicon(path: Path) -> dict[str, list[str]]:
    """Entries by heading. A line is a heading in brackets, a comment, or entries separated by commas."""
    lexicon: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            entries = lexicon.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            entries += [entry.strip() for entry in line.split(",") if entry.strip()]
    return lexicon


class Writer:
    """Makes labelled text without end.

    sentences: the training rows; `vary` and `join` start from them.
    difficulty: 0 to 1. At 0 phrases hold neither negation nor contrast. A model learns words first, then what turns them.
    """

    def __init__(self, lexicon: dict[str, list[str]], sentences: Sequence[Row], rng: random.Random) -> None:
        self.difficulty = 1.0
        self._lexicon = lexicon
        self._rng = rng
        self._sentences = sentences
        self._templates = {
            (table is KEEP, kind): _split(text) for table in (KEEP, TURN) for kind, text in table.items()
        }
        self._letters = sorted({w for text, _ in sentences for w in re.findall("[a-z]{4,}", text.lower())})
        self._nouns = sorted(noun for noun in set(lexicon["noun"]) if " " not in noun)
        self._known_nouns = frozenset(self._nouns)
        self._opinions = {word: label for label in (0, 1) for word in lexicon[_heading("general", label)]}

    # Phrases from the lexicon

    def phrase(self) -> Row:
        """One clause, or two that agree, or two that disagree."""
        pick, label = self._rng.choice, self._rng.randrange(2)
        shape = self._rng.random()
        if shape > 0.72 and self._rng.random() > self.difficulty:
            shape *= 0.72
        if shape < 0.55:
            text = self._clause(label)
        elif shape < 0.72:
            text = self._clause(label) + pick(AND) + self._clause(label)
        else:
            text = self._contrast(self._clause(1 - label), self._clause(label))
        return text + pick(["", ".", ".", ".", "!"]), label

    def _clause(self, label: int) -> str:
        (kind,) = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        keep = self._rng.random() > 0.45 * self.difficulty
        template = self._rng.choice(self._templates[keep, kind])
        text = template.format_map(_Fields(self, label if keep else 1 - label))
        return re.sub(r"\ba (?=[aeiou])", "an ", text)

    def word(self, kind: str, label: int) -> list[str]:
        """The forms of a random entry."""
        return self._rng.choice(self._lexicon[_heading(kind, label)]).split("|")

    def noun(self) -> str:
        """A noun, or a made-up word: the model has to cope with names that it never saw."""
        if self._rng.random() < 0.3:
            return (
                self._rng.choice(self._letters)[: self._rng.randint(1, 4)]
                + self._rng.choice(self._letters)[-4:]
            )
        return self._rng.choice(self._nouns)

    def choose(self, options: Sequence[str]) -> str:
        return self._rng.choice(options)

    # Variants of sentences

    def vary(self, row: Row) -> Row:
        """The same sentence about something else, with another opinion word, or, where one word decides, its opposite."""
        pieces = re.findall(r"[a-z'-]+|[^a-z'-]+", row[0].lower())
        label = row[1]
        at = [i for i, piece in enumerate(pieces) if piece in self._opinions]
        chance = self._rng.random()
        if len(at) == 1 and chance < 0.15:
            label = 1 - label
            pieces[at[0]] = self.word("general", 1 - self._opinions[pieces[at[0]]])[0]
        elif chance < 0.4:
            for i in at:
                pieces[i] = self.word("general", self._opinions[pieces[i]])[0]
        pieces = [self.noun() if p in self._known_nouns and self._rng.random() < 0.3 else p for p in pieces]
        return "".join(pieces), label

    def sentence(self, row: Row) -> Row:
        """A variant of a training row; three times in ten joined with that of another."""
        first = self.vary(row)
        if self._rng.random() > 0.3:
            return first
        second = self.vary(self._rng.choice(self._sentences))
        if first[1] == second[1]:
            return first[0].rstrip(".!") + self._rng.choice([". ", ", and ", "; "]) + second[0], first[1]
        return self._contrast(first[0], second[0]), second[1]

    def _contrast(self, weaker: str, stronger: str) -> str:
        """Two opinions of which `stronger` prevails."""
        weak, strong = weaker.rstrip(".!?"), stronger.rstrip(".!?")
        shape = self._rng.random()
        if shape < 0.55:
            return weak + self._rng.choice(BUT) + strong
        if shape < 0.8:
            return f"{self._rng.choice(ALTHOUGH)} {weak}, {strong}"
        return f"{strong}, {self._rng.choice(ALTHOUGH)} {weak}"


class _Fields(dict[str, object]):
    """What a template may ask for, made when it asks."""

    def __init__(self, writer: Writer, label: int) -> None:
        super().__init__()
        self._writer = writer
        self._label = label
        self._plural = False

    def __missing__(self, key: str) -> object:
        makers: dict[str, Callable[[], object]] = {
            "np": self._noun_phrase,
            "noun": self._writer.noun,
            "who": lambda: self._writer.choose(PEOPLE),
            "very": lambda: self._writer.choose(VERY),
        }
        kind = key.rstrip("23")
        if kind in makers:
            value = makers[kind]()
        elif kind in PLURAL:
            return (PLURAL if self._plural else SINGULAR)[kind]
        else:
            value = _Forms(self._writer.word(kind, self._label), self._plural)
        self[key] = value
        return value

    def _noun_phrase(self) -> str:
        noun, determiner = self._writer.noun(), self._writer.choose(DETERMINERS)
        self._plural = noun.endswith("s") and not noun.endswith("ss")
        if self._plural:
            determiner = {"this": "these", "that": "those"}.get(determiner, determiner)
        return f"{determiner} {noun}"


class _Forms:
    """A word with its forms: {word} is the first, {word:1} the second."""

    def __init__(self, forms: list[str], plural: bool) -> None:
        self._forms = forms
        self._plural = plural

    def __format__(self, spec: str) -> str:
        number = int(spec or 0)
        if number == 1 and len(self._forms) == 3 and self._plural:
            number = 0  # "they work", where one "works"
        return self._forms[number]


def _heading(kind: str, label: int) -> str:
    return f"{kind} {'+' if label else '-'}"


def _split(templates: str) -> list[str]:
    return [template.strip() for template in re.split(r"[|\n]", templates) if template.strip()]
