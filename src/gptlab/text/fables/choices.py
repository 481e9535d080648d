"""What a fable decides, in which order, and with which probabilities. Language-neutral: values are names.

A choice is uniform over its values, but for those that earlier choices leave out (a helper is another animal than
the hero) or weight (virtues end well more often than vices).
"""

from dataclasses import dataclass, field

Choices = dict[str, str]  # name of the choice -> its value


@dataclass(frozen=True)
class Choice:
    """One decision: `values`, less those that the choices named in `other_than` took."""

    name: str
    values: tuple[str, ...]
    other_than: tuple[str, ...] = ()
    # value of an earlier choice -> probability of this choice's first value (of two); empty: uniform
    odds: dict[str, float] = field(default_factory=dict)
    given: str = ""  # the earlier choice that `odds` look at

    def distribution(self, earlier: Choices) -> dict[str, float]:
        """Probability by value, given the earlier choices; values of probability 0 are left out."""
        if self.odds:
            first = self.odds[earlier[self.given]]
            return dict(zip(self.values, (first, 1 - first), strict=True))
        taken = {earlier[name] for name in self.other_than}
        left = [value for value in self.values if value not in taken]
        return dict.fromkeys(left, 1 / len(left))


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ANIMALS = words(
    "fox wolf hare hedgehog bear owl crow mouse tortoise frog deer squirrel donkey goat sheep cat dog goose duck "
    "badger otter lion monkey ant bee cricket snail eagle mole peacock"
)
NAMES = words(
    "Lumi Tavi Kiro Zefi Nilo Romi Juno Pipo Dodi Miko Tibo Safi Bruni Oki Lelo Vidu Remi Yuki Gogo Fenu Kali Toto "
    "Zuri Nemo Rafi Suli Mumu Jori Beni Ziko Lilo Paku"
)
VIRTUES = words("brave patient kind honest generous curious")
VICES = words("greedy vain lazy proud stubborn envious")

CHOICES: tuple[Choice, ...] = (
    Choice("time", words("dawn noon evening night spring summer autumn winter market storm feast fog")),
    Choice(
        "place",
        words(
            "river forest hill meadow lake village castle mill orchard desert island valley mountain garden well "
            "shore bridge cave road swamp"
        ),
    ),
    Choice("hero", ANIMALS),
    Choice("name", NAMES),
    Choice("trait", VIRTUES + VICES),
    Choice(
        "thing",
        words(
            "bell key ring crown lantern book hat scarf drum flute mirror map basket shoe cup ribbon clock feather "
            "button pearl spoon blanket kite box"
        ),
    ),
    # A look suits every thing, a weather every time of the year, a feeling both ends of the story.
    Choice("look", words("red blue green golden silver purple white black tiny old new shining")),
    Choice("loss", words("wind stream magpie thief hole sleep crowd wave")),
    Choice("days", words("two three four five six seven eight nine")),
    Choice("weather", words("rain wind sun clouds stars mist hail mud drizzle dust")),
    Choice(
        "obstacle",
        words("river wall cliff thorns swamp gate tunnel fire volcano gorge maze dragon giant sea desert tower"),
        other_than=("place",),  # who lives in a swamp is not stopped by one
    ),
    Choice("age", words("old young tired hungry thirsty lonely")),
    Choice("helper", ANIMALS, other_than=("hero",)),
    Choice("friend", NAMES, other_than=("name",)),
    Choice(
        "gift",
        words("nuts honey bread apples song story cheese berries water soup milk cake grapes seeds fish flowers"),
    ),
    Choice(
        "mood",
        ("good", "bad"),
        odds=dict.fromkeys(VIRTUES, 0.8) | dict.fromkeys(VICES, 0.35),
        given="trait",
    ),
    Choice(
        "means",
        words("rope boat ladder torch wings whistle hammer stone branch raft carpet shovel net umbrella cart sled"),
    ),
    Choice(
        "found",
        words("oak rock nest roof straw root stairs mushroom sand leaves bush table barrel fence bed pillow"),
    ),
    Choice("feeling", words("calm thoughtful wiser surprised weary wistful moved hopeful")),
    Choice("finale", words("dance sing sleep walk laugh cook swim read plant sweep dream write")),
    *(
        Choice(f"telling{i}", ("a", "b", "c"))  # which of three ways to say each part
        for i in range(1, 9)
    ),
    Choice("moral", ("a", "b")),
)
