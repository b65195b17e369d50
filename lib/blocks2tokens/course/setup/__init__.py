"""Setting up: is all here, the learner's copy of the lessons, running and saving them."""
