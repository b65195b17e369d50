"""Serving: one model, many texts at once.

requests -> a queue -> slots, pages and passes (`scheduler`) -> a queue for each answer (`answers`)
"""

from blocks2tokens.serving.answers import Answer
from blocks2tokens.serving.scheduler import Batcher, QueueFull

__all__ = ["Answer", "Batcher", "QueueFull"]
