"""The texts of the lesson on tokens.

novels()     what Austen was trained on
ARTICLE_1    one sentence in eight languages
CODE         a few lines of Python
"""

from blocks2tokens.course import models

ARTICLE_1 = {  # of the Universal Declaration of Human Rights, its first sentence
    "English": "All human beings are born free and equal in dignity and rights.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Russian": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}

CODE = """class Cache:
    def __init__(self, capacity):
        self.length = 0
        self.keys = [None] * capacity

    def append(self, key):
        if self.length == len(self.keys):
            raise ValueError("the cache is full")
        self.keys[self.length] = key
        self.length += 1
"""


def novels() -> str:
    """Return the text that Austen was trained on, without its marks between chapters."""
    return models.training_text().replace("<|endoftext|>", "")
