"""The page itself: gradio's components, and which event belongs to which."""

import os
from collections.abc import Iterator
from importlib import resources
from typing import Any

from hf_latent.app.drawing import draw_replay
from hf_latent.app.events import Events, Screen, describe_threshold
from hf_latent.app.form import FIELDS, MODES, OWN_RULE
from hf_latent.app.settings import AppSettings
from hf_latent.generation.commit.rules import RULES

# Read by gradio when it is imported: it reports to its makers and fetches fonts otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    import gradio as gr
except ImportError as error:
    raise ValueError("the page needs gradio, which is not installed: pip install 'hf-latent[app]'.") from error

HINTS = {
    "append": "The model writes behind this text.",
    "infill": "[[5]] in this text is a blank of five tokens; the model writes the blanks in place.",
    "reason": "So many tokens of reasoning, the delimiter, so many of answer; exit once the answer's entropy is low.",
}
FILLED = ("prompt", "mode", "max_new_tokens", "reasoning_length", "answer_length", "delimiter", "early_exit_threshold")
HEADER = """
<div class="hl-title"><h1>hf-latent</h1>
<p>Watch a masked diffusion language model write: all positions at once, in the order it is sure of them.</p></div>
"""
LEGEND = """
<div class="hl-legend" aria-label="Legend">
<span><span class="hl-token" data-state="given">a</span>given</span>
<span><span class="hl-token" data-state="open" style="--c:.6">a</span>open, candidate</span>
<span><span class="hl-token" data-state="now" style="--c:.9;--o:1">a</span>written now</span>
<span class="hl-by-order">written first <i class="hl-ramp hl-ramp-order"></i> last</span>
<span>confidence 0 <i class="hl-ramp hl-ramp-confidence"></i> 1</span>
</div>
"""
COLOURS = {"Colour by order of writing": "order", "by confidence": "confidence"}
RECOLOUR = '(value) => { document.getElementById("hl-results").dataset.colour = value; }'
SHOW_RESULTS = """() => {
  if (innerWidth < 800) document.getElementById("hl-results").scrollIntoView({ behavior: "smooth" });
}"""


def serve(settings: AppSettings, **options: Any) -> Any:
    """Build the page and launch it with `options` of `Blocks.launch`."""
    page = build_page(settings)
    return page.queue(default_concurrency_limit=1, max_size=32).launch(**(launch_options() | options))


def launch_options() -> dict[str, Any]:
    """Arguments of `Blocks.launch` that make the page look as it should, and ask nobody but its own server."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "Menlo", "Consolas", "monospace")
    return {
        "theme": gr.themes.Base(
            primary_hue="blue", neutral_hue="slate", spacing_size="sm", text_size="sm", font=sans, font_mono=mono
        ),
        "css": resources.files("hf_latent.app").joinpath("page.css").read_text(encoding="utf-8"),
        "ssr_mode": False,
        "footer_links": [],
        "run_history": False,
    }


def build_page(settings: AppSettings) -> gr.Blocks:
    """The page for `settings`, not yet launched."""
    events = Events(settings)
    with gr.Blocks(
        title="hf-latent", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600), elem_id="hl-page"
    ) as page:
        gr.HTML(HEADER, padding=False)
        with gr.Row(elem_id="hl-columns"):
            # In the order in which they are read on a narrow screen: the text and its button, what comes of it, knobs.
            with gr.Column(scale=0, min_width=330, elem_id="hl-form"):
                fields = build_form(settings, events)
            with gr.Column(scale=1, min_width=320, elem_id="hl-results"):
                results = build_results(events, settings)
            with gr.Column(scale=0, min_width=330, elem_id="hl-settings"):
                build_settings(settings, events, fields)
        connect(events, fields, results)
    return page


def build_form(settings: AppSettings, events: Events) -> dict[str, Any]:
    """The checkpoint, the text and the buttons, by the name of their field."""
    first, example, mode = opening(settings, events)
    words = events.words(first)
    fields: dict[str, Any] = {"example": gr.State(1)}
    fields["model"] = gr.Dropdown(
        settings.choices,
        value=first or None,
        label="checkpoint",
        info=None if settings.public else "or type a folder or a name on the Hub",
        allow_custom_value=not settings.public,
        elem_id="hl-model",
    )
    fields["prompt"] = gr.Textbox(
        "" if example is None else example.prompt,
        label=words.prompt,
        lines=4,
        max_lines=14,
        elem_id="hl-prompt",
        info=words.hint or HINTS[mode],
    )
    with gr.Row(elem_id="hl-buttons"):
        fields["generate"] = gr.Button(
            words.run, variant="primary", size="md", elem_id="hl-generate", min_width=100, scale=2
        )
        fields["stop"] = gr.Button("Stop", size="md", elem_id="hl-stop", min_width=60, scale=1)
        fields["puzzle"] = gr.Button(
            words.another, size="md", visible=example is not None, elem_id="hl-puzzle", min_width=110, scale=2
        )
    return fields


def opening(settings: AppSettings, events: Events) -> tuple[str, Any, str]:
    """The checkpoint that the page opens with, its example and its mode."""
    first = settings.choices[0] if settings.choices else ""
    example = events.fill_example(first, 1)
    return first, example, "append" if example is None else example.mode


def build_settings(settings: AppSettings, events: Events, fields: dict[str, Any]) -> None:
    """What is done with the text, with which decoders, and the knobs; the page works without a look at them."""
    first, example, mode = opening(settings, events)
    values = {} if example is None else example.fields
    with gr.Group():
        fields["mode"] = gr.Radio([(label, key) for key, label in MODES.items()], value=mode, show_label=False)
        with gr.Row(visible=mode == "reason") as fields["template_row"]:
            for name, label in (("reasoning_length", "reasoning, tokens"), ("answer_length", "answer, tokens")):
                fields[name] = gr.Textbox(values.get(name, ""), label=label, min_width=90)
            fields["early_exit_threshold"] = gr.Textbox(
                values.get("early_exit_threshold", ""), label="exit below, nats", placeholder="never", min_width=90
            )
            fields["delimiter"] = gr.Textbox(values.get("delimiter", "\nThe answer is "), label="delimiter", lines=2)
    with gr.Group():
        build_decoder(fields, "a", first, OWN_RULE)
        fields["compare"] = gr.Checkbox(True, label="compare with a second decoder", elem_id="hl-compare")
        with gr.Column(visible=True) as fields["second"]:
            build_decoder(fields, "b", first, "low_confidence")
    build_knobs(settings, fields, values)


def build_decoder(fields: dict[str, Any], side: str, model: str, rule: str) -> None:
    """Rule and threshold of one decoder."""
    label, placeholder, there = describe_threshold(model, rule)
    with gr.Row():
        fields[f"rule_{side}"] = gr.Dropdown(
            [OWN_RULE, *RULES],
            value=rule,
            label=f"decoder {side.upper()}",
            scale=3,
            min_width=100,
            elem_id=f"hl-rule-{side}",
        )
        fields[f"threshold_{side}"] = gr.Textbox(
            label=label,
            placeholder=placeholder,
            interactive=there,
            scale=2,
            min_width=100,
            elem_id=f"hl-threshold-{side}",
        )


def build_knobs(settings: AppSettings, fields: dict[str, Any], values: dict[str, str]) -> None:
    """The knobs that most visitors leave alone."""
    with gr.Accordion("Knobs", open=False, elem_id="hl-knobs"):
        with gr.Row():
            for name, label, value, placeholder in (
                ("max_new_tokens", "text to write, tokens", values.get("max_new_tokens", ""), "the checkpoint's"),
                ("block_length", "block, tokens", "", "all at once"),
                ("max_denoising_steps", "most forwards, number", "", "no limit"),
                ("temperature", "temperature", "", "0"),
                ("seed", "seed", "0", "another each time"),
            ):
                fields[name] = gr.Textbox(
                    value, label=label, placeholder=placeholder, min_width=110, elem_id=f"hl-{name.replace('_', '-')}"
                )
            fields["pause"] = gr.Slider(
                0, 2, 0.15, step=0.05, label="pause after a forward, seconds", min_width=200, elem_id="hl-pause"
            )
        for side in "ab":
            fields[f"more_{side}"] = gr.Textbox(
                label=f"further knobs of decoder {side.upper()}",
                lines=1,
                max_lines=6,
                placeholder="name=value, one a line, e.g. block_cache=dual",
                elem_id=f"hl-more-{side}",
            )
        fields["chat"] = gr.Checkbox(False, label="put the prompt through the chat template")
    with gr.Accordion("Loading", open=False, visible=not settings.public, elem_id="hl-loading"):
        fields["revision"] = gr.Textbox(label="revision on the Hub", placeholder="the newest")
        fields["trust_remote_code"] = gr.Checkbox(
            settings.trust_remote_code and not settings.public,
            label="run code that comes with the checkpoint",
            info="Only for checkpoints whose authors you trust: the code may do anything on this machine.",
        )


def build_results(events: Events, settings: AppSettings) -> dict[str, Any]:
    """Where a run is shown."""
    waiting = dict(zip("ab", events.waiting_panels(opening(settings, events)[0], 1), strict=True))
    results: dict[str, Any] = {"message": gr.HTML(padding=False, elem_id="hl-message")}
    with gr.Row(elem_id="hl-toolbar"):
        results["colour"] = gr.Radio(
            list(COLOURS.items()), value="order", show_label=False, container=False, min_width=260, elem_id="hl-colour"
        )
        gr.HTML(LEGEND, padding=False)
    with gr.Row(equal_height=False, elem_id="hl-panels"):
        for side in "ab":
            results[f"panel_{side}"] = gr.HTML(waiting[side], padding=False, min_width=300, elem_id=f"hl-panel-{side}")
    with gr.Accordion("Replay, forward by forward", open=False, visible=False) as results["box"]:
        results["replay"] = gr.HTML(padding=False, elem_id="hl-replay")
        results["download"] = gr.DownloadButton("Download this page", size="sm")
    return results


def connect(events: Events, fields: dict[str, Any], results: dict[str, Any]) -> None:
    """Say what happens when."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [results[name] for name in ("message", "panel_a", "panel_b", "box", "replay", "download")]

    def run(*values: Any) -> Iterator[list[Any]]:
        form = dict(zip(FIELDS, values, strict=True))
        for screen in events.run(form):
            yield updates(screen)

    def fill(name: str, number: int) -> list[Any]:
        example, words = events.fill_example(name, number), events.words(name)
        there = [words.run, gr.update(value=words.another, visible=example is not None)]
        there += events.waiting_panels(name, number)
        if example is None:
            return [
                gr.update(label=words.prompt, info=HINTS["append"]),
                *(gr.skip() for _ in FILLED[1:]),
                None,
                *there,
            ]
        values = {"mode": example.mode, **example.fields}
        hint = words.hint or HINTS[example.mode]
        new = [gr.update(value=example.prompt, label=words.prompt, info=hint)]
        new += [gr.update(value=values[name]) if name in values else gr.skip() for name in FILLED[1:]]
        return [*new, number, *there]

    def describe(name: str, rule: str) -> Any:
        label, placeholder, there = describe_threshold(name, rule)
        return gr.update(label=label, placeholder=placeholder, interactive=there, value="")

    def change_mode(mode: str, name: str) -> list[Any]:
        hint = events.words(name).hint if mode == "append" else ""
        return [
            gr.update(info=hint or HINTS[mode]),
            gr.update(visible=mode == "reason"),
            gr.update(visible=mode == "append"),
        ]

    asked = [fields["generate"].click, fields["prompt"].submit]
    running = gr.on(asked, run, [fields[name] for name in FIELDS], shown, concurrency_limit=1, **quiet)
    fields["generate"].click(None, js=SHOW_RESULTS, **quiet)
    fields["stop"].click(None, cancels=[running], **quiet)
    filled = [*(fields[name] for name in FILLED), fields["example"], fields["generate"], fields["puzzle"]]
    filled += [results["panel_a"], results["panel_b"]]
    fields["puzzle"].click(
        lambda name, number: fill(name, (number or 0) + 1), [fields["model"], fields["example"]], filled, **quiet
    )
    fields["model"].change(lambda name: fill(name, 1), fields["model"], filled, **quiet)
    for side in "ab":
        inputs, threshold = [fields["model"], fields[f"rule_{side}"]], fields[f"threshold_{side}"]
        gr.on([fields["model"].change, fields[f"rule_{side}"].change], describe, inputs, threshold, **quiet)
    changed = [fields[name] for name in ("prompt", "template_row", "max_new_tokens")]
    fields["mode"].change(change_mode, [fields["mode"], fields["model"]], changed, **quiet)
    hidden = [fields["second"], fields["more_b"], results["panel_b"]]
    fields["compare"].change(lambda on: [gr.update(visible=on)] * 3, fields["compare"], hidden, **quiet)
    results["colour"].change(None, results["colour"], js=RECOLOUR, **quiet)


def updates(screen: Screen) -> list[Any]:
    """What changes on the page for a new screen; what it does not say stays."""
    panels = [screen.panels[i] if i < len(screen.panels) else gr.skip() for i in range(2)]
    if screen.replay is None:
        return [screen.message, *panels, gr.update(visible=False), gr.skip(), gr.skip()]
    page = draw_replay(screen.replay.read_text(encoding="utf-8"))
    return [screen.message, *panels, gr.update(visible=True), page, str(screen.replay)]


__all__ = ["build_page", "launch_options", "serve"]
