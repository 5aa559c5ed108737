"""Arguments and options that several commands take: which checkpoint, which text, how it is written."""

from typing import Annotated

import typer

# The checkpoint
Model = Annotated[str, typer.Argument(help="Folder, name on the Hub, or name of a packaged checkpoint.")]
Adapter = Annotated[str | None, typer.Option(help="PEFT adapter to merge in first.")]
Revision = Annotated[str | None, typer.Option(help="Revision of the checkpoint on the Hub.")]
TrustRemoteCode = Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")]

# The text
Prompt = Annotated[str | None, typer.Argument(help="The prompt; standard input if not given.")]
Infill = Annotated[bool, typer.Option(help="Write the mask tokens in the prompt instead of appending.")]
Chat = Annotated[bool, typer.Option(help="Put the prompt through the tokenizer's chat template.")]
Delimiter = Annotated[str | None, typer.Option(help="Text between reasoning and answer.")]
Suffix = Annotated[str | None, typer.Option(help="Text behind the answer.")]

# The decoder
MaxNewTokens = Annotated[int | None, typer.Option(help="Tokens to write; the checkpoint's own, or 128.")]
BlockLength = Annotated[
    int | None,
    typer.Option(help="Tokens of a block; the model's own if it has blocks, else all at once, if not given."),
]
Decoding = Annotated[
    str | None, typer.Option(help="Commit rule, e.g. low_confidence, confidence_threshold, entropy_bound, med.")
]
Knobs = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other knob of generate as name=value (value in JSON); may be repeated."),
]
