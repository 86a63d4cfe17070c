"""The openai package for Python against a running gateway."""

import base64
import json
import struct
import unittest

import openai

import target

ASK = {"model": target.MODEL, "messages": [{"role": "user", "content": "Hello!"}]}


class OpenAI(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=target.URL + "/v1", api_key="unused", max_retries=0)
        self.addCleanup(self.client.close)

    def test_chat(self):
        answer = self.client.chat.completions.create(**ASK, temperature=0, max_tokens=20, n=2, seed=7)
        self.assertEqual([c.index for c in answer.choices], [0, 1])
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertTrue(answer.choices[0].message.content)
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens, 0)
        self.assertTrue(answer.system_fingerprint.startswith("fp-"))

    def test_stream_is_the_whole(self):
        whole = self.client.chat.completions.create(**ASK, temperature=0, max_tokens=20)
        text, usage, reason = "", None, None
        with self.client.chat.completions.create(**ASK, temperature=0, max_tokens=20, stream=True, stream_options={"include_usage": True}) as stream:
            for chunk in stream:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    reason = choice.finish_reason or reason
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(reason, whole.choices[0].finish_reason)
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)

    def test_seed_and_stop(self):
        ask = {**ASK, "temperature": 1.0, "max_tokens": 20, "seed": 11}
        texts = {self.client.chat.completions.create(**ask).choices[0].message.content for _ in range(3)}
        self.assertEqual(len(texts), 1)
        text = texts.pop()
        cut = self.client.chat.completions.create(**ask, stop=[text[3:5]]).choices[0]
        self.assertEqual(cut.message.content, text[: text.index(text[3:5])])
        self.assertEqual(cut.finish_reason, "stop")

    def test_abort(self):
        before = target.cluster()["totals"]["generatedTokens"]
        with self.client.chat.completions.create(**ASK, stream=True, max_tokens=target.LONG, logit_bias=target.ENDLESS) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        target.await_idle(self, before, target.LONG // 2)

    def test_logprobs(self):
        choice = self.client.chat.completions.create(**ASK, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3).choices[0]
        for token in choice.logprobs.content:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].logprob, token.logprob)
            self.assertEqual(bytes(token.bytes).decode(), token.token)

    def test_completions(self):
        done = self.client.completions.create(model=target.MODEL, prompt=["The sea", "A fish"], max_tokens=5, temperature=0, logprobs=2)
        self.assertEqual(len(done.choices), 2)
        for choice in done.choices:
            self.assertEqual("".join(choice.logprobs.tokens), choice.text)
            self.assertEqual(choice.logprobs.text_offset[0], 0)
        text = "".join(c.choices[0].text for c in self.client.completions.create(model=target.MODEL, prompt="The sea", max_tokens=5, temperature=0, stream=True))
        self.assertEqual(text, done.choices[0].text)
        by_ids = self.client.completions.create(model=target.MODEL, prompt=[1, 451, 266], max_tokens=3, seed=1)
        self.assertEqual(by_ids.usage.prompt_tokens, 3)

    def test_embeddings(self):
        as_floats = self.client.embeddings.create(model=target.MODEL, input=["Hello", "A fish", "Hello"], encoding_format="float")
        vectors = [d.embedding for d in as_floats.data]
        self.assertEqual(vectors[0], vectors[2])
        self.assertNotEqual(vectors[0], vectors[1])
        self.assertAlmostEqual(sum(x * x for x in vectors[0]), 1, places=5)
        packed = self.client.embeddings.create(model=target.MODEL, input="Hello")  # asks for base64
        for a, b in zip(packed.data[0].embedding, vectors[0], strict=True):
            self.assertAlmostEqual(a, b, places=6)
        raw = self.client.embeddings.with_raw_response.create(model=target.MODEL, input="Hello", encoding_format="base64")
        text = json.loads(raw.text)["data"][0]["embedding"]
        self.assertEqual(len(struct.unpack("<%df" % len(vectors[0]), base64.b64decode(text))), len(vectors[0]))

    def test_models(self):
        names = [m.id for m in self.client.models.list()]
        self.assertIn(target.MODEL, names)
        self.assertEqual(self.client.models.retrieve(target.MODEL).id, target.MODEL)

    def test_errors(self):
        create = self.client.chat.completions.create
        with self.assertRaises(openai.NotFoundError) as caught:
            create(**{**ASK, "model": "no-such-model"})
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(**ASK, temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(**ASK, extra_body={"no_such_option": 1})
        self.assertEqual(caught.exception.param, "no_such_option")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=target.MODEL, messages=[{"role": "user", "content": "word " * 5000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_key(self):
        with openai.OpenAI(base_url=target.KEY_URL + "/v1", api_key="wrong", max_retries=0) as wrong:
            with self.assertRaises(openai.AuthenticationError):
                wrong.models.list()
        with openai.OpenAI(base_url=target.KEY_URL + "/v1", api_key=target.KEY) as right:
            self.assertTrue(right.chat.completions.create(**ASK, max_tokens=2).choices)

    def test_tools(self):
        choice = self.client.chat.completions.create(**ASK, tools=[target.TOOL], tool_choice="required", max_tokens=200).choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        call = choice.message.tool_calls[0]
        self.assertEqual(call.function.name, "weather")
        self.assertIn("city", json.loads(call.function.arguments))

    def test_schema(self):
        form = {"type": "json_schema", "json_schema": {"name": "place", "schema": target.WORDS, "strict": True}}
        choice = self.client.chat.completions.create(**ASK, response_format=form, max_tokens=200).choices[0]
        self.assertEqual(choice.finish_reason, "stop")
        self.assertEqual(list(json.loads(choice.message.content)), ["city"])


if __name__ == "__main__":
    unittest.main()
