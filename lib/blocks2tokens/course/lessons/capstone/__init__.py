"""Lesson 33, the capstone: exercises, pictures, challenges, and an engine as a learner may end with."""
