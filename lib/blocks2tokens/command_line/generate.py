"""generate: a text continued, or a question answered.

PROMPT, or stdin --encode, or the chat template--> ids --Answer--> text as it comes, or all in one JSON object
"""

import json
import sys
from collections.abc import Callable

import blocks2tokens as b2t
from blocks2tokens.command_line.answer import Answer, load, sampler, say_if_capped
from blocks2tokens.command_line.arguments import GENERATE_TOKENS
from blocks2tokens.command_line.notice import say
from blocks2tokens.command_line.text_file import read_text, without_mark


def run(args) -> None:
    """Continue a text, or answer it; on stdout there is that text and nothing else, or one JSON object."""
    if args.parallel is None:
        if (args.tokens_file, args.link) != (None, None):
            raise ValueError("--tokens-file and --link go with --parallel")
        write(args, prompt_text(args), lambda model: model)
        return
    if args.json_schema is not None:
        raise ValueError("--json-schema does not go with --parallel")
    from blocks2tokens.command_line import many  # what it needs takes a while to import

    with many.together(args.link) as ranks:
        args.threads = many.threads(args.threads, ranks)
        text = ranks.told(prompt_text(args) if ranks.rank == 0 else None)  # the only one with a stdin
        write(args, text, lambda model: many.spread(model, ranks, args.parallel, args.tokens_file))


def prompt_text(args) -> str:
    """Return the prompt, from a pipe if that is where it is."""
    if args.prompt not in (None, "-"):
        return args.prompt
    return without_mark(sys.stdin.read()).removesuffix("\n")


def write(args, text: str, spread: Callable[[b2t.Model], object]) -> None:
    """Write what follows the text, or answers it, with what `spread` makes of the model."""
    chosen = sampler(args)
    schema = read_text(args.json_schema) if args.json_schema is not None else None
    model = load(args.model, args.threads, args.chat_template, args.cache)
    if schema is not None:
        chosen = b2t.Grammar(model.tokenizer, schema).sampler(chosen)
    chats = args.chat or bool(args.template_variable) or (args.system, args.chat_template) != (None, None)
    ids = prompt_ids(model, text, args) if chats else model.tokenizer.encode(text)
    if not ids:
        raise ValueError("the prompt is empty")
    wanted = args.max_tokens or GENERATE_TOKENS
    answer = Answer(spread(model), ids, wanted, chosen, continues=not chats, stops=args.stop)
    say_if_capped(args.max_tokens, answer.room)
    speak(answer, args)
    if schema is not None and not chosen.complete:
        raise ValueError(f"the JSON is not complete: the answer ended ({answer.ended}) before it did")


def prompt_ids(model: b2t.Model, question: str, args) -> list[int]:
    """Return the ids of a question in the model's chat format, behind a system message if there is one."""
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    messages = [*system, {"role": "user", "content": question}]
    return model.tokenizer.encode_chat(messages, **args.template_variable)


def speak(answer: Answer, args) -> None:
    """Print the answer as it comes or, with --json, all at once; then the statistics, if asked for."""
    try:
        answer.speak(show=not args.json)
    finally:
        print(json.dumps(facts(answer, args.model)) if args.json else "", flush=True)
        if args.stats:
            say(f"{answer.prompt_summary()}; {answer.summary()}")


def facts(answer: Answer, path: str) -> dict[str, object]:
    """Return what --json prints: the keys are those of arguments.GENERATED."""
    return {
        "model": path,
        "text": answer.text,
        "ended": answer.ended or "interrupt",
        "prompt_tokens": len(answer.ids),
        "answer_tokens": answer.tokens,
        "seconds_to_first_token": answer.to_first if answer.tokens else None,
        "tokens_per_second": answer.tokens_per_second,
    }
