"""Write ``requests.jsonl``: 240 chat requests, as a team might send them in one batch.

The output of ``python examples/make_requests.py`` is always the same. Five requests are invalid in
ways that only the API detects, so the batch also has an error file.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL = "gpt-4o-mini"
URL = "/v1/chat/completions"
TARGET = Path(__file__).with_name("requests.jsonl")

Request = dict[str, Any]

TROUBLES = [
    ("The invoice for {month} shows {amount} EUR, but my plan costs 49 EUR.", "billing"),
    ("Since the update the app closes as soon as I open the {part}.", "bug"),
    ("How do I invite a colleague to our {part}? I can't find the button.", "how-to"),
    ("I was charged twice in {month}, once {amount} EUR and once 49 EUR.", "billing"),
    ("Please delete my account and everything you stored since {month}.", "privacy"),
    ("It would be great if the {part} could be exported as a spreadsheet.", "feature request"),
    ("Der {part} lädt seit heute Morgen nicht mehr, wir können nicht arbeiten!", "bug"),
    ("Je n'arrive plus à me connecter depuis {month}. Pouvez-vous m'aider ?", "login"),
]
MOODS = ["", " This is the third time I write.", " Thanks in advance!", " We need it by Friday."]
PARTS = ["calendar", "dashboard", "report", "inbox", "map view"]
MONTHS = ["January", "March", "May", "August", "November"]

PRODUCTS = ["kettle", "rucksack", "desk lamp", "rain jacket", "cutting board", "bicycle bell"]
MATERIALS = ["recycled aluminium", "oak", "waxed cotton", "enamelled steel", "cork"]
BUYERS = ["students", "commuters", "small cafés", "people with little space", "gift hunters"]
TONES = ["plain", "playful", "elegant", "technical"]

SENTENCES = [
    "Your parcel is waiting at the shop around the corner.",
    "Switch the machine off before you open the cover, and let it cool for ten minutes.",
    "We are closed on public holidays.",
    "The meeting was moved from Tuesday to Thursday, because half of the team is ill.",
    "Can I return the shoes if I have already worn them once?",
    "Children under six travel free when an adult with a valid ticket goes with them.",
]
LANGUAGES = ["Deutsch", "français", "español", "日本語", "العربية", "Ελληνικά", "中文", "português"]

PEOPLE = ["Zoë Lindqvist", "José Muñoz", "Łukasz Wójcik", "Aiko Tanaka", "Nguyễn Thị Hoa"]
CITIES = ["Malmö", "Sevilla", "Kraków", "Osaka", "Đà Nẵng"]
INVOICE_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "city": {"type": "string"},
        "date": {"type": "string", "description": "ISO 8601"},
        "total_eur": {"type": "number"},
    },
    "required": ["name", "city", "date", "total_eur"],
    "additionalProperties": False,
}

SNIPPETS = [
    "def mean(xs):\n    return sum(xs) / len(xs)",
    "for i in range(len(rows)):\n    if rows[i] == None:\n        rows.remove(rows[i])",
    "func load(p string) []byte {\n\tb, _ := os.ReadFile(p)\n\treturn b\n}",
    "SELECT * FROM orders WHERE customer = '\" + name + \"' ORDER BY 1",
    "const total = items.map(i => i.price).reduce((a, b) => a + b)",
    "def add(item, basket=[]):\n    basket.append(item)\n    return basket",
]
QUESTIONS = [
    "What breaks this on unusual input?",
    "Is there a security problem? Answer yes or no, then why.",
    "Rewrite it so that a beginner understands it.",
    "Which tests would you write first? At most three, one line each.",
]

REFUSED: list[Request] = [
    {"messages": [{"role": "user", "content": "Be wild."}], "temperature": 3.5},
    {"messages": []},
    {"messages": [{"role": "user", "content": "Say nothing."}], "max_tokens": -1},
    {"messages": [{"role": "user", "content": "Be cold."}], "temperature": -0.5},
    {"messages": [{"role": "user", "content": "Say less."}], "max_tokens": 0},
]


def chat(system: str | None, user: str, **options: Any) -> Request:
    messages = [{"role": "system", "content": system}] if system else []
    return {"messages": [*messages, {"role": "user", "content": user}], **options}


def ticket(rng: random.Random) -> Request:
    text, _ = rng.choice(TROUBLES)
    text = text.format(
        month=rng.choice(MONTHS), amount=rng.randrange(50, 400), part=rng.choice(PARTS)
    )
    labels = ", ".join(sorted({label for _, label in TROUBLES}))
    system = f"Classify the support ticket. Answer with one of: {labels}."
    return chat(system, text + rng.choice(MOODS), temperature=0, max_tokens=5)


def product(rng: random.Random) -> Request:
    words = rng.choice([40, 80, 150])
    user = (
        f"Describe a {rng.choice(PRODUCTS)} made of {rng.choice(MATERIALS)} "
        f"for {rng.choice(BUYERS)}, in about {words} words."
    )
    system = f"You write for a small online shop. Your tone is {rng.choice(TONES)}."
    return chat(system, user, temperature=rng.choice([0.7, 0.9, 1.2]), max_tokens=words * 2)


def translation(rng: random.Random) -> Request:
    text = " ".join(rng.sample(SENTENCES, rng.randint(1, 4)))
    return chat(f"Translate into {rng.choice(LANGUAGES)}. Reply with the text only.", text)


def invoice(rng: random.Random) -> Request:
    text = (
        f"{rng.choice(PEOPLE)}, {rng.choice(CITIES)}. Invoice of {rng.randint(1, 28)} "
        f"{rng.choice(MONTHS)} 2025: {rng.randint(1, 9)} pieces, {rng.choice(PRODUCTS)}, "
        f"€{rng.uniform(10, 900):.2f} in all, payable within 14 days."
    )
    schema = {"name": "invoice", "strict": True, "schema": INVOICE_SCHEMA}
    response_format = {"type": "json_schema", "json_schema": schema}
    return chat("Extract the invoice.", text, temperature=0, response_format=response_format)


def review(rng: random.Random) -> Request:
    user = f"{rng.choice(QUESTIONS)}\n\n```\n{rng.choice(SNIPPETS)}\n```"
    system = rng.choice([None, "You are a patient senior engineer.", "Be brief."])
    return chat(system, user, temperature=0.2, max_tokens=rng.choice([150, 300, 600]), seed=7)


def requests(rng: random.Random) -> Iterator[tuple[str, Request]]:
    """Pairs of a ``custom_id`` and a body."""
    kinds = {"ticket": ticket, "product": product, "translation": translation}
    kinds |= {"invoice": invoice, "review": review}
    for number in range(1, 48):
        for name, make in kinds.items():
            yield f"{name}-{number:04}", make(rng)
    for number, body in enumerate(REFUSED, 1):
        yield f"refused-{number:04}", body


def main() -> None:
    """Write the file next to this one."""
    pairs = list(requests(random.Random(2025)))  # noqa: S311 - examples, not secrets
    random.Random(7).shuffle(pairs)  # noqa: S311
    lines = [
        {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": MODEL, **body}}
        for custom_id, body in pairs
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    TARGET.write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(lines)} requests in {TARGET.name}")


if __name__ == "__main__":
    main()
