"""A server that speaks like OpenAI and like Anthropic, with answers that never change. Prints its address, and serves until it is ended."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ["One", " two", " three", " four", " five", " six", " seven", " eight", " nine", "."]


def chat(asked):
    base = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": "model-1"}
    usage = {
        "prompt_tokens": 21,
        "completion_tokens": 13,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "".join(WORDS)}
        return base | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    base["object"] = "chat.completion.chunk"
    events = [base | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in WORDS]
    events.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        events = [event | {"usage": None} for event in events] + [base | {"choices": [], "usage": usage}]
    return [(None, event) for event in events] + [(None, "[DONE]")]


def responses(asked):
    text = "".join(WORDS)
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    whole = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "model-1",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 31,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 38,
        },
    }
    if not asked.get("stream"):
        return whole
    events = [{"type": "response.created", "response": whole | {"status": "in_progress", "output": [], "usage": None}}]
    for word in WORDS:
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        events.append({"type": "response.output_text.delta", "delta": word, "logprobs": [], **place})
    events.append({"type": "response.completed", "response": whole})
    return [(event["type"], event | {"sequence_number": at}) for at, event in enumerate(events)]


def embeddings(asked):
    data = [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}]
    return {"object": "list", "model": "model-1", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def messages(asked):
    text = {"type": "text", "text": "".join(WORDS)}
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 4,
        "output_tokens": 6,
    }
    whole = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "model-1",
        "content": [text],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    if not asked.get("stream"):
        return whole
    begun = whole | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    events = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        # Cumulative: the second takes the place of the first.
        {"type": "message_delta", "delta": {"stop_reason": None, "stop_sequence": None}, "usage": {"output_tokens": 4}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 6}},
        {"type": "message_stop"},
    ]
    return [(event["type"], event) for event in events]


ANSWERS = {
    "/v1/chat/completions": chat,
    "/v1/responses": responses,
    "/v1/embeddings": embeddings,
    "/v1/messages": messages,
}


class Models(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["accept-encoding"] != "identity":
            self.send_error(400, "the answer would be compressed")
            return
        answer = ANSWERS[self.path](asked)
        self.send_response(200)
        if isinstance(answer, list):
            try:
                self.stream(answer)
            except (BrokenPipeError, ConnectionResetError):
                # The gate has ended the stream.
                self.close_connection = True
        else:
            body = json.dumps(answer).encode()
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def stream(self, events):
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for name, data in events:
            text = data if isinstance(data, str) else json.dumps(data)
            event = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
            # Frames end where they like.
            for part in (event[:9], event[9:]):
                self.wfile.write(f"{len(part):x}\r\n{part}\r\n".encode())
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
