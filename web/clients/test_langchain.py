"""langchain-openai against a running gateway."""

import unittest

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

import target


def chat(**more):
    return ChatOpenAI(**{"base_url": target.URL + "/v1", "api_key": "unused", "model": target.MODEL, "temperature": 0, "max_retries": 0, **more})


class LangChain(unittest.TestCase):
    def test_invoke(self):
        answer = chat(max_tokens=20).invoke("Hello!")
        self.assertTrue(answer.content)
        self.assertGreater(answer.usage_metadata["output_tokens"], 0)
        self.assertIn(answer.response_metadata["finish_reason"], ("stop", "length"))

    def test_stream(self):
        whole = chat(max_tokens=20).invoke("Hello!").content
        self.assertEqual("".join(part.content for part in chat(max_tokens=20).stream("Hello!")), whole)

    def test_abort(self):
        before = target.cluster()["totals"]["generatedTokens"]
        stream = chat(max_tokens=target.LONG, logit_bias={2: -100}).stream("Hello!")
        for part in stream:
            if part.content:
                break
        stream.close()
        target.await_idle(self, before, target.LONG // 2)

    def test_logprobs(self):
        answer = chat(max_tokens=3, logprobs=True, top_logprobs=2).invoke("Hello!")
        self.assertEqual(len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]), 2)

    def test_embeddings(self):
        embed = OpenAIEmbeddings(base_url=target.URL + "/v1", api_key="unused", model=target.MODEL, check_embedding_ctx_length=False)
        vectors = embed.embed_documents(["Hello", "A fish"])
        self.assertEqual(len(vectors), 2)
        self.assertAlmostEqual(sum(x * x for x in vectors[0]), 1, places=5)

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError):
            chat(model="no-such-model").invoke("Hello!")
        with self.assertRaises(openai.BadRequestError):
            chat(temperature=-1).invoke("Hello!")
        with self.assertRaises(openai.AuthenticationError):
            chat(base_url=target.KEY_URL + "/v1", api_key="wrong").invoke("Hello!")

    def test_tools(self):
        answer = chat(max_tokens=200).bind_tools([target.TOOL], tool_choice="weather").invoke("Hello!")
        self.assertEqual(answer.tool_calls[0]["name"], "weather")

    def test_schema(self):
        answer = chat(max_tokens=200).with_structured_output({"title": "place", **target.WORDS}, method="json_schema").invoke("Hello!")
        self.assertEqual(list(answer), ["city"])


if __name__ == "__main__":
    unittest.main()
