"""The ollama package for Python against a running gateway."""

import json
import unittest

import ollama

import target

MESSAGES = [{"role": "user", "content": "Hello!"}]
GREEDY = {"temperature": 0, "num_predict": 10}


class Ollama(unittest.TestCase):
    def setUp(self):
        self.client = ollama.Client(host=target.OLLAMA)

    def test_chat(self):
        whole = self.client.chat(model=target.MODEL, messages=MESSAGES, options=GREEDY)
        self.assertTrue(whole.done)
        self.assertEqual(whole.message.role, "assistant")
        self.assertGreater(whole.eval_count, 0)
        self.assertGreater(whole.total_duration, 0)
        parts = list(self.client.chat(model=target.MODEL + ":latest", messages=MESSAGES, options=GREEDY, stream=True, keep_alive="1m"))
        self.assertEqual("".join(p.message.content for p in parts), whole.message.content)
        self.assertEqual([p.done for p in parts], [False] * (len(parts) - 1) + [True])

    def test_generate(self):
        whole = self.client.generate(model=target.MODEL, prompt="Hello!", options=GREEDY)
        parts = list(self.client.generate(model=target.MODEL, prompt="Hello!", options=GREEDY, stream=True))
        self.assertEqual("".join(p.response for p in parts), whole.response)
        self.assertIn(parts[-1].done_reason, ("stop", "length"))
        raw = self.client.generate(model=target.MODEL, prompt="The sea", raw=True, options=GREEDY)
        self.assertNotEqual(raw.response, whole.response)

    def test_abort(self):
        before = target.cluster()["totals"]["generatedTokens"]
        stream = self.client.generate(model=target.MODEL, prompt="Write a very long story.", stream=True, options={"num_predict": target.LONG, "temperature": 2, "repeat_penalty": 2})
        next(stream)
        stream.close()
        target.await_idle(self, before, target.LONG // 2)

    def test_embed(self):
        reply = self.client.embed(model=target.MODEL, input=["Hello", "A fish"])
        self.assertEqual(len(reply.embeddings), 2)
        self.assertAlmostEqual(sum(x * x for x in reply.embeddings[0]), 1, places=5)

    def test_models(self):
        self.assertIn("tiny:latest", [m.model for m in self.client.list().models])
        self.assertIn("tiny:latest", [m.model for m in self.client.ps().models])
        self.assertEqual(self.client.show(target.MODEL).details.family, "llama")
        self.assertEqual([p.status for p in self.client.pull(target.MODEL, stream=True)][-1], "success")

    def test_tools(self):
        call = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
        turns = [*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "tool_name": "weather", "content": "Cold."}]
        answer = self.client.chat(model=target.MODEL, messages=turns, tools=[target.TOOL], options=GREEDY)
        self.assertTrue(answer.done)

    def test_schema(self):
        answer = self.client.chat(model=target.MODEL, messages=MESSAGES, format=target.WORDS, options={"num_predict": 200})
        self.assertEqual(list(json.loads(answer.message.content)), ["city"])

    def test_errors(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.chat(model="no-such-model", messages=MESSAGES)
        self.assertEqual(caught.exception.status_code, 404)
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.chat(model=target.MODEL, messages=MESSAGES, options={"num_gpu": 1})
        self.assertEqual(caught.exception.status_code, 400)
        self.assertIn("num_gpu", caught.exception.error)
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.pull("no-such-model")
        self.assertEqual(caught.exception.status_code, 404)


if __name__ == "__main__":
    unittest.main()
