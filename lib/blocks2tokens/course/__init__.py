"""Teaching helpers: what the lessons use around the engine. The engine never imports them.

environment   is everything installed and in place?
models        where the models of the course lie
roofline      this machine's ceilings: how fast it can read, how fast it can multiply
plot          one style for every figure
explore       live text and widgets over plain functions
"""
