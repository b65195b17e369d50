"""The texts that lesson 28 asks for: two that say again what was there, and two that do not.

prompt(model, "quoting")      ids of a question to SmolLM2, and of how its answer begins
PROMPTS                       quoting, editing, a story, explaining
"""

PASSAGE = (
    "The lighthouse keeper climbed the hundred and twelve steps every evening, whatever the weather. At the "
    "top he trimmed the wick, wiped the salt from the glass, and wrote the hour in a book that nobody would "
    "ever read. Then he sat down and watched the ships pass, one small light after another, until the "
    "morning came."
)

CODE = '''def read_scores(path):
    """Read a file of names and scores, one pair in each line."""
    scores = {}
    with open(path) as file:
        for line in file:
            name, value = line.split(",")
            scores[name.strip()] = float(value)
    return scores


def best_of(scores, count):
    """Return the names with the best scores, the best first."""
    names = sorted(scores, key=scores.get, reverse=True)
    return names[:count]


def mean_of(scores):
    """Return the mean of all scores, 0 if there are none."""
    if not scores:
        return 0.0
    return sum(scores.values()) / len(scores)
'''

REWRITE = "Write the whole code again, all of it. Replace each double quote by a single quote."
PROMPTS = {  # the question, and the beginning of the answer
    "quoting": (f"Repeat the following text word for word:\n\n{PASSAGE}", ""),
    "editing": (f"Here is some code:\n\n```python\n{CODE}```\n\n{REWRITE}", "```python\n"),
    "a story": ("Write a short story about a lighthouse keeper who finds a letter in a bottle.", ""),
    "explaining": ("Explain why the sky is blue, in a few paragraphs.", ""),
}


def prompt(model, name: str) -> list[int]:
    """Return the ids of one of PROMPTS for a chat model; KeyError for another name."""
    question, start = PROMPTS[name]
    tokenizer = model.tokenizer
    ids = tokenizer.encode_chat([{"role": "user", "content": question}])
    return [int(i) for i in ids] + [int(i) for i in (tokenizer.encode(start) if start else [])]
