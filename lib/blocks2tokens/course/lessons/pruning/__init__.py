"""Lesson 27, pruning."""
