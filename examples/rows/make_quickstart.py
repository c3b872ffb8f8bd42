"""Make the rows of the examples: a little world of villages and people, told as text, as questions, as conversations, and as a harbour's logbook.

    python examples/rows/make_quickstart.py [folder]

The same files come out every time. Every fact is asked in several ways, so that a held-out question is new and its answer can still be known.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

END = "<|endoftext|>"
# fmt: off
NAMES = (
    "Mira", "Tom", "Ada", "Finn", "Lena", "Otto", "Rosa", "Hugo", "Ines", "Carl", "Vera", "Jon", "Nora", "Paul", "Edda", "Luca",
    "Greta", "Sam", "Clara", "Theo", "Ida", "Max", "Anna", "Ben", "Lotte", "Karl", "Juna", "Emil", "Frida", "Leo", "Marta", "Noah",
)
# fmt: on
VILLAGES = ("Oakham", "Millbrook", "Stonebay", "Ferndale")
JOBS = ("baker", "fisher", "teacher", "gardener", "smith", "painter", "doctor", "miller")
ANIMALS = ("dog", "cat", "goat", "horse", "duck", "owl")
FOODS = ("apples", "bread", "soup", "honey", "cheese", "plums")

ASK = {
    "home": (
        "Where does {n} live?",
        "In which village is {n} at home?",
        "{n} lives where?",
        "Tell me the village of {n}.",
        "Which village does {n} call home?",
    ),
    "job": ("What is the job of {n}?", "What work does {n} do?", "{n} works as what?", "Tell me the job of {n}.", "How does {n} earn a living?"),
    "animal": ("Which animal does {n} have?", "What animal lives with {n}?", "{n} has which animal?", "Tell me the animal of {n}."),
    "food": ("What does {n} like to eat?", "Which food does {n} love?", "{n} eats what most?", "Tell me the food that {n} likes."),
}
SAY = {
    "home": "{n} lives in {home}.",
    "job": "{n} is a {job}.",
    "animal": "{n} has {an} {animal}.",
    "food": "{n} likes {food}.",
}


@dataclass(frozen=True)
class Person:
    """Who lives where, does what, keeps what and likes what."""

    name: str
    home: str
    job: str
    animal: str
    food: str

    def fill(self, text: str) -> str:
        """A text with this person's facts in its gaps."""
        facts = {"home": self.home, "job": self.job, "animal": self.animal, "food": self.food}
        return text.format(n=self.name, an="an" if self.animal[0] in "aeiou" else "a", **facts)


def people(dice: random.Random) -> list[Person]:
    """The inhabitants. A village has its own food and animals, so that the world can be learnt as well as remembered."""
    found = []
    for i, name in enumerate(NAMES):
        home = i % len(VILLAGES)
        found.append(Person(name, VILLAGES[home], JOBS[i % len(JOBS)], ANIMALS[home + dice.randrange(3)], FOODS[home + dice.randrange(3)]))
    return found


def questions(world: list[Person], dice: random.Random) -> list[tuple[str, str]]:
    """Questions and answers, each question once."""
    rows = [(person.fill(ask), person.fill(SAY[fact])) for person in world for fact, ways in ASK.items() for ask in ways]
    for person in world:
        rows.append((f"Does {person.name} live in {person.home}?", f"Yes, {person.name} lives in {person.home}."))
        other = dice.choice([village for village in VILLAGES if village != person.home])
        rows.append((f"Does {person.name} live in {other}?", f"No, {person.name} lives in {person.home}."))
        rows.append((f"Who is {person.name}?", person.fill("{n} is a {job} in {home}.")))
    for village in VILLAGES:
        for job in JOBS:
            there = [person.name for person in world if (person.home, person.job) == (village, job)]
            answer = f"{' and '.join(there)} of {village}." if there else f"{village} has no {job}."
            rows.append((f"Who is a {job} in {village}?", answer))
    dice.shuffle(rows)
    return rows


def stories(world: list[Person], dice: random.Random, count: int) -> Iterator[str]:
    """Short documents in which the facts of the world stand."""
    for _ in range(count):
        one, two = dice.sample(world, 2)
        told = [one.fill(SAY[fact]) for fact in dice.sample(sorted(SAY), 3)]
        meeting = [
            f"One day {one.name} met {two.name} on the road to {two.home}.",
            f"In the morning {one.name} went from {one.home} to see {two.name}.",
            f"{two.name} came to {one.home} and knocked at the door of {one.name}.",
        ]
        ending = [
            f"{two.name} the {two.job} gave {one.name} some {two.food}.",
            f"They ate {two.food} and looked at the {two.animal} of {two.name}.",
            f"They talked until the evening, and the {one.animal} slept.",
        ]
        yield " ".join([*told, dice.choice(meeting), two.fill(SAY[dice.choice(sorted(SAY))]), dice.choice(ending)])


def conversations(world: list[Person], dice: random.Random, count: int) -> Iterator[dict[str, object]]:
    """Talks of two or three questions about one person, some with a system turn."""
    for i in range(count):
        person = world[i % len(world)]
        turns = [{"role": "system", "content": "You know everyone in the four villages. Answer in one sentence."}] if dice.random() < 0.3 else []
        for fact in dice.sample(sorted(ASK), dice.choice((2, 3))):
            turns.append({"role": "user", "content": person.fill(dice.choice(ASK[fact]))})
            turns.append({"role": "assistant", "content": person.fill(SAY[fact])})
        turns += [{"role": "user", "content": "Thank you!"}, {"role": "assistant", "content": "You are welcome."}]
        yield {"messages": turns}


def logbook(world: list[Person], dice: random.Random, days: int) -> Iterator[str]:
    """Pages of a harbour's log: another way of writing than the stories, for domain adaptation."""
    boats, winds = ("Heron", "Petrel", "Curlew", "Tern"), ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
    for day in range(1, days + 1):
        lines = [f"LOG day {day:03d}. wind {dice.choice(winds)} {dice.randrange(1, 8)}, sea {dice.choice(('calm', 'slight', 'rough'))}."]
        for hour in sorted(dice.sample(range(5, 21), 4)):
            person, boat, crates = dice.choice(world), dice.choice(boats), dice.randrange(2, 30)
            event = dice.choice((f"in from {person.home}, {crates} crates {person.food}", f"out to {person.home}, {crates} crates {person.food}"))
            lines.append(f"{hour:02d}00 {boat} {event}, signed {person.name}, {person.job}.")
        yield "\n".join(lines)


def main(folder: Path) -> None:
    """Write the four files."""
    dice = random.Random(0)  # noqa: S311 - rows of an example, not a secret
    world = people(dice)
    rows = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in questions(world, dice)]
    (folder / "quickstart.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "quickstart.txt").write_text(f"\n{END}\n".join(stories(world, dice, 420)) + "\n", encoding="utf-8")
    talks = [json.dumps(row) for row in conversations(world, dice, 256)]
    (folder / "chat.jsonl").write_text("\n".join(dict.fromkeys(talks)) + "\n", encoding="utf-8")
    (folder / "logbook.txt").write_text(f"\n{END}\n".join(logbook(world, dice, 200)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
