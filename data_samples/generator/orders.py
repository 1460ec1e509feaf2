"""Write the rows of the orders task: `python data_samples/generator/orders.py`.

A phrase belongs to one split by its hash. Some wordings and names are only in test rows, whose
`group` says so. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from kit import tasks

FOLDER = Path(__file__).parents[1] / "orders"
SYSTEM = tasks.module("orders").system
SEED, TRAIN, PAIRS = 7, 900, 240
TEST = {"plain": 60, "typing errors": 30, "new wording": 40, "new names": 40}

ITEMS = {
    "margherita": ("margherita", "margarita"),
    "pepperoni": ("pepperoni", "peperoni"),
    "hawaii": ("hawaii", "hawaiian"),
    "funghi": ("funghi", "mushroom"),
    "tonno": ("tonno", "tuna"),
    "veggie": ("veggie", "vegetarian", "vegetable"),
    "four cheese": ("four cheese", "4 cheese"),
    "calzone": ("calzone",),
    "diavola": ("diavola", "hot salami"),
    "spinach": ("spinach",),
    "salami": ("salami",),
    "bbq chicken": ("bbq chicken", "barbecue chicken"),
    "seafood": ("seafood",),
    "napoli": ("napoli", "anchovy"),
}
SIZES = {
    "small": ("small", "little", "mini"),
    "medium": ("medium", "normal", "regular"),
    "large": ("large", "big", "family size"),
}
COUNTS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Leila",
    "Marco",
    "Nadia",
    "Oscar",
    "Paula",
    "Rafael",
    "Sara",
    "Tom",
    "Ulla",
    "Victor",
    "Wanda",
    "Yusuf",
    "Zoe",
    "Maria",
    "Peter",
    "Lucas",
    "Emma",
    "Noah",
    "Lina",
    "Omar",
    "Julia",
    "Felix",
    "Clara",
    "Adam",
    "Nina",
    "Simon",
    "Rosa",
    "Paul",
    "Eva",
    "Max",
    "Laura",
)
NEW_NAMES = (
    "Bruno",
    "Diana",
    "Erik",
    "Fatima",
    "Greta",
    "Ivan",
    "Karim",
    "Mona",
    "Oliver",
    "Sofia",
    "Tilda",
    "Walter",
)

# {o} is the order, {n} the name.
FRAMES = (
    "{o} for {n}",
    "{o} for {n} please",
    "hi, {o} for {n}",
    "hello, can I get {o} for {n}?",
    "can i have {o}, name is {n}",
    "I'd like {o}. The name is {n}.",
    "{n} here, {o} please",
    "this is {n}, i want {o}",
    "order for {n}: {o}",
    "{n}: {o}",
    "we need {o}, put it on {n}",
    "could you make {o} for {n}?",
    "{o}, {n} will pick it up",
    "{o} please, my name is {n}",
    "good evening, {o} for {n}, thanks",
    "one order for {n}, {o}",
    "hey it's {n}, {o} as usual",
    "i'll take {o}, name {n}",
    "may I order {o}? {n} is the name",
    "please write down {o} for {n}",
    "{o} - {n}",
    "it's {n} again: {o}, thank you",
    "for {n}, {o}",
    "{o} under the name {n}",
    "let me get {o} for {n}",
    "give me {o}, it's for {n}",
    "so {o} and that's for {n}",
)
NEW_FRAMES = (
    "{n} called and wants {o}",
    "send {o} over, signed {n}",
    "tonight {n} eats {o}",
    "my friend {n} would love {o}",
    "table of {n}: bring {o}",
    "{o} is what {n} asked me to order",
    "put {n} down for {o}",
    "dinner for {n} will be {o}",
)
# {c} is the count, {s} the size, {i} the item.
ORDERS = (
    "{c} {s} {i}",
    "{c} {s} {i}",
    "{c} {s} {i} pizza",
    "{c} {i}, {s}",
    "{c} {i} in {s}",
    "{c} {i} pizza, {s} ones",
    "{c} of the {s} {i}",
    "{c} times {i} {s}",
)
NO_SIZE = ("{c} {i}", "{c} {i} pizza", "{c} of the {i}", "{c} times {i}")
CHATTER = (
    "Sure! {j}",
    "Here you go: {j}",
    "The order is {j}",
    "{j} Enjoy!",
    "Your order: {j}",
    "Got it. {j}",
    "Okay, {j}",
    "Thank you for your order! {j}",
    "I wrote down {j}",
    "Done: {j} Anything else?",
    "Order as JSON:\n{j}",
)


def tidy(order: dict) -> str:
    """Return the order as one line of JSON without spaces."""
    return json.dumps(order, ensure_ascii=False, separators=(",", ":"))


def mistyped(rng: random.Random, text: str, name: str) -> str:
    """Swap, drop or double a letter in one or two words; the name stays as the customer says it."""
    words = text.split(" ")
    spots = [
        at for at, word in enumerate(words) if len(word) > 4 and word.isalpha() and word != name
    ]
    for at in rng.sample(spots, min(len(spots), rng.choice((1, 1, 2)))):
        word, cut = words[at], rng.randrange(1, len(words[at]) - 2)
        swapped = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
        words[at] = rng.choice(
            (swapped, word[:cut] + word[cut + 1 :], word[:cut] + word[cut] + word[cut:])
        )
    return " ".join(words)


def draw(rng: random.Random, group: str) -> tuple[str, dict]:
    """Return a phrase and its order; `group` decides wording, name and typing errors."""
    item, size, count = (
        rng.choice(list(ITEMS)),
        rng.choice(list(SIZES)),
        min(rng.choice(range(1, 10)), rng.choice(range(1, 10))),
    )
    name = rng.choice(NEW_NAMES if group == "new names" else NAMES)
    plain = size == "medium" and rng.random() < 0.7
    number = (
        rng.choice(("a", "a", "one", "1", "just one"))
        if count == 1
        else rng.choice((COUNTS[count], str(count), f"{count}x"))
    )
    words = rng.choice(NO_SIZE if plain else ORDERS).format(
        c=number, s=rng.choice(SIZES[size]), i=rng.choice(ITEMS[item])
    )
    if count > 1 and words.endswith("pizza") and rng.random() < 0.8:
        words += "s"
    text = rng.choice(NEW_FRAMES if group == "new wording" else FRAMES).format(o=words, n=name)
    if group == "typing errors" or group == "train" and rng.random() < 0.12:
        text = mistyped(rng, text, name)
    if rng.random() < 0.35:
        text = text[0].upper() + text[1:]
    return text, {"item": item, "size": size, "count": count, "name": name}


def split_of(text: str) -> str:
    """Return the split that a phrase belongs to."""
    key = " ".join(text.casefold().split())
    return "test" if hashlib.sha256(key.encode()).digest()[0] < 51 else "train"


def orders(rng: random.Random, group: str, texts: set[str]) -> Iterator[tuple[str, dict]]:
    """Yield phrases of one split that no row has yet."""
    while True:
        text, order = draw(rng, group)
        key = text.casefold()
        if split_of(text) == ("train" if group == "train" else "test") and key not in texts:
            texts.add(key)
            yield text, order


def spoken(rng: random.Random, order: dict) -> str:
    """Write an order as annotators do: half of them tidy, the others inside a sentence or over many
    lines."""
    style = rng.random()
    if style < 0.5:
        return tidy(order)
    return untidy(rng, order) if style < 0.8 else json.dumps(order, ensure_ascii=False)


def untidy(rng: random.Random, order: dict) -> str:
    """Write an order inside a sentence or over many lines."""
    if rng.random() < 0.7:
        return rng.choice(CHATTER).format(
            j=rng.choice((tidy(order), json.dumps(order, ensure_ascii=False)))
        )
    return json.dumps(order, ensure_ascii=False, indent=1)


def said(role: str, content: str) -> dict:
    """Return one message."""
    return {"role": role, "content": content}


def rows() -> dict[str, list[dict]]:
    """Return the rows of the three files."""
    rng, texts = random.Random(SEED), set()
    train, test, pairs = [], [], []
    fresh = orders(rng, "train", texts)
    for _ in range(TRAIN):
        text, order = next(fresh)
        train.append(
            {
                "messages": [
                    said("system", SYSTEM),
                    said("user", text),
                    said("assistant", spoken(rng, order)),
                ]
            }
        )
    for _ in range(PAIRS):
        text, order = next(fresh)
        pairs.append(
            {
                "prompt": [said("system", SYSTEM), said("user", text)],
                "chosen": [said("assistant", tidy(order))],
                "rejected": [said("assistant", untidy(rng, order))],
            }
        )
    for group, count in TEST.items():
        made = orders(rng, group, texts)
        for _ in range(count):
            text, order = next(made)
            turns = [said("system", SYSTEM), said("user", text), said("assistant", tidy(order))]
            test.append({"messages": turns, "group": group})
    rng.shuffle(test)
    return {"train": train, "test": test, "preferences": pairs}


def main() -> None:
    """Read the flag and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the three files")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in rows().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
