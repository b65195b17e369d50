"""Live text and widgets, each over a plain function that a lesson can call without them.

speak(model, "It is a truth")      text that grows in the notebook, with its progress and speed
playground(models)                 the same with a prompt box, sliders and a button
"""

import html
import threading
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
FAINT = "opacity:0.65"
WIDE = {"description_width": "initial"}


def speak(
    model: Model,
    prompt: str,
    max_tokens: int = 60,
    temperature: float = 0.0,
    top_k: int = 40,
    seed: int | None = None,
    chat: bool = False,
) -> str:
    """Show the model's text as it comes and return it. Interrupting leaves what is there on the screen.

    With chat=True the prompt is a user's message, put into the model's own chat format. The text is
    cut short where the model's context ends.
    """
    handle = display(HTML(""), display_id=True)

    def show(page):
        if handle is not None:  # outside a notebook there is nothing to update
            handle.update(HTML(page))

    return _speak(model, prompt, max_tokens, Sampler(temperature, top_k, seed=seed), chat, show)


def _speak(model, prompt, max_tokens, sampler, chat, show, stop=lambda: False) -> str:
    """Generate, calling show(page of HTML) some ten times a second, until the end or until stop()."""
    tokenizer = model.tokenizer
    said = [{"role": "user", "content": prompt}]
    ids = tokenizer.encode_chat(said) if chat else tokenizer.encode(prompt, special=False)
    room = max(0, min(max_tokens, model.config.context_length - len(ids)))
    page = _Page(prompt, "\n" if chat else "", room, show)
    try:
        for piece in tokenizer.decode_stream(page.counted(model.generate(ids, room, sampler))):
            page.add(piece)
            if stop():
                page.finish(", stopped")
                return page.text
    except KeyboardInterrupt:
        page.finish(", interrupted")
        raise
    page.finish("")
    return page.text


class _Page:
    """A prompt, the text behind it and a line of progress, as HTML that is shown again as it grows."""

    def __init__(self, prompt: str, gap: str, max_tokens: int, show):
        self.prompt, self.gap, self.max_tokens, self.show = prompt, gap, max_tokens, show
        self.text, self.n_tokens = "", 0
        self.start, self.first = time.perf_counter(), None
        self._draw("reading the prompt")

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
        prompt, text = html.escape(self.prompt) + self.gap, html.escape(self.text)
        self.show(
            f'<div style="{BOX}"><span style="{FAINT}">{prompt}</span><b>{text}</b></div>'
            f'<div style="{FAINT};font-size:0.85em;margin-top:0.4em">{html.escape(note)}</div>'
        )
        self.drawn = time.perf_counter()


def playground(models: dict[str, Model]) -> widgets.Widget:
    """Return a panel to try the models: prompt, temperature, top-k, length.

    Models with a chat template answer the prompt; the others continue it. The text is made in a thread
    of its own, so that the Stop button and the other cells go on working.
    """
    model = widgets.ToggleButtons(options=list(models), description="model")
    prompt = widgets.Textarea(
        "It was the opinion of the whole family that", layout=widgets.Layout(width="46em", height="4.5em")
    )
    temperature = widgets.FloatSlider(0.5, min=0, max=2, step=0.05, description="temperature", style=WIDE)
    top_k = widgets.IntSlider(40, min=0, max=200, description="top-k", style=WIDE)
    length = widgets.IntSlider(80, min=1, max=300, description="length", style=WIDE)
    button = widgets.Button(description="Generate", button_style="primary", icon="play")
    stop = widgets.Button(description="Stop", icon="stop", disabled=True)
    page, stopping = widgets.HTML(), threading.Event()

    def show(text):
        page.value = text

    def generate():
        chosen = models[model.value]
        chat = chosen.tokenizer.chat_template is not None
        sampler = Sampler(temperature.value, top_k.value)
        try:
            _speak(chosen, prompt.value, length.value, sampler, chat, show, stopping.is_set)
        except ValueError as error:  # an empty prompt, say
            show(html.escape(str(error)))
        finally:
            button.disabled, stop.disabled = False, True

    def start(_):
        stopping.clear()
        button.disabled, stop.disabled = True, False
        threading.Thread(target=generate, daemon=True).start()

    button.on_click(start)
    stop.on_click(lambda _: stopping.set())
    sliders = widgets.HBox([temperature, top_k, length])
    return widgets.VBox([model, prompt, sliders, widgets.HBox([button, stop]), page])


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
    levels = anatomy.levels(fmt, block, index)[1]
    if len(levels) <= 32:  # more would be one grey slab
        for level in levels:
            axes.axhline(level, color="0.88", lw=0.7, zorder=0)
    axes.plot(moved, "o", color=plot.GREY, label="weights")
    axes.plot(decoded, "x", color=plot.RED, mew=2, label="after " + name)
    axes.plot(index, value, "o", ms=13, mfc="none", mec=plot.BLUE, mew=2, label="the one that you move")
    error = np.sqrt(np.mean((np.delete(decoded, index) - np.delete(moved, index)) ** 2))
    reach = 1.1 * max(4 * float(np.abs(x).max()), abs(value), 1e-6)  # the same view wherever it is moved
    axes.set(xlabel="weight", ylabel="value", ylim=(-reach, reach))
    axes.set_title(f"{name}: the other weights are off by {error:.4f} (RMS)")
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
