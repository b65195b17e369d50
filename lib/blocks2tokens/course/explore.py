"""Live text and widgets, each over a plain function that a lesson can call without them.

speak(model, "It is a truth")      text that grows in the notebook, with its progress and speed
playground(models)                 the same with a prompt box, sliders and a button
"""

import html
import time

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display

from blocks2tokens.course import anatomy, plot
from blocks2tokens.formats import FORMATS
from blocks2tokens.generate import Model
from blocks2tokens.sampler import Sampler

BOX = "font-family:Georgia,serif;font-size:1.05em;line-height:1.5;white-space:pre-wrap;max-width:46em"
NOTE = "font-family:sans-serif;font-size:0.85em;color:#595959;margin-top:0.4em"


def speak(
    model: Model,
    prompt: str,
    max_tokens: int = 60,
    temperature: float = 0.0,
    top_k: int = 40,
    seed: int | None = None,
    chat: bool = False,
) -> str:
    """Show the model's text as it comes and return it. Interrupting keeps what is there.

    With chat=True the prompt is a user's message, put into the model's own chat format. The text is
    cut short where the model's context ends.
    """
    tokenizer = model.tokenizer
    text = tokenizer.render_chat([{"role": "user", "content": prompt}]) if chat else prompt
    ids = tokenizer.encode(text)
    room = model.config.context_length - len(ids)
    max_tokens = max(0, min(max_tokens, room))
    sampler = Sampler(temperature=temperature, top_k=top_k, seed=seed)
    shown = _LiveText("" if chat else prompt, max_tokens)
    try:
        for piece in tokenizer.decode_stream(shown.counted(model.generate(ids, max_tokens, sampler))):
            shown.add(piece)
        shown.finish("")
    except KeyboardInterrupt:
        shown.finish(", interrupted")
    return shown.text


class _LiveText:
    """A prompt, the text behind it and a progress line, shown in place and updated."""

    def __init__(self, prompt: str, max_tokens: int):
        self.prompt, self.max_tokens = prompt, max_tokens
        self.text, self.n_tokens = "", 0
        self.start, self.first, self.drawn = time.perf_counter(), None, 0.0
        self.handle = display(HTML(self._html("reading the prompt")), display_id=True)

    def counted(self, ids):
        """Pass ids through; note when the first came and how many there are."""
        for i in ids:
            self.first = self.first or time.perf_counter()
            self.n_tokens += 1
            yield i

    def add(self, piece: str) -> None:
        self.text += piece
        if time.perf_counter() - self.drawn > 0.1:  # ten times a second is as fast as people read
            self._draw(f"{self.n_tokens} of {self.max_tokens} tokens{self._speed()}")

    def finish(self, how: str) -> None:
        self._draw(f"{self.n_tokens} tokens{self._speed()}{how}")

    def _speed(self):
        if self.n_tokens < 2:
            return ""
        now = time.perf_counter()
        rate = (self.n_tokens - 1) / (now - self.first)
        return f", the first after {self.first - self.start:.2f} s, then {rate:.1f} a second"

    def _draw(self, note):
        if self.handle is not None:
            self.handle.update(HTML(self._html(note)))
        self.drawn = time.perf_counter()

    def _html(self, note):
        prompt, text = html.escape(self.prompt), html.escape(self.text)
        return (
            f'<div style="{BOX}"><span style="color:#595959">{prompt}</span><b>{text}</b></div>'
            f'<div style="{NOTE}">{html.escape(note)}</div>'
        )


def playground(models: dict[str, Model]) -> widgets.Widget:
    """Return a panel to try the models: prompt, temperature, top-k, length.

    Models with a chat template answer the prompt; the others continue it.
    """
    model = widgets.ToggleButtons(options=list(models), description="model")
    prompt = widgets.Textarea(
        "It was the opinion of the whole family that", layout=widgets.Layout(width="46em", height="4.5em")
    )
    temperature = widgets.FloatSlider(0.8, min=0, max=2, step=0.05, description="temperature")
    top_k = widgets.IntSlider(40, min=0, max=200, description="top-k")
    length = widgets.IntSlider(80, min=1, max=300, description="length")
    button = widgets.Button(description="Generate", button_style="primary", icon="play")
    output = widgets.Output()

    def generate(_):
        button.disabled = True
        output.clear_output()
        try:
            with output:
                chosen = models[model.value]
                chat = chosen.tokenizer.chat_template is not None
                speak(chosen, prompt.value, length.value, temperature.value, top_k.value, chat=chat)
        finally:
            button.disabled = False

    button.on_click(generate)
    controls = widgets.VBox([model, prompt, widgets.HBox([temperature, top_k, length]), button])
    return widgets.VBox([controls, output])


def show_weight(name: str, block: np.ndarray, weight: int) -> None:
    """Draw a block, uint8 [bytes], with one weight traced and its value among those it could have."""
    fmt = FORMATS[name]
    anatomy.draw(fmt, block, weight)
    code, values = anatomy.levels(fmt, block, weight)
    axes = plt.subplots(figsize=(10, 1.3))[1]
    axes.vlines(values, 0, 1, color=plot.GREY, lw=1)
    axes.plot(values[code], 0.5, "D", color=plot.RED, ms=9)
    axes.set(yticks=[], xlabel="value", title=f"The {len(values)} values that weight {weight} can have here")
    axes.grid(visible=False)
    plt.show()


def block_inspector(blocks: dict[str, np.ndarray]) -> widgets.Widget:
    """Return a panel over {format name: blocks, uint8 [n, bytes]}: choose format, block and weight."""
    name = widgets.Dropdown(options=list(blocks), description="format")
    block = widgets.IntSlider(0, min=0, max=0, description="block", continuous_update=False)
    weight = widgets.IntSlider(0, min=0, max=0, description="weight", continuous_update=False)

    def limit(_=None):
        block.max, weight.max = len(blocks[name.value]) - 1, FORMATS[name.value].block_size - 1

    def show(name, block, weight):
        show_weight(name, blocks[name][min(block, len(blocks[name]) - 1)], weight)

    limit()
    name.observe(limit, "value")
    picture = widgets.interactive_output(show, {"name": name, "block": block, "weight": weight})
    return widgets.VBox([widgets.HBox([name, block, weight]), picture])


def move_weight(x: np.ndarray, index: int, value: float, name: str) -> None:
    """Draw weights x, float32 [block size], quantized with x[index] = value, beside the originals."""
    fmt = FORMATS[name]
    moved = x.copy()
    moved[index] = value
    block = fmt.quantize(moved)
    decoded = fmt.dequantize(block)
    axes = plt.subplots()[1]
    for level in anatomy.levels(fmt, block, index)[1]:
        axes.axhline(level, color="0.88", lw=0.7, zorder=0)
    axes.plot(moved, "o", color=plot.GREY, label="weights")
    axes.plot(decoded, "x", color=plot.RED, mew=2, label="after " + name)
    axes.plot(index, value, "o", ms=13, mfc="none", mec=plot.BLUE, mew=2, label="the one that you move")
    error = np.sqrt(np.mean((np.delete(decoded, index) - np.delete(moved, index)) ** 2))
    axes.set(xlabel="weight", ylabel="value", title=f"{name}: the other weights are off by {error:.4f} (RMS)")
    axes.grid(visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def weight_mover(x: np.ndarray, names: list[str]) -> widgets.Widget:
    """Return a panel that moves one weight of x, float32 [block size], and shows the others."""
    reach = float(4 * np.abs(x).max())
    name = widgets.ToggleButtons(options=names, description="format")
    index = widgets.IntSlider(
        len(x) // 4, min=0, max=len(x) - 1, description="weight", continuous_update=False
    )
    value = widgets.FloatSlider(
        float(x[len(x) // 4]),
        min=-reach,
        max=reach,
        step=reach / 100,
        description="value",
        continuous_update=False,
    )

    def show(name, index, value):
        move_weight(x, index, value, name)

    picture = widgets.interactive_output(show, {"name": name, "index": index, "value": value})
    return widgets.VBox([name, widgets.HBox([index, value]), picture])
