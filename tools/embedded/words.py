"""The words of the embedded language suite, and clauses made of them.

The same generator state gives the same clause. What can be done to clauses is in examples.py.
"""

from collections.abc import Callable
from typing import NamedTuple

from numpy.random import Generator

from task_arithmetic.embedded.draw import pick

# Groups of synonyms: "doctor|physician". In the first half of each list, first of each group: the
# simple words, the only ones of the easy examples that the encoder is pretrained on.
PEOPLE = (
    "man boy doctor|physician farmer child|kid thief|robber girl woman painter lawyer|attorney "
    "teacher|tutor singer|vocalist sailor student|pupil"
)
# What the things of a list are in general, and the list.
THINGS = {
    "animal": "dog horse cow rabbit|bunny donkey|mule cat",
    "vehicle": "car|automobile truck boat|ship bike|bicycle",
    "tool": "hammer saw shovel|spade knife|blade",
    "instrument": "guitar drum violin|fiddle flute",
    "garment": "hat|cap shirt coat|jacket dress|gown",
}
# Opposites on the two sides of a slash.
VERBS = (
    "buy|purchase/sell find|discover/lose push|shove/pull|drag love|adore/hate|detest "
    "fix|repair/break|damage hide|conceal/show|display clean|wash/stain praise|admire/blame"
)
ADJECTIVES = (
    "big|large/small|little old|ancient/new|modern strong|powerful/weak|feeble "
    "quiet|silent/loud|noisy pretty|beautiful/ugly|hideous"
)
PLACES = (
    "in the park,in the city,near the river,at the market,at the school,"
    "in the garden,near the bridge,at the station,behind the church,on the island"
).split(",")
IRREGULAR = {  # base form: past, participle
    "buy": "bought bought",
    "sell": "sold sold",
    "find": "found found",
    "lose": "lost lost",
    "break": "broke broken",
    "hide": "hid hidden",
    "show": "showed shown",
    "drag": "dragged dragged",
}
PLURALS = {"man": "men", "woman": "women", "child": "children", "thief": "thieves"}
PLURALS |= {"knife": "knives", "person": "people", "bunny": "bunnies"}
NAMES = "anna peter maria tom lucy david emma paul clara victor nina oscar".split()
TOWNS = "paris rome london berlin madrid vienna".split()

ASPECTS = "film plot music cast book ending script story acting show".split()
PRAISE = "good great funny clever fresh charming brilliant superb moving gripping elegant".split()
BLAME = "bad dull boring silly stale awful clumsy dreadful tedious bland shallow".split()
LIKED = "love enjoy like admire adore".split()
DISLIKED = "hate dislike regret despise detest".split()

# What a question asks for -> its wordings; {} is what is done to what.
WORDINGS = {
    "way": (
        "how do i {}",
        "how can i {}",
        "what is the best way to {}",
        "can you explain how to {}",
        "what are the steps to {}",
    ),
    "place": (
        "where can i {}",
        "where do people {}",
        "what is the best place to {}",
        "can you tell me where to {}",
        "in which town should i {}",
    ),
    "time": (
        "when should i {}",
        "when can i {}",
        "what is the best time to {}",
        "can you tell me when to {}",
        "in which month should i {}",
    ),
    "reason": (
        "why should i {}",
        "why do people {}",
        "what is the best reason to {}",
        "can you explain why to {}",
        "what makes people {}",
    ),
}


def _groups(text: str) -> list[list[str]]:
    return [group.split("|") for group in text.split()]


def _sides(text: str) -> list[list[list[str]]]:
    """ "a|b/c" -> [["a", "b"], ["c"]] for each pair of opposites."""
    return [[side.split("|") for side in pair.split("/")] for pair in text.split()]


PERSON_GROUPS = _groups(PEOPLE)
THING_GROUPS = [group for text in THINGS.values() for group in _groups(text)]
SIMPLE_THINGS = [g for text in THINGS.values() for g in _groups(text)[: len(text.split()) // 2]]
VERB_PAIRS, ADJECTIVE_PAIRS = _sides(VERBS), _sides(ADJECTIVES)
SYNONYMS = {
    word: [other for other in group if other != word]
    for group in (
        *PERSON_GROUPS,
        *THING_GROUPS,
        *(side for pair in VERB_PAIRS + ADJECTIVE_PAIRS for side in pair),
    )
    for word in group
}
OPPOSITES = {
    word: pair[1 - i] for pair in VERB_PAIRS for i, side in enumerate(pair) for word in side
}
GENERAL = {w: kind for kind, text in THINGS.items() for group in _groups(text) for w in group}
GENERAL |= {word: "person" for group in PERSON_GROUPS for word in group}


class Clause(NamedTuple):
    """Who does what to what, and where; `place` "": nowhere said, an adjective "": none."""

    subject: str
    verb: str
    object: str
    place: str = ""
    subject_adjective: str = ""
    object_adjective: str = ""
    plural: bool = False  # the subject
    article: str = "the"  # of the object: the, a, two
    past: bool = False
    negated: bool = False


def chance(rng: Generator, share: float) -> bool:
    """True in this share of calls."""
    return bool(rng.random() < share)


def plural(noun: str) -> str:
    """More than one of a noun."""
    return PLURALS.get(noun, noun + ("es" if noun.endswith(("s", "x", "ch")) else "s"))


def past(verb: str) -> str:
    """Past form of a verb."""
    return IRREGULAR[verb].split()[0] if verb in IRREGULAR else _regular(verb)


def participle(verb: str) -> str:
    """Past participle of a verb."""
    return IRREGULAR[verb].split()[1] if verb in IRREGULAR else _regular(verb)


def _regular(verb: str) -> str:
    return verb + ("d" if verb.endswith("e") else "ed")


def singular_form(verb: str) -> str:
    """The verb after he, she, it."""
    return verb + ("es" if verb.endswith(("sh", "x", "ss", "ch")) else "s")


def person(rng: Generator, simple: bool = False) -> str:
    """A noun for a human being."""
    if simple:
        return pick(rng, PERSON_GROUPS[: len(PERSON_GROUPS) // 2])[0]
    return pick(rng, pick(rng, PERSON_GROUPS))


def thing(rng: Generator, simple: bool = False) -> str:
    """A noun for an animal or a thing."""
    return pick(rng, SIMPLE_THINGS)[0] if simple else pick(rng, pick(rng, THING_GROUPS))


def verb(rng: Generator, simple: bool = False) -> str:
    """A transitive verb."""
    if simple:
        return pick(rng, pick(rng, VERB_PAIRS[: len(VERB_PAIRS) // 2]))[0]
    return pick(rng, pick(rng, pick(rng, VERB_PAIRS)))


def adjective(rng: Generator, simple: bool = False) -> str:
    """An adjective for people and things."""
    if simple:
        return pick(rng, pick(rng, ADJECTIVE_PAIRS[: len(ADJECTIVE_PAIRS) // 2]))[0]
    return pick(rng, pick(rng, pick(rng, ADJECTIVE_PAIRS)))


def place(rng: Generator, simple: bool = False) -> str:
    """Where something happens."""
    return pick(rng, PLACES[: len(PLACES) // 2] if simple else PLACES)


def other(rng: Generator, draw: Callable, word: str, simple: bool = False) -> str:
    """Another word of the same sort that means something else."""
    while True:
        found = draw(rng, simple)
        if found != word and found not in SYNONYMS.get(word, ()):
            return found


def clause(
    rng: Generator, simple: bool = False, adjectives: float = 0.4, places: float = 0.6
) -> Clause:
    """A random clause; adjectives, places: how often there are some."""
    return Clause(
        person(rng, simple),
        verb(rng, simple),
        thing(rng, simple),
        place(rng, simple) if chance(rng, places) else "",
        adjective(rng, simple) if chance(rng, adjectives) else "",
        adjective(rng, simple) if chance(rng, adjectives) and not simple else "",
        chance(rng, 0.4),
        pick(rng, ("the", "a", "two")),
        chance(rng, 0.5),
    )


def phrase(article: str, describing: str, noun: str) -> str:
    """Article, adjective and noun: "two big dogs"."""
    words = f"{describing} {plural(noun) if article == 'two' else noun}".strip()
    return f"{'an' if article == 'a' and words[0] in 'aeiou' else article} {words}"


def subject_of(told: Clause) -> str:
    """The subject of a clause as a phrase."""
    noun = plural(told.subject) if told.plural else told.subject
    return f"the {told.subject_adjective} {noun}".replace("  ", " ")


def words_of(told: Clause, passive: bool = False, front: bool = False) -> str:
    """A clause as a sentence, without a full stop."""
    subject = subject_of(told)
    obj = phrase(told.article, told.object_adjective, told.object)
    if passive:
        many = told.article == "two"
        be = ("were" if many else "was") if told.past else ("are" if many else "is")
        no = " not" if told.negated else ""
        text = f"{obj} {be}{no} {participle(told.verb)} by {subject}"
    else:
        if told.negated:
            do = "did" if told.past else "do" if told.plural else "does"
            said = f"{do} not {told.verb}"
        elif told.past:
            said = past(told.verb)
        else:
            said = told.verb if told.plural else singular_form(told.verb)
        text = f"{subject} {said} {obj}"
    if told.place:
        text = f"{told.place} {text}" if front else f"{text} {told.place}"
    return text
