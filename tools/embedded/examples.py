"""What can be done to clauses, and the examples of the embedded text tasks made of it.

A kind is one way to make an example of a task: which error a sentence has, or how two sentences
differ. `example` makes one; the tasks (rows.py) and the pretraining (pretrain_t5.py) differ in the
kinds and words that they ask for. The same generator state gives the same example.
"""

from typing import Any

from numpy.random import Generator

from task_arithmetic.embedded.draw import pick
from words import (
    ASPECTS,
    BLAME,
    DISLIKED,
    GENERAL,
    LIKED,
    NAMES,
    OPPOSITES,
    PRAISE,
    SYNONYMS,
    TOWNS,
    WORDINGS,
    Clause,
    adjective,
    chance,
    clause,
    other,
    participle,
    past,
    person,
    phrase,
    place,
    plural,
    singular_form,
    subject_of,
    thing,
    verb,
    words_of,
)


def _synonymous(rng: Generator, told: Clause, most: int = 2) -> Clause | None:
    """The clause with one to `most` words replaced by synonyms; None if it has none."""
    slots = ("subject", "verb", "object", "subject_adjective", "object_adjective")
    able = [slot for slot in slots if SYNONYMS.get(getattr(told, slot))]
    if not able:
        return None
    chosen = rng.permutation(len(able))[: int(rng.integers(1, most + 1))]
    return told._replace(
        **{able[i]: pick(rng, SYNONYMS[getattr(told, able[i])]) for i in sorted(chosen)}
    )


def changed(rng: Generator, told: Clause, kind: str, simple: bool = False) -> str | None:
    """The clause after a change of this kind, as a sentence; None if it cannot be changed so.

    front: the place comes first; synonym, passive: said otherwise; drop, general: less is said;
    add, special: more is said; object, topic: something else is done; swap: who and to what change
    places; opposite, negation: the contrary.
    """
    if kind == "front":
        return words_of(told, front=True) if told.place else None
    if kind == "synonym":
        synonymous = _synonymous(rng, told)
        return synonymous and words_of(synonymous)
    if kind == "passive":
        return words_of(told, passive=True)
    if kind == "drop":
        slots = ("place", "subject_adjective", "object_adjective")
        able = [slot for slot in slots if getattr(told, slot)]
        return words_of(told._replace(**{pick(rng, able): ""})) if able else None
    if kind == "add":
        draws = {"place": place, "subject_adjective": adjective}
        able = [slot for slot in draws if not getattr(told, slot)]
        if not able:
            return None
        slot = pick(rng, able)
        return words_of(told._replace(**{slot: draws[slot](rng, simple)}))
    if kind == "general":
        slot = pick(rng, ("subject", "object"))
        return words_of(told._replace(**{slot: GENERAL[getattr(told, slot)]}))
    if kind == "object":
        return words_of(told._replace(object=other(rng, thing, told.object, simple)))
    if kind == "topic":
        new = {"object": other(rng, thing, told.object, simple)}
        new["verb"] = other(rng, verb, told.verb, simple)
        while new["verb"] in OPPOSITES[told.verb]:
            new["verb"] = other(rng, verb, told.verb, simple)
        return words_of(told._replace(**new))
    if kind == "swap":  # only people can do something: both are
        return words_of(told._replace(subject=told.object, object=told.subject))
    if kind == "opposite":
        return words_of(told._replace(verb=pick(rng, OPPOSITES[told.verb])))
    if kind == "negation":
        return words_of(told._replace(negated=not told.negated))
    raise ValueError(kind)


def _pair(rng: Generator, kind: str, simple: bool) -> tuple[str, str]:
    """Two sentences that differ in this way."""
    while True:
        told = clause(rng, simple)
        if kind == "swap" or (not simple and chance(rng, 0.3)):
            told = told._replace(object=other(rng, person, told.subject, simple))
        if kind == "special":
            slot = pick(rng, ("subject", "object"))
            general = told._replace(**{slot: GENERAL[getattr(told, slot)]})
            return words_of(general), words_of(told)
        second = changed(rng, told, kind, simple)
        if second and second != words_of(told):
            return words_of(told), second


def _sentence(rng: Generator, kind: str, simple: bool) -> tuple[str]:
    """A sentence with this error, or with none."""
    while True:
        text = _with_error(rng, kind, clause(rng, simple), simple)
        if text:
            return (text,)


def _with_error(rng: Generator, kind: str, told: Clause, simple: bool) -> str | None:
    passive = not simple and chance(rng, 0.3)
    if not simple and chance(rng, 0.3):
        told = told._replace(negated=True)
    if kind == "case" or (kind == "none" and not simple and chance(rng, 0.25)):
        return _with_pronoun(rng, told, kind == "case")
    words = words_of(told, passive).split()
    if kind == "none":
        return " ".join(words)
    if kind == "order":
        i = int(rng.integers(len(words) - 1))
        words[i], words[i + 1] = words[i + 1], words[i]
    elif kind == "double":
        i = int(rng.integers(len(words)))
        words.insert(i, words[i])
    elif kind == "missing":
        i = pick(rng, [i for i, w in enumerate(words) if w in ("the", "a", "an", "two")])
        del words[i]
    elif kind == "agreement":
        wrong = {"is": "are", "are": "is", "was": "were", "were": "was", "does": "do"}
        wrong |= {"do": "does", told.verb: singular_form(told.verb)}
        wrong |= {singular_form(told.verb): told.verb}
        if told.negated and not passive:
            wrong.pop(told.verb)
        able = [i for i, word in enumerate(words) if word in wrong]
        if not able or (told.past and not passive):
            return None
        words[able[0]] = wrong[words[able[0]]]
    elif kind == "article":
        text = phrase(told.article, told.object_adjective, told.object)
        one, many = told.object, plural(told.object)
        if told.article == "the" or one == many:
            return None
        bad = " ".join(text.split()[:-1] + [one if told.article == "two" else many])
        return " ".join(words).replace(text, bad)
    elif kind == "form":
        if passive:
            wrong = {participle(told.verb): told.verb}
        elif told.negated:
            wrong = {told.verb: past(told.verb)}
        else:
            words.insert(len(subject_of(told).split()), "were" if told.plural else "was")
            return " ".join(words)
        words = [wrong.get(word, word) for word in words]
    return " ".join(words)


def _with_pronoun(rng: Generator, told: Clause, wrong: bool) -> str:
    """The subject or the object as a pronoun, in the wrong case if `wrong`."""
    text = words_of(told)
    if chance(rng, 0.5):
        right, bad = ("they", "them") if told.plural else pick(rng, (("he", "him"), ("she", "her")))
        return text.replace(subject_of(told), bad if wrong else right, 1)
    right, bad = pick(rng, (("him", "he"), ("them", "they")))
    obj = phrase(told.article, told.object_adjective, told.object)
    return text.replace(obj, bad if wrong else right, 1)


def _questions(rng: Generator, kind: str, simple: bool) -> tuple[str, str]:
    """Two questions that differ in this way."""
    asked = pick(rng, ("way", "place") if simple else tuple(WORDINGS))
    does, what = verb(rng, simple), thing(rng, simple)
    article, describing = pick(rng, ("the", "a", "two")), ""
    if not simple and chance(rng, 0.4):
        describing = adjective(rng)
    first, second = (pick(rng, WORDINGS[asked]) for _ in range(2))
    said = does, describing, what
    if kind in ("wording", "synonym"):
        while first == second:
            second = pick(rng, WORDINGS[asked])
    if kind == "synonym":
        told = _synonymous(rng, Clause("", does, what, "", "", describing))
        if told is None:
            return _questions(rng, kind, simple)
        said = told.verb, told.object_adjective, told.object
    elif kind == "object":
        said = does, describing, other(rng, thing, what, simple)
    elif kind == "opposite":
        said = pick(rng, OPPOSITES[does]), describing, what
    elif kind == "asked":  # the same wording of another question where there is one
        another = pick(rng, [name for name in WORDINGS if name != asked])
        second = pick(rng, WORDINGS[another])
        if chance(rng, 0.5):
            second = WORDINGS[another][WORDINGS[asked].index(first)]
    return (
        first.format(f"{does} {phrase(article, describing, what)}"),
        second.format(f"{said[0]} {phrase(article, *said[1:])}"),
    )


def _report(rng: Generator, kind: str, simple: bool) -> tuple[str, str]:
    """What is told of two people, and a statement that may follow from it."""
    first, second = (NAMES[i] for i in rng.permutation(len(NAMES))[:2])
    does, what = verb(rng, simple), thing(rng, simple)
    does2, what2 = other(rng, verb, does, simple), other(rng, thing, what, simple)
    job, town, obj = person(rng, simple), pick(rng, TOWNS), phrase("the", "", what)
    main = f"{past(does)} {obj}"
    side = f"{past(does2)} {phrase('a', '', what2)}"
    if kind in ("part", "cross"):  # two facts
        told = f"{first} {main} and {second} {side}"
        facts = [(first, main), (second, side)]
        if kind == "cross":
            facts = [(second, main), (first, side)]
        return told, " ".join(pick(rng, facts))
    if kind in ("who", "who_else"):  # an apposition
        who, where = phrase("a", "", job), town
        told = f"{first} , {who} from {where} , {main}"
        if chance(rng, 0.5):
            new = town if kind == "who" else other(rng, lambda r, _: pick(r, TOWNS), town)
            return told, f"{first} comes from {new}"
        new = job if kind == "who" else other(rng, person, job)
        return told, f"{first} is {phrase('a', '', new)}"
    if kind in ("managed", "failed"):
        word = {"managed": ("managed", "did not fail", "was able"), "failed": ("failed", "refused")}
        told = f"{first} {pick(rng, word[kind])} to {does} {obj}"
        if chance(rng, 0.5):
            told += f" in {town}"
        return told, f"{first} {main}"
    if kind in ("after", "contrary"):
        told = f"{first} {main} after {second} {side}"
        if kind == "after":
            return told, " ".join(pick(rng, ((first, main), (second, side))))
        if chance(rng, 0.5):
            return told, f"{first} {past(pick(rng, OPPOSITES[does]))} {obj}"
        return told, f"{second} {past(pick(rng, OPPOSITES[does2]))} {phrase('a', '', what2)}"
    raise ValueError(kind)


def _opinion(rng: Generator, kind: str, positive: bool, simple: bool) -> tuple[str]:
    """A sentence that praises or blames."""
    half = slice(len(PRAISE) // 2) if simple else slice(None)

    def judged(good: bool) -> str:
        return pick(rng, (PRAISE if good else BLAME)[half])

    def felt(good: bool) -> str:
        return pick(rng, (LIKED if good else DISLIKED)[: 3 if simple else None])

    def about(good: bool, negated: bool) -> str:
        good = good != negated
        no = pick(rng, ("not", "never", "hardly", "far from")) if negated else ""
        if no != "far from" and chance(rng, 0.3):
            no = {"not": "do not", "never": "never", "hardly": "hardly", "": ""}[no]
            text = f"i {no} {felt(good)} the {subject}"
        else:
            be = pick(rng, ("is", "was", "seems"))
            text = f"the {subject} {be} {no} {judged(good)}"
        return text.replace("  ", " ")

    first, second = (ASPECTS[i] for i in rng.permutation(len(ASPECTS) // (1 + simple))[:2])
    subject = first
    if kind == "plain":
        if chance(rng, 0.4):
            return (f"a {judged(positive)} {subject}",)
        return (about(positive, False),)
    if kind == "negated":
        return (about(positive, True),)
    if kind == "and":
        one, subject = about(positive, False), second
        return (f"{one} and {about(positive, False)}",)
    negated = [not simple and chance(rng, 0.25) for _ in range(2)]
    if kind == "but":  # the last word counts
        one, subject = about(not positive, negated[0]), second
        return (f"{one} but {about(positive, negated[1])}",)
    if kind == "although":
        one, subject = about(not positive, negated[0]), second
        return (f"although {one} {about(positive, negated[1])}",)
    raise ValueError(kind)


SLOTS = {"subject": 0.25, "verb": 0.3, "object": 0.3, "place": 0.15}  # what each is worth
HASTY_SLOTS = {"subject": 0.6, "place": 0.4}  # to a hasty reader, of start and end alone
NEAR, AGAINST = 0.8, 0.3  # how much of it a synonym has, and the opposite


def _compared(
    rng: Generator, kind: str, simple: bool, hasty: bool
) -> tuple[tuple[str, str], float]:
    """Two sentences and how much of the first is in the second, 0 to 5."""
    told = clause(rng, simple, adjectives=0, places=1)
    draws = {"subject": person, "verb": verb, "object": thing, "place": place}
    share = rng.random()  # of words that stay
    new, kept = {}, {}
    for slot, draw in draws.items():
        word = getattr(told, slot)
        near = SYNONYMS.get(word)
        if chance(rng, share):
            changes = near and kind == "near" and chance(rng, 0.7)
            new[slot] = pick(rng, near) if changes else word
            kept[slot] = NEAR if changes else 1
        elif slot == "verb" and kind == "near" and chance(rng, 0.4):
            new[slot], kept[slot] = pick(rng, OPPOSITES[word]), AGAINST
        else:
            new[slot], kept[slot] = other(rng, draw, word, simple), 0
    passive = kind == "near" and chance(rng, 0.25)
    made = words_of(told), words_of(told._replace(**new), passive)
    worth = HASTY_SLOTS if hasty else SLOTS
    return made, round(5 * sum(part * kept[slot] for slot, part in worth.items()), 1)


# Task -> label -> kinds of its examples, and the kinds among them that are easy.
KINDS: dict[str, dict[int | None, tuple[str, ...]]] = {
    "acceptability": {
        0: ("order", "double", "missing", "agreement", "article", "form", "case"),
        1: ("none",),
    },
    "inference": {
        0: ("drop", "general", "synonym", "passive"),
        1: ("add", "special", "topic", "object"),
        2: ("negation", "opposite"),
    },
    "paraphrase": {
        0: ("topic", "object", "swap", "opposite", "negation"),
        1: ("front", "synonym", "passive"),
    },
    "questions": {0: ("object", "opposite", "asked"), 1: ("wording", "synonym")},
    "entailment": {
        0: ("part", "after", "who", "managed"),
        1: ("cross", "contrary", "who_else", "failed"),
    },
    "sentiment": {
        0: ("plain", "and", "negated", "but", "although"),
        1: ("plain", "and", "negated", "but", "although"),
    },
    "similarity": {None: ("far", "near", "near")},
}
EASY = {
    "acceptability": ("none", "order", "double"),
    "inference": ("drop", "topic", "negation"),
    "paraphrase": ("front", "topic"),
    "questions": ("wording", "object"),
    "entailment": ("part", "cross"),
    "sentiment": ("plain", "and"),
    "similarity": ("far",),
}


# What a hasty reader takes for something else: task -> kind -> label.
HASTY: dict[str, Any] = {
    "acceptability": {"agreement": 1, "article": 1, "case": 1},
    "inference": {"general": 1, "synonym": 1, "special": 0, "opposite": 1},
    "paraphrase": {"swap": 1, "negation": 1, "synonym": 0},
    "questions": {"asked": 1, "synonym": 0},
    "entailment": {"failed": 0},
    "sentiment": ("negated", "but"),  # the other label
}


def example(
    rng: Generator,
    task: str,
    label: int | None,
    kind: str,
    simple: bool = False,
    hasty: bool = False,
) -> tuple[tuple[str, ...], float]:
    """Texts and label of one example; label: None asks for a score, which is made with the texts.

    simple: only the simple words, and short sentences; hasty: the label that a hasty reader gives.
    """
    if task == "similarity":
        return _compared(rng, kind, simple, hasty)
    makers = {
        "acceptability": _sentence,
        "inference": _pair,
        "paraphrase": _pair,
        "questions": _questions,
        "entailment": _report,
    }
    if task == "sentiment":
        made = _opinion(rng, kind, bool(label), simple)
        return made, 1 - label if hasty and kind in HASTY[task] else label
    return makers[task](rng, kind, simple), HASTY[task].get(kind, label) if hasty else label
