"""The official clients through a gate: `clients.py served URL KEY` must be answered in full, `clients.py cut URL KEY` must be ended by a quota."""

import sys

import anthropic
import openai

WORDS = "One two three four five six seven eight nine."
ASK = {"model": "model-1", "messages": [{"role": "user", "content": "Count."}]}


def clients(url, key):
    return (
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20),
        anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=20),
    )


def check(found, expected):
    if found != expected:
        raise SystemExit(f"{found!r}, not {expected!r}")


def chat(client):
    answer = client.chat.completions.create(**ASK)
    check((answer.choices[0].message.content, answer.usage.completion_tokens), (WORDS, 13))

    chunks = list(client.chat.completions.create(stream=True, **ASK))
    check("".join(chunk.choices[0].delta.content or "" for chunk in chunks), WORDS)
    check([chunk for chunk in chunks if chunk.usage], [])

    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ASK))
    check((chunks[-1].choices, chunks[-1].usage.prompt_tokens), ([], 21))


def responses(client):
    answer = client.responses.create(model="model-1", input="Count.")
    check((answer.output_text, answer.usage.output_tokens), (WORDS, 7))
    events = list(client.responses.create(model="model-1", input="Count.", stream=True))
    check("".join(event.delta for event in events if event.type == "response.output_text.delta"), WORDS)
    check(events[-1].response.usage.input_tokens, 31)


def messages(client):
    answer = client.messages.create(max_tokens=100, **ASK)
    check((answer.content[0].text, answer.usage.output_tokens), (WORDS, 6))
    with client.messages.stream(max_tokens=100, **ASK) as stream:
        check("".join(stream.text_stream), WORDS)
        check(stream.get_final_message().usage.output_tokens, 6)


def served(url, key):
    of_openai, of_anthropic = clients(url, key)
    chat(of_openai)
    responses(of_openai)
    answer = of_openai.embeddings.create(model="model-1", input="Count.", encoding_format="float")
    check(answer.data[0].embedding, [0.25, 0.5])
    messages(of_anthropic)


def cut(url, key):
    """Three of the ten words fit, in each format: thirteen bytes are four tokens."""
    of_openai, of_anthropic = clients(url, key)
    text = ""
    try:
        for chunk in of_openai.chat.completions.create(stream=True, **ASK):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        check((error.code, text), ("quota_exceeded", "One two three"))
    else:
        raise SystemExit("the chat was not ended")

    text = ""
    try:
        for event in of_anthropic.messages.create(stream=True, max_tokens=4, **ASK):
            if event.type == "content_block_delta":
                text += event.delta.text
    except anthropic.APIError as error:
        check((error.body["error"]["type"], text), ("rate_limit_error", "One two three"))
    else:
        raise SystemExit("the message was not ended")


if __name__ == "__main__":
    {"served": served, "cut": cut}[sys.argv[1]](*sys.argv[2:])
    print("done")
