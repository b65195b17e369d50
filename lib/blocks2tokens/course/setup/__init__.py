"""Setting up: is all here, the learner's copy of the lessons, JupyterLab, running and saving lessons."""
