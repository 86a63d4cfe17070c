"""What the Python client tests share: where the gateway is, and whether it is idle.

run.sh sets SHOAL_URL, SHOAL_GRPC and SHOAL_OLLAMA of a gateway that is open, and
SHOAL_KEY_URL and SHOAL_KEY_GRPC of one that asks for SHOAL_KEY.
"""

import json
import os
import time
import urllib.request

URL = os.environ["SHOAL_URL"]
GRPC = os.environ["SHOAL_GRPC"]
OLLAMA = os.environ["SHOAL_OLLAMA"]
KEY_URL = os.environ["SHOAL_KEY_URL"]
KEY_GRPC = os.environ["SHOAL_KEY_GRPC"]
KEY = os.environ["SHOAL_KEY"]
MODEL = "tiny"

# An answer with this bias never ends by itself: the id ends the model's turns.
ENDLESS = {"2": -100}
LONG = 900

WORDS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather in a city.", "parameters": WORDS}}


def cluster():
    with urllib.request.urlopen(URL + "/v1/cluster") as reply:
        return json.load(reply)


def await_idle(test, before, most):
    """Waits until no answer runs, and checks that few tokens were made since before."""
    deadline = time.monotonic() + 10
    while cluster()["sessions"]["running"] > 0:
        test.assertLess(time.monotonic(), deadline, "an answer still runs")
        time.sleep(0.02)
    made = cluster()["totals"]["generatedTokens"] - before
    test.assertLess(made, most, "the answer ran on after its client had left")
