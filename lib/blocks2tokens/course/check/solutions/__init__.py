"""Solutions in the words of the lessons: each can be pasted into its exercise's cell, and passes its check.

A module for each lesson, with the names that the lesson has. The engine's own functions do the same in
other forms: compiled, for whole matrices, or inside of something larger.
"""
